r"""The textbook adjoint, kept to show why not to use it (Deleu et al. 2022, section 3.2 and figure 2).

It stores nothing but the end of the path, and recomputes the path backwards in time beside the adjoint lambda,

    d sigma/d tau = r(sigma),    d lambda/d tau = H^T q,    q = dlink(L_0 - H sigma) lambda,
    dLoss/dL_0 = int q d tau,    dLoss/dH = -int q sigma^T d tau,

from tau = 1 to 0. lambda contracts on the way back, but sigma expands there: gradient descent run backwards is gradient
ascent, and any error grows like exp(lambda_max T). The answer is wrong as soon as that factor times the solver's
tolerance is not small, and nothing in the method notices.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Jacobian, Path, Steps
from ctml.flows.gradient_flow.reduced import ReducedFlow
from ctml.flows.gradient_flow.reverse import Cotangents, reverse_mode


@dataclass(frozen=True)
class BackwardFlow:
    """The textbook adjoint that recomputes the path backwards; unstable, to be looked at."""

    def through(self, flow: HeadFlow, steps: Steps) -> Float[Tensor, "tasks ways d"]:
        """Return W(T), differentiable in all but real targets."""
        flow.refuse_gradient("labels", self)
        return reverse_mode(flow, steps, "none", backward_flow)


def backward_flow(
    flow: ReducedFlow, path: Path, steps: Steps, cotangent: Float[Tensor, "tasks ways support"], with_targets: bool
) -> Cotangents:
    """Return dLoss/dL_0 and dLoss/dH, given dLoss/dsigma(1) and sigma(1)."""
    assert not with_targets, "refused before"
    system = Backwards(flow, cotangent)
    _, _, d_logits, d_matrix = system.split(
        steps.integrate(system.slope, system.start(path.final), watched=system).final
    )
    return Cotangents(d_logits.view_as(flow.logits), d_matrix.view_as(flow.matrix), None)


class Backwards:
    """The right-hand side of (sigma, lambda, dL_0, dH) in the time 1 - tau.

    Args:
        flow: the flow that is run backwards.
        cotangent: dLoss/dsigma(1), where lambda starts.
    """

    jacobian: Jacobian | None = None  # the system does not contract: no step keeps it stable

    def __init__(self, flow: ReducedFlow, cotangent: Float[Tensor, "tasks ways support"]):
        self.flow, self.cotangent = flow, cotangent
        self.of_sigma, self.of_matrix = flow.logits[0].numel(), flow.matrix[0].numel()

    def split(self, state: Float[Tensor, "tasks numbers"]) -> tuple[Tensor, ...]:
        """Return the four parts, each `(tasks, numbers)`."""
        return state.split([self.of_sigma, self.of_sigma, self.of_sigma, self.of_matrix], dim=1)

    def start(self, final: Float[Tensor, "tasks ways support"]) -> Float[Tensor, "tasks numbers"]:
        """Return the state at tau = 1."""
        state = final.new_zeros(len(final), 3 * self.of_sigma + self.of_matrix)
        sigma, adjoint, _, _ = self.split(state)
        sigma.copy_(final.flatten(1))
        adjoint.copy_(self.cotangent.flatten(1))
        return state

    def slope(self, state: Float[Tensor, "tasks numbers"], out: Float[Tensor, "tasks numbers"]) -> None:
        """Write the derivative of all four."""
        flow = self.flow
        sigma, adjoint, _, _ = self.split(state)
        d_sigma, d_adjoint, d_logits, d_matrix = self.split(out)
        sigma, adjoint = sigma.reshape(flow.logits.shape), adjoint.reshape(flow.logits.shape)
        predicted = flow.link.predict(flow.logits - sigma @ flow.matrix)
        q = flow.link.pull_back(adjoint, predicted)
        d_sigma.copy_((flow.targets - predicted).flatten(1))
        d_adjoint.copy_((q @ flow.matrix.mT).neg().flatten(1))
        d_logits.copy_(q.flatten(1))
        d_matrix.copy_((sigma.mT @ q).neg().flatten(1))

    def tolerance(self, atol: float) -> Float[Tensor, "tasks numbers"]:
        """Watch sigma and lambda, each to its own scale; the two integrals follow."""
        size_of_adjoint = self.cotangent.abs().amax((1, 2)).clamp(min=torch.finfo(self.cotangent.dtype).tiny)
        of_all = self.cotangent.new_full((len(self.cotangent), 3 * self.of_sigma + self.of_matrix), torch.inf)
        of_sigma, of_adjoint, _, _ = self.split(of_all)
        of_sigma.copy_(self.flow.tolerance(atol).flatten(1))
        of_adjoint.copy_((atol * size_of_adjoint)[:, None])
        return of_all

    def safe_step(self) -> Float[Tensor, " tasks"]:
        """Return the first step that the flow itself would take."""
        return self.flow.safe_step()
