"""Gradient descent on many points at once, each until it is slow enough: `flow_until` with a step size.

w <- w + beta field(w)   while |field(w)| > threshold
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least
from ctml.flows.maml_field import Field


def descend_until(
    field: Field, w: Float[Tensor, "*points d"], beta: Tensor, threshold: Tensor | float, *, most: int
) -> tuple[Float[Tensor, "*points"], Float[Tensor, "*points d"]]:
    """Step along a field until it is at most the threshold, every point on its own.

    Args:
        field: maps points to velocities.
        w: where to start.
        beta: step size, one for each point, `(*points)` or what extends to it.
        threshold: of |field|, likewise; infinity takes no step.
        most: steps after which a point is given up.

    Returns:
        The steps of each point, infinity where it was given up or left the finite numbers, and the ends.
    """
    at_least("most", most, 0)
    steps = w.new_zeros(w.shape[:-1])
    for _ in range(most + 1):
        velocity = field(w)
        speed = velocity.norm(dim=-1)
        moving = ~(speed <= threshold)  # also where it is not a number
        going = moving & torch.isfinite(speed) & (steps < most)
        if not going.any():
            break
        w = torch.where(going[..., None], w + beta[..., None] * velocity, w)
        steps = steps + going
    return torch.where(moving, torch.inf, steps), w


def fewest_steps(
    field: Field, w: Float[Tensor, "*points d"], grid: Float[Tensor, " rates"], threshold: float, *, most: int
) -> tuple[Tensor, float]:
    """Return the step size of a grid by which all come below the threshold soonest, and their mean steps.

    Raises:
        ArithmeticError: if with every step size some point does not arrive.
    """
    many = w.expand(len(grid), *w.shape)
    taken, _ = descend_until(field, many, grid.view(-1, *[1] * (w.dim() - 1)), threshold, most=most)
    mean = taken.flatten(1).mean(1)
    best = mean.argmin()
    if not torch.isfinite(mean[best]):
        raise ArithmeticError(f"most={most}: with no step size of the grid do all points come below {threshold:g}")
    return grid[best], float(mean[best])


def in_two_phases(
    fields: tuple[Field, Field],
    w: Float[Tensor, "*points d"],
    betas: tuple[Tensor, Tensor],
    switch: Tensor | float,
    threshold: float,
    *,
    at_most: int,
    most: int,
) -> tuple[Float[Tensor, "*points"], Float[Tensor, "*points"], Float[Tensor, "*points d"]]:
    """Follow the first field until it is at most `switch`, or for `at_most` steps, then the second (BI-MAML).

    Returns:
        The steps of either phase and the ends.
    """
    first, at = descend_until(fields[0], w, betas[0], switch, most=at_most)
    second, end = descend_until(fields[1], at, betas[1], threshold, most=most)
    return first.clamp_max(at_most), second, end


def path_of(phases: list[tuple[Field, Tensor, int]], w: Float[Tensor, "*points d"]) -> Float[Tensor, "marks *points d"]:
    """Return w and the points after each step of the phases, each a field, a step size and a number of steps."""
    path = [w]
    for field, beta, steps in phases:
        for _ in range(steps):
            path.append(path[-1] + beta * field(path[-1]))
    return torch.stack(path)
