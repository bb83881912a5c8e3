"""Conjugate gradients for a batch of systems of which only products with a vector are known."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


class NotPositiveDefinite(ArithmeticError):
    """A direction of negative curvature: the problem is not convex there."""


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Float[Tensor, "tasks d"],
    *,
    steps: int,
    tolerance: float,
    truncate: bool = False,
) -> Float[Tensor, "tasks d"]:
    """Solve H x = b for every task at once (Hestenes and Stiefel 1952).

    Args:
        product: v -> H v, H symmetric positive definite.
        right: b.
        steps: most steps to take; d steps are exact but for rounding.
        tolerance: |H x - b| / |b| at which a task stops.
        truncate: a task that meets a direction of non-positive curvature stops there with what it has (for networks,
            whose H is seldom positive definite everywhere); at the first step that is nothing.

    Raises:
        NotPositiveDefinite: if such a direction turns up and `truncate` is not set.
    """
    x = torch.zeros_like(right)
    residual, direction = right, right
    square = residual.square().sum(1)
    active = square > 0
    enough = tolerance**2 * square
    for _ in range(steps):
        active = active & (square > enough)
        if not active.any():
            break
        image = product(direction)
        curvature = (direction * image).sum(1)
        bad = active & ~(curvature > 0)
        if bad.any() and not truncate:
            task = int(bad.nonzero()[0])
            raise NotPositiveDefinite(
                f"the problem of task {task} is not convex (curvature "
                f"{curvature[task] / direction[task].square().sum():.2e} along a direction); take a larger lam"
            )
        active = active & ~bad
        length = torch.where(active, square / curvature, 0.0)[:, None]
        x = x + length * direction
        residual = residual - length * image
        square, before = residual.square().sum(1), square
        direction = residual + torch.where(active, square / before, 0.0)[:, None] * direction
    return x
