"""Small heads to adapt, shared by the tests of the flow."""

from typing import NamedTuple

import torch
from torch import Tensor

import ctml


class Problem(NamedTuple):
    """Arguments of `adapt_head`, in float64."""

    features: Tensor
    labels: Tensor
    head: Tensor
    horizon: Tensor


def problem(tasks=2, support=5, ways=3, d=4, horizon=1.5, seed=0) -> Problem:
    """Draw features and labels; `support` and `d` may be in any order of size."""
    g = ctml.generator(seed, "test heads")
    features = torch.randn(tasks, support, d, generator=g, dtype=torch.float64)
    labels = torch.randint(ways, (tasks, support), generator=g)
    head = 0.3 * torch.randn(ways, d, generator=g, dtype=torch.float64)
    return Problem(features, labels, head, torch.tensor(horizon, dtype=torch.float64))


def meta_gradients(adapt, given: Problem) -> list[Tensor]:
    """Return W(T) and the gradients of a nonlinear function of it in Phi, W_0 and T."""
    features, head, horizon = (x.clone().requires_grad_() for x in (given.features, given.head, given.horizon))
    adapted = adapt(features, given.labels, head, horizon)
    loss = (adapted**3).sum() + adapted.sin().sum()
    return [adapted.detach(), *torch.autograd.grad(loss, (features, head, horizon))]


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference, relative to the size of each expected array."""
    return max(float((f - e).abs().max() / e.abs().max()) for f, e in zip(found, expected, strict=True))
