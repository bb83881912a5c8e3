"""Gradient steps on a linear head: what its flow is the limit of, and what it is compared with.

    W <- W - alpha grad L(W),     grad L(W) = (softmax(Phi W^T) - Y)^T Phi / M

`descend_head` is ANIL's inner loop, unrolled by autograd: memory in every step, or in the square root of their number
with checkpoints. `proximal_head` is iMAML's (Rajeswaran et al. 2019): constant memory, exact only at the fixed point.
`ridge_head` walks nowhere: it solves (Bertinetto et al. 2019; MetaOptNet-RR of Lee et al. 2019 is of this kind).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ctml.checks import at_least, positive
from ctml.conjugate_gradients import conjugate_gradients


def descend_head(
    features: Float[Tensor, "tasks support d"],
    labels: Int[Tensor, "tasks support"],
    head: Float[Tensor, "ways d"],
    *,
    rate: float,
    steps: int,
    segments: int = 1,
) -> Float[Tensor, "tasks ways d"]:
    """Take gradient steps on the head; differentiable by plain autograd.

    Args:
        features, labels, head: Phi, class labels and W_0.
        rate, steps: alpha and K.
        segments: in so many parts the steps are recomputed when they are differentiated; 1 keeps them all.
    """
    at_least("steps", steps, 1)
    at_least("segments", segments, 1)
    targets = F.one_hot(labels, head.shape[-2]).to(features.dtype)

    def segment(W: Tensor, n: int) -> Tensor:
        for _ in range(n):
            W = W - rate * _gradient(W, features, targets)
        return W

    if segments == 1:
        return segment(head, steps)
    W = head
    for part in torch.arange(steps).tensor_split(segments):
        W = checkpoint(segment, W, len(part), use_reentrant=False)
    return W


def proximal_head(
    features: Float[Tensor, "tasks support d"],
    labels: Int[Tensor, "tasks support"],
    head: Float[Tensor, "ways d"],
    *,
    rate: float,
    steps: int,
    strength: float = 1.0,
) -> Float[Tensor, "tasks ways d"]:
    """Descend L(W) + lam/2 |W - W_0|^2 without a graph; the derivative is that of its minimum, implicitly.

    dW = (H + lam)^-1 (lam dW_0 - d grad L/dPhi dPhi), by ten conjugate-gradient steps: an approximation.

    Args:
        features, labels, head: Phi, class labels and W_0.
        rate, steps: of the descent.
        strength: lam.
    """
    at_least("steps", steps, 1)
    positive("strength", strength)
    targets = F.one_hot(labels, head.shape[-2]).to(features.dtype)
    with torch.no_grad():
        W = head.expand(len(features), -1, -1)
        for _ in range(steps):
            W = W - rate * (_gradient(W, features, targets) + strength * (W - head))
    return _Implicit.apply(features, head.expand_as(W), W, targets, strength)


def ridge_head(
    features: Float[Tensor, "tasks support d"], labels: Int[Tensor, "tasks support"], ways: int, *, strength: float
) -> Float[Tensor, "tasks ways d"]:
    """Return argmin_W |Phi W^T - Y|^2 + strength |W|^2 for one-hot Y, in closed form; differentiable.

    W = Y^T (Phi Phi^T + strength I)^-1 Phi
    """
    positive("strength", strength)
    targets = F.one_hot(labels, ways).to(features.dtype)
    gram = features @ features.mT
    gram.diagonal(dim1=1, dim2=2).add_(strength)
    return torch.linalg.solve(gram, targets).mT @ features


class _Implicit(torch.autograd.Function):
    """W with the derivatives of the proximal minimum in Phi and W_0."""

    @staticmethod
    def forward(ctx, features, head, W, targets, strength):
        ctx.save_for_backward(features, W, targets)
        ctx.strength = strength
        return W.clone()

    @staticmethod
    def backward(ctx, v):
        features, W, targets = ctx.saved_tensors
        p = (features @ W.mT).softmax(-1)

        def hessian(u: Tensor) -> Tensor:
            along = features @ u.unflatten(1, W.shape[1:]).mT
            curved = ((along - (p * along).sum(-1, keepdim=True)) * p).mT @ features / features.shape[1]
            return curved.flatten(1) + ctx.strength * u

        x = conjugate_gradients(hessian, v.flatten(1), steps=10, tolerance=1e-6).unflatten(1, v.shape[1:])
        with torch.enable_grad():
            leaf = features.detach().requires_grad_()
            (d_features,) = torch.autograd.grad((_gradient(W, leaf, targets) * -x).sum(), leaf)
        return d_features, ctx.strength * x, None, None, None


def _gradient(W: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    return ((features @ W.mT).softmax(-1) - targets).mT @ features / features.shape[1]
