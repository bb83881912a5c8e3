"""Finite sets of tasks, each with an inner step size and a start far away, on which MAML and BI-MAML are compared."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.optimize import root
from torch import Tensor

from ctml.flows.maml_field import hessian, maml_field
from ctml.tasks import CurvatureJump, LogisticRidge, Quadratic, TaskLosses, side_by_side


class FarStart(NamedTuple):
    """Families of tasks beside each other, the inner step size and a point for each to start from."""

    losses: TaskLosses
    alpha: float
    w0: Float[Tensor, "families d"]


def far_start(name: str, families: int, stream: torch.Generator) -> FarStart:
    """Draw families of tasks, to be started at 50 in every coordinate; float64.

    Args:
        name: "quadratics" (N4: six tasks in four dimensions, curvatures in [1, 5], alpha = 0.1) or "logistic" (N3:
            eight ridge-regularised tasks in five, alpha L = 0.6 for the steepest family).
        families: how many.
        stream: what to draw the tasks from.

    Raises:
        ValueError: if there is no such instance.
    """
    if name == "quadratics":
        tasks, alpha, dim = [Quadratic.draw(6, 4, stream) for _ in range(families)], 0.1, 4
    elif name == "logistic":
        tasks, dim = [LogisticRidge.draw(8, stream) for _ in range(families)], 5
        alpha = 0.6 / max(family.smoothness for family in tasks)
    else:
        raise ValueError(f"name={name!r}: must be quadratics or logistic")
    return FarStart(side_by_side(tasks), alpha, torch.full((families, dim), 50.0, dtype=torch.float64))


def fold(tasks: CurvatureJump, w: float, share: float) -> tuple[float, float]:
    """Return (w, alpha L) near the given ones at which two stationary points of F meet: F' = F'' = 0.

    Raises:
        ArithmeticError: if there is none near.
    """
    smoothness = float(tasks.smoothness.max())

    def derivatives(unknowns) -> list[float]:
        field, point = (
            maml_field(tasks, math.exp(unknowns[1]) / smoothness),
            torch.tensor(unknowns[:1], dtype=torch.float64),
        )
        return [float(field(point)), float(hessian(field, point))]

    found = root(derivatives, [w, math.log(share)])  # so that alpha stays positive
    if not found.success:
        raise ArithmeticError(f"w={w}, share={share}: no fold near; {found.message}")
    return float(found.x[0]), math.exp(found.x[1])


def through_concavity(families: int, stream: torch.Generator, tasks: int = 2) -> list[CurvatureJump]:
    """Draw families on the line whose MAML loss at alpha = 0.1 curves downwards between a start at 8 and the minimum.

    Every task is N1 with its own greatest curvature in [3, 6], width of the jump in [0.03, 0.1] and centre in [0, 1];
    the least curvature is 1. The first task's jump lies in [2, 4], the others' in [-2, 4], so that the tasks
    still differ in curvature where the flow ends.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(families, tasks, generator=stream, dtype=torch.float64)

    one = torch.ones(families, tasks, dtype=torch.float64)
    smoothness, jump, log_width, centre = uniform(3, 6), uniform(-2, 4), uniform(-3.5, -2.3), uniform(0, 1)
    jump[:, 0] = uniform(2, 4)[:, 0]
    return [CurvatureJump(*row) for row in zip(one, smoothness, jump, log_width.exp(), centre, one, strict=True)]
