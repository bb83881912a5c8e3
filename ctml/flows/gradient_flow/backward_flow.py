r"""The textbook adjoint, kept to show why not to use it (Deleu et al. 2022, section 3.2 and figure 2).

It stores nothing but the end of the path, and recomputes the path backwards in time beside the adjoint lambda,

    d sigma/d tau = r(sigma),    d lambda/d tau = H^T q,    q = dlink(L_0 - H sigma) lambda,
    dLoss/dL_0 = int q d tau,    dLoss/dH = -int q sigma^T d tau,

from tau = 1 to 0. lambda contracts on the way back, but sigma expands there: gradient descent run backwards is gradient
ascent, and any error grows like exp(lambda_max T). The answer is wrong as soon as that factor times the solver's
tolerance is not small, and nothing in the method notices.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.integrate import Adaptive, Solver, integrate
from ctml.flows.gradient_flow.reduced import ReducedFlow


def backward_flow(
    flow: ReducedFlow,
    final: Float[Tensor, "tasks ways support"],
    solver: Solver,
    cotangent: Float[Tensor, "tasks ways support"],
) -> tuple[Float[Tensor, "tasks ways support"], Float[Tensor, "tasks support support"]]:
    """Return dLoss/dL_0 and dLoss/dH (both transposed, as in `ReducedFlow`), given dLoss/dsigma(1) and sigma(1)."""
    n_tasks, link, shape = len(final), flow.link, flow.logits.shape
    of_sigma, of_matrix = flow.logits[0].numel(), flow.matrix[0].numel()
    parts = [of_sigma, of_sigma, of_sigma, of_matrix]

    def slope(state: Tensor, out: Tensor) -> None:
        """Write the derivative of (sigma, lambda, dL_0, dH) in the time 1 - tau."""
        sigma, adjoint, _, _ = state.split(parts, dim=1)
        d_sigma, d_adjoint, d_logits, d_matrix = out.split(parts, dim=1)
        sigma, adjoint = sigma.reshape(shape), adjoint.reshape(shape)
        predicted = link.predict(flow.logits - sigma @ flow.matrix)
        q = link.pull_back(adjoint, predicted)
        d_sigma.copy_((flow.targets - predicted).flatten(1))
        d_adjoint.copy_((q @ flow.matrix.mT).neg().flatten(1))
        d_logits.copy_(q.flatten(1))
        d_matrix.copy_((sigma.mT @ q).neg().flatten(1))

    start = final.new_zeros(n_tasks, sum(parts))
    start[:, :of_sigma] = final.flatten(1)
    start[:, of_sigma : 2 * of_sigma] = cotangent.flatten(1)
    watched: dict[str, Any] = {}
    if isinstance(solver, Adaptive):
        # sigma and lambda are watched, each to its own scale; the two integrals follow.
        size_of_adjoint = cotangent.abs().amax((1, 2)).clamp(min=torch.finfo(final.dtype).tiny)
        atol = torch.full_like(start, torch.inf)
        atol[:, :of_sigma] = flow.tolerance(solver.atol).flatten(1)
        atol[:, of_sigma : 2 * of_sigma] = solver.atol * size_of_adjoint[:, None]
        watched = {"atol": atol, "first_step": flow.safe_step()}
    _, _, d_logits, d_matrix = integrate(slope, start, solver, **watched).final.split(parts, dim=1)
    return d_logits.view(shape), d_matrix.view(flow.matrix.shape)
