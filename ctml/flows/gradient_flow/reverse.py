r"""Reverse-mode meta-gradients: from dLoss/dW(T) to dLoss/dPhi, dLoss/dW_0, dLoss/dT and dLoss/dw.

A method of the reduced flow (`adjoint` or `backward_flow`) turns the cotangent of sigma(1) into those of L_0 and H; the
rest is the chain rule through W(T) = W_0 - s^T Phi, s = T w sigma(1), L_0 = Phi W_0^T, H = G diag(T w), G = Phi Phi^T.
With V = dLoss/dW(T) it has the form of the paper's projections (see `forward`),

    dLoss/dPhi = (dG + dG^T) Phi + dL_0 W_0 - s V,     dLoss/dW_0 = V + dL_0^T Phi,

written out by hand because at d = 16,000 these few products are most of the time.
"""

import torch
from torch.autograd.function import once_differentiable

from ctml.flows.gradient_flow.adjoint import discrete_adjoint
from ctml.flows.gradient_flow.backward_flow import backward_flow
from ctml.flows.gradient_flow.integrate import Path, Solver
from ctml.flows.gradient_flow.links import Link
from ctml.flows.gradient_flow.reduced import ReducedFlow


class ReverseMode(torch.autograd.Function):
    """W(T) as a function of Phi, W_0, T and w.

    record: states to keep for the discrete adjoint, "all" or "sqrt"; "none" recomputes them by the backward flow.
    """

    @staticmethod
    def forward(ctx, features, targets, head, horizon, weights, link: Link, solver: Solver, record: str):
        """Run the flow; keep what the backward pass will need."""
        flow = ReducedFlow.of_head(features, targets, head, horizon, weights, link)
        path = flow.solve(solver, record if any(ctx.needs_input_grad) else "none")
        ctx.save_for_backward(
            features, head, horizon, weights, flow.logits, flow.gram, flow.targets, path.final, path.sizes, path.states
        )
        ctx.link, ctx.solver, ctx.stride = link, solver, path.stride
        return torch.baddbmm(head, flow.scale * path.final, features, alpha=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, v):
        """Pull V = dLoss/dW(T) back."""
        features, head, horizon, weights, logits, gram, targets, sigma, sizes, states = ctx.saved_tensors
        scale = (horizon[:, None] * weights)[:, None, :]
        flow = ReducedFlow(logits, gram, targets, scale, ctx.link)
        p = v @ features.mT
        if states is None:
            d_logits, d_matrix = backward_flow(flow, sigma, ctx.solver, -scale * p)
        else:
            path = Path(sigma, sizes, states, ctx.stride, evaluations=0)
            d_logits, d_matrix = discrete_adjoint(flow, path, ctx.solver.tableau, -scale * p)
        d_features = None
        if ctx.needs_input_grad[0]:
            d_gram = scale.mT * d_matrix
            d_features = (d_gram + d_gram.mT) @ features
            d_features.baddbmm_(d_logits.mT, head).baddbmm_((scale * sigma).mT, v, alpha=-1)
        d_head = torch.baddbmm(v, d_logits, features)
        d_scale = (d_matrix * gram).sum(2) - (p * sigma).sum(1)
        d_horizon, d_weights = (d_scale * weights).sum(1), d_scale * horizon[:, None]
        return d_features, None, d_head, d_horizon, d_weights, None, None, None
