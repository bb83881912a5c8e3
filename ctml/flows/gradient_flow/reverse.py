r"""Reverse-mode meta-gradients: from dLoss/dW(T) to dLoss/dPhi, dLoss/dY, dLoss/dW_0, dLoss/dT and dLoss/dw.

A method of the reduced flow (`discrete_adjoint` or `backward_flow`) turns the cotangent of sigma(1) into those of L_0,
H and Y; the rest is the chain rule through W(T) = W_0 - s^T Phi, s = T w sigma(1), L_0 = Phi W_0^T, H = G diag(T w),
G = Phi Phi^T. With V = dLoss/dW(T) it has the form of the paper's projections (see `forward`),

    dLoss/dPhi = (dG + dG^T) Phi + dL_0 W_0 - s V,     dLoss/dW_0 = V + dL_0^T Phi,

written out by hand because at d = 16,000 these few products are most of the time.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Path, Steps
from ctml.flows.gradient_flow.reduced import ReducedFlow


class Cotangents(NamedTuple):
    """Derivatives of the outer loss, transposed as in `ReducedFlow`; those of Y only where they are asked for."""

    logits: Float[Tensor, "tasks ways support"]
    matrix: Float[Tensor, "tasks support support"]
    targets: Float[Tensor, "tasks ways support"] | None


@runtime_checkable
class PullBack(Protocol):
    """Turns dLoss/dsigma(1) into the derivatives in L_0, H and, if asked, Y."""

    def __call__(
        self,
        flow: ReducedFlow,
        path: Path,
        steps: Steps,
        cotangent: Float[Tensor, "tasks ways support"],
        with_targets: bool,
    ) -> Cotangents:
        """Pull the cotangent back over the path."""
        ...


def reverse_mode(flow: HeadFlow, steps: Steps, record: str, pull_back: PullBack) -> Float[Tensor, "tasks ways d"]:
    """Return W(T), whose derivative is by `pull_back` from what was recorded (see `Steps.integrate`)."""
    given = flow.features, flow.targets, flow.head, flow.horizon, flow.weights
    return ReverseMode.apply(*given, flow.loss, steps, record, pull_back)


class ReverseMode(torch.autograd.Function):
    """W(T) as a function of Phi, Y, W_0, T and w."""

    @staticmethod
    def forward(ctx, features, targets, head, horizon, weights, loss, steps: Steps, record: str, pull_back: PullBack):
        """Run the flow; keep what the backward pass will need."""
        flow = ReducedFlow.of_head(HeadFlow(features, targets, head, horizon, weights, loss))
        path = flow.solve(steps, record if any(ctx.needs_input_grad) else "none")
        ctx.save_for_backward(
            features, head, horizon, weights, flow.logits, flow.gram, flow.targets, path.final, path.sizes, path.states
        )
        ctx.link, ctx.stride, ctx.steps, ctx.pull_back = flow.link, path.stride, steps, pull_back
        return torch.baddbmm(head, flow.scale * path.final, features, alpha=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, v):
        """Pull V = dLoss/dW(T) back."""
        features, head, horizon, weights, logits, gram, targets, sigma, sizes, states = ctx.saved_tensors
        scale = (horizon[:, None] * weights)[:, None, :]
        flow = ReducedFlow(logits, gram, targets, scale, ctx.link)
        path = Path(sigma, sizes, states, ctx.stride, evaluations=0)
        p = v @ features.mT
        d = ctx.pull_back(flow, path, ctx.steps, -scale * p, ctx.needs_input_grad[1])
        d_features = None
        if ctx.needs_input_grad[0]:
            d_gram = scale.mT * d.matrix
            d_features = (d_gram + d_gram.mT) @ features
            d_features.baddbmm_(d.logits.mT, head).baddbmm_((scale * sigma).mT, v, alpha=-1)
        d_head = torch.baddbmm(v, d.logits, features)
        d_scale = (d.matrix * gram).sum(2) - (p * sigma).sum(1)
        d_horizon, d_weights = (d_scale * weights).sum(1), d_scale * horizon[:, None]
        d_targets = None if d.targets is None else d.targets.mT
        return d_features, d_targets, d_head, d_horizon, d_weights, None, None, None, None
