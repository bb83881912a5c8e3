r"""The textbook adjoint, kept to show why not to use it (Deleu et al. 2022, section 3.2 and figure 2).

It stores nothing but the end of the path, and recomputes the path backwards in time beside the adjoint lambda,

    d sigma/d tau = r(sigma),    d lambda/d tau = H^T q,    q = dlink(L_0 - H sigma) lambda,
    dLoss/dL_0 = int q d tau,    dLoss/dH = -int q sigma^T d tau,

from tau = 1 to 0. lambda contracts on the way back, but sigma expands there: gradient descent run backwards is gradient
ascent, and any error grows like exp(lambda_max T). The answer is wrong as soon as that factor times the solver's
tolerance is not small, and nothing in the method notices.
"""

import torch
from torch.autograd.function import once_differentiable

from ctml.flows.gradient_flow.integrate import Adaptive, Solver, integrate
from ctml.flows.gradient_flow.links import Link
from ctml.flows.gradient_flow.reduced import ReducedFlow


class BackwardFlow(torch.autograd.Function):
    """sigma(1) as a function of L_0 and H (both transposed, as in `ReducedFlow`)."""

    @staticmethod
    def forward(ctx, logits, matrix, targets, scale, link: Link, solver: Solver):
        """Run the flow; keep its end only."""
        final = ReducedFlow(logits, matrix, targets, scale, link).solve(solver).final
        ctx.save_for_backward(logits, matrix, targets, scale, final)
        ctx.link, ctx.solver = link, solver
        return final.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        """Integrate (sigma, lambda, dL_0, dH) from tau = 1 back to 0, in time 1 - tau."""
        logits, matrix, targets, scale, final = ctx.saved_tensors
        flow = ReducedFlow(logits, matrix, targets, scale, ctx.link)
        of_sigma, of_matrix = final.shape[1], matrix[0].numel()
        parts = [of_sigma, of_sigma, of_sigma, of_matrix]

        def slope(state, out):
            sigma, adjoint, _, _ = state.split(parts, dim=1)
            d_sigma, d_adjoint, d_logits, d_matrix = out.split(parts, dim=1)
            sigma, adjoint = sigma.reshape(logits.shape), adjoint.reshape(logits.shape)
            predicted = ctx.link.predict(logits - sigma @ matrix)
            q = ctx.link.pull_back(adjoint, predicted)
            d_sigma.copy_((targets - predicted).flatten(1))
            d_adjoint.copy_((q @ matrix.mT).neg().flatten(1))
            d_logits.copy_(q.flatten(1))
            d_matrix.copy_((sigma.mT @ q).neg().flatten(1))

        start = torch.cat(
            [final, cotangent.flatten(1), torch.zeros_like(final), torch.zeros_like(matrix).flatten(1)], 1
        )
        watched = {}
        if isinstance(ctx.solver, Adaptive):
            # sigma and lambda are watched, each to its own scale.
            atol = flow.tolerance(ctx.solver.atol)
            size_of_adjoint = cotangent.flatten(1).abs().amax(1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
            watched = {
                "tolerance": torch.cat([atol, (ctx.solver.atol * size_of_adjoint).expand_as(atol)], 1),
                "first_step": flow.safe_step(),
            }
        end = integrate(slope, start, ctx.solver, record="none", **watched).final
        _, _, d_logits, d_matrix = end.split(parts, dim=1)
        return d_logits.view_as(logits), d_matrix.view_as(matrix), None, None, None, None
