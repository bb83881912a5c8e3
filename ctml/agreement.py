"""How far two vectors agree, and the derivative that needs no calculus: what a check of a method compares.

relative error       |found - exact| / |exact|
angle                arccos of <x, y> / |x||y|, in degrees
central difference   (f(x + eps e_j) - f(x - eps e_j)) / 2 eps

And MAML's meta-gradient by its definition, task after task, against which every batched road is held.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from ctml.checks import positive


def relative_error(found: Float[Tensor, "..."], exact: Float[Tensor, "..."]) -> float:
    """Return |found - exact| / |exact| in the Euclidean norm, all axes as one vector.

    Raises:
        ValueError: if the shapes differ (broadcasting would compare what was not meant).
    """
    if found.shape != exact.shape:
        raise ValueError(f"found has shape {tuple(found.shape)}, exact {tuple(exact.shape)}: must be the same")
    return float(((found - exact).norm() / exact.norm()).detach())


def angle(x: Float[Tensor, " d"], y: Float[Tensor, " d"]) -> float:
    """Return the angle between two vectors in degrees."""
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=0)
    return float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))


def central_differences(
    f: Callable[[Float[Tensor, " d"]], Float[Tensor, "*shape"]], x: Float[Tensor, " d"], eps: float = 1e-4
) -> Float[Tensor, "*shape d"]:
    """Return the derivative of f along every coordinate of x, on a new last axis; off by O(eps^2).

    (f(x + eps e_j) - f(x - eps e_j)) / 2 eps
    """
    positive("eps", eps)
    units = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.stack([(f(x + eps * e) - f(x - eps * e)) / (2 * eps) for e in units], dim=-1)


def maml_by_definition(learner: Any, batch: Any) -> Float[Tensor, " parameters"]:
    """Return MAML's meta-gradient as its definition reads: one task after the other, ordinary autograd, no batching.

    mean_i grad_theta L_Q(theta_K),   theta_{k+1} = theta_k - alpha grad L_S(theta_k)

    Args:
        learner: with `model`, `loss`, `inner_lr` and `inner_steps`.
        batch: a meta-batch.
    """
    theta, losses = dict(learner.model.named_parameters()), []
    for one in batch.split(1):
        params = theta
        for _ in range(learner.inner_steps):
            loss = learner.loss(functional_call(learner.model, params, (one.support.x,)), one.support.y).sum()
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {k: v - learner.inner_lr * g for (k, v), g in zip(params.items(), gradients, strict=True)}
        outputs = functional_call(learner.model, params, (one.query.x,), {"context": one.support.x})
        losses.append(learner.loss(outputs, one.query.y))
    found = torch.autograd.grad(torch.cat(losses).mean(), list(theta.values()))
    return torch.cat([g.flatten() for g in found])
