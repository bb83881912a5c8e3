r"""One function for the adaptation of a linear head by its gradient flow, and for all its meta-gradients.

dW/dt = -dL(W; Phi, Y)/dW,    W(0) = W_0,    returns W(T)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ctml.flows.gradient_flow.forward import ForwardMode
from ctml.flows.gradient_flow.integrate import Adaptive, Solver
from ctml.flows.gradient_flow.links import LINKS
from ctml.flows.gradient_flow.reduced import ReducedFlow
from ctml.flows.gradient_flow.reverse import ReverseMode
from ctml.flows.gradient_flow.squared import exact_flow
from ctml.flows.gradient_flow.unrolled import unrolled


@dataclass(frozen=True)
class ClosedForm:
    """No steps at all: the squared loss has its flow in closed form."""


METHODS = ("adjoint", "forward", "unrolled", "backward_flow")


def adapt_head(
    features: Float[Tensor, "tasks support d"],
    labels: Int[Tensor, "tasks support"] | Float[Tensor, "tasks support ways"],
    head: Float[Tensor, "ways d"] | Float[Tensor, "tasks ways d"],
    horizon: Float[Tensor, ""] | Float[Tensor, " #tasks"],
    *,
    loss: str = "cross_entropy",
    smoothing: float = 0.0,
    weights: Float[Tensor, "tasks support"] | None = None,
    solver: Solver | ClosedForm = Adaptive(),  # noqa: B008 - frozen
    method: str = "adjoint",
    checkpoints: bool = False,
) -> Float[Tensor, "tasks ways d"]:
    """Run the gradient flow of a linear head from `head` for time `horizon`; differentiable.

    dW/dt = -sum_m w_m (p_m - y_m) phi_m^T,  p_m = softmax(W phi_m)      (squared loss: p_m = W phi_m)

    Args:
        features: Phi, embeddings of the support sets.
        labels: class labels, or soft targets / regression targets `(tasks, support, ways)`.
        head: W_0, shared by all tasks or one per task.
        horizon: T >= 0, one for all tasks or one per task.
        loss: "cross_entropy", or "squared" for half the squared error.
        smoothing: share of each label that is spread evenly over the ways, in [0, 1).
        weights: w_m of each example; default 1/support each (the mean loss). Zero leaves an example out.
        solver: `Adaptive(rtol, atol)`, `FixedSteps(steps, tableau)`, or `ClosedForm()` for the squared loss.
        method: how meta-gradients are computed:
            "adjoint" exact discrete adjoint of the steps taken (default);
            "forward" the paper's sensitivities B and z, constant memory, no derivative in `weights`;
            "unrolled" plain autograd through the same steps, the reference;
            "backward_flow" the textbook adjoint that recomputes the path backwards; unstable, to be looked at.
        checkpoints: for "adjoint": keep about the square root of the states, run the rest again.

    Raises:
        ValueError: if shapes do not fit, T is negative or not finite, a label is out of range, features or head are
            not finite, or an option does not exist.
        RuntimeError: if adaptive steps give up.

    Source: Deleu et al. 2022, section 3; equations 10-13 (meta-gradients), section 3.3 (Euler is ANIL).
    """
    if loss not in LINKS:
        raise ValueError(f"loss={loss!r}: must be one of {', '.join(LINKS)}")
    if method not in METHODS:
        raise ValueError(f"method={method!r}: must be one of {', '.join(METHODS)}")
    if isinstance(solver, ClosedForm) and loss != "squared":
        raise ValueError(f"solver=ClosedForm() with loss={loss!r}: only loss='squared' has a closed form")
    _check_shapes(features, labels, head, horizon, weights)
    targets = _targets(labels, features, head, smoothing)
    _check_values(features, head, horizon)
    if weights is None:
        weights = features.new_full(features.shape[:2], 1 / features.shape[1])
    elif (weights < 0).any():
        raise ValueError(f"weights={float(weights.min()):.3g}: must not be negative, or the flow climbs")
    horizon = horizon.to(features.dtype).expand(len(features))
    head = head.expand(len(features), *head.shape[-2:])

    if isinstance(solver, ClosedForm):
        return head - exact_flow(features, targets, head, horizon, weights).mT @ features
    if method == "forward":
        if weights.requires_grad:
            raise ValueError("weights require a gradient: method='forward' has none for them; use method='adjoint'")
        return ForwardMode.apply(features, targets, head, horizon, weights, LINKS[loss], solver)
    if method == "unrolled":
        with torch.no_grad():
            sizes = ReducedFlow.of_head(features, targets, head, horizon, weights, LINKS[loss]).solve(solver).sizes
        s = unrolled(features, targets, head, horizon, weights, loss, sizes, solver.tableau)
        return head - s.mT @ features
    record = "none" if method == "backward_flow" else "sqrt" if checkpoints else "all"
    return ReverseMode.apply(features, targets, head, horizon, weights, LINKS[loss], solver, record)


def _check_shapes(features: Tensor, labels: Tensor, head: Tensor, horizon: Tensor, weights: Tensor | None) -> None:
    if features.dim() != 3:
        raise ValueError(f"features has shape {tuple(features.shape)}: must be (tasks, support, d)")
    n_tasks, support, d = features.shape
    if head.shape[-1] != d or head.dim() not in (2, 3) or (head.dim() == 3 and len(head) != n_tasks):
        raise ValueError(f"head has shape {tuple(head.shape)}: must be (ways, {d}) or ({n_tasks}, ways, {d})")
    if labels.shape not in ((n_tasks, support), (n_tasks, support, head.shape[-2])):
        soft = (n_tasks, support, head.shape[-2])
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}: must be {soft[:2]}, or {soft} for soft or real targets"
        )
    if horizon.shape not in ((), (1,), (n_tasks,)):
        raise ValueError(f"horizon has shape {tuple(horizon.shape)}: must be a scalar or one per task, ({n_tasks},)")
    if weights is not None and weights.shape != (n_tasks, support):
        raise ValueError(f"weights has shape {tuple(weights.shape)}: must be {(n_tasks, support)}, one per example")


def _check_values(features: Tensor, head: Tensor, horizon: Tensor) -> None:
    if (horizon < 0).any():
        raise ValueError(f"horizon={float(horizon.min()):.3g}: must be at least 0; learn it as exp(log T)")
    # A sum is finite only if all its terms are; it reads the array once and stores nothing.
    for name, value in (("features", features), ("head", head), ("horizon", horizon)):
        if not torch.isfinite(value.detach().sum()):
            raise ValueError(f"{name} holds NaN or infinity: look at the model or lower the outer learning rate")


def _targets(labels: Tensor, features: Tensor, head: Tensor, smoothing: float) -> Float[Tensor, "tasks support ways"]:
    """Return one-hot labels, or the given targets, smoothed towards the uniform distribution."""
    ways = head.shape[-2]
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing}: must be in [0, 1)")
    if labels.dim() == 3:
        targets = labels.to(features.dtype)
    else:
        low, high = labels.aminmax()
        if low < 0 or high >= ways:
            raise ValueError(f"labels lie in [{int(low)}, {int(high)}]: a head of {ways} ways needs 0 .. {ways - 1}")
        targets = F.one_hot(labels, ways).to(features.dtype)
    return targets if smoothing == 0 else (1 - smoothing) * targets + smoothing / ways
