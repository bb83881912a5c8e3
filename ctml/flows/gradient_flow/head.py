r"""One function for the adaptation of a linear head by its gradient flow, and for all its meta-gradients.

dW/dt = -dL(W; Phi, Y)/dW,    W(0) = W_0,    returns W(T)
"""

from typing import Protocol, cast, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.adjoint import Adjoint
from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Adaptive, MetaGradient
from ctml.flows.gradient_flow.losses import CrossEntropy, InnerLoss, Labels


@runtime_checkable
class Solver(Protocol):
    """How the flow is followed to its horizon."""

    def check(self, loss: InnerLoss, gradient: MetaGradient) -> None:
        """Raise ValueError unless this solver fits the loss and the gradient."""
        ...

    def adapt(self, flow: HeadFlow, gradient: MetaGradient) -> Float[Tensor, "tasks ways d"]:
        """Return W(T), differentiable by the given method."""
        ...


def adapt_head(
    features: Float[Tensor, "tasks support d"],
    labels: Labels,
    head: Float[Tensor, "ways d"] | Float[Tensor, "tasks ways d"],
    horizon: Float[Tensor, ""] | Float[Tensor, " #tasks"],
    *,
    loss: InnerLoss = CrossEntropy(),  # noqa: B008 - frozen
    weights: Float[Tensor, "tasks support"] | None = None,
    solver: Solver = Adaptive(),  # noqa: B008 - frozen
    gradient: MetaGradient = Adjoint(),  # noqa: B008 - frozen
) -> Float[Tensor, "tasks ways d"]:
    """Run the gradient flow of a linear head from `head` for time `horizon`; differentiable.

    dW/dt = -sum_m w_m (p_m - y_m) phi_m^T,  p_m = softmax(W phi_m)      (squared error: p_m = W phi_m)

    Args:
        features: Phi, embeddings of the support sets.
        labels: class labels, or soft targets / regression targets `(tasks, support, ways)`.
        head: W_0, shared by all tasks or one per task.
        horizon: T >= 0, one for all tasks or one per task.
        loss: `CrossEntropy(smoothing)`, or `SquaredError()` for half the squared error.
        weights: w_m of each example; default 1/support each (the mean loss). Zero leaves an example out.
        solver: `Adaptive(rtol, atol)`, `FixedSteps(steps, tableau)`, or `ClosedForm()` for the squared error.
        gradient: how meta-gradients are computed, in Phi, W_0, T, and where not said otherwise in w and real labels:
            `Adjoint(checkpoints)` exact discrete adjoint of the steps taken (default);
            `ForwardMode()` the paper's sensitivities B and z, constant memory, none in `weights` and `labels`;
            `Unrolled()` plain autograd through the same steps, the reference;
            `BackwardFlow()` the textbook adjoint that recomputes the path backwards; unstable, to be looked at; none in
            `labels`.

    Raises:
        TypeError: if an option is no such object.
        ValueError: if shapes do not fit, T is negative or not finite, a label is out of range, features or head are
            not finite, or options do not fit together.
        RuntimeError: if adaptive steps give up.

    Source: Deleu et al. 2022, section 3; equations 10-13 (meta-gradients), section 3.3 (Euler is ANIL).
    """
    check_options(loss, solver, gradient)
    return solver.adapt(HeadFlow.of(features, labels, head, horizon, weights, loss), gradient)


def check_options(loss: object, solver: object, gradient: object) -> None:
    """Raise TypeError or ValueError unless the options of a flow are such, and fit together."""
    for name, option, kind, known in (
        ("loss", loss, InnerLoss, "CrossEntropy(), SquaredError()"),
        ("solver", solver, Solver, "Adaptive(), FixedSteps(steps), ClosedForm()"),
        ("gradient", gradient, MetaGradient, "Adjoint(), ForwardMode(), Unrolled(), BackwardFlow()"),
    ):
        if isinstance(option, type) or not isinstance(option, kind):
            raise TypeError(f"{name}={option!r}: must be one of {known}; see ctml.flows.gradient_flow")
    cast(Solver, solver).check(cast(InnerLoss, loss), cast(MetaGradient, gradient))
