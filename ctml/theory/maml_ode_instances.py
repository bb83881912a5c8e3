"""Finite sets of tasks, each with an inner step size and a start far away, on which MAML and BI-MAML are compared."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.maml_field import on_batch
from ctml.learners.maml import MAML
from ctml.losses import mse
from ctml.models import MLP
from ctml.tasks import LinearRegression, LogisticRidge, Quadratic, TaskLosses


class FarStart(NamedTuple):
    """A set of losses, the inner step size and the point to start from."""

    losses: TaskLosses
    alpha: float
    w0: Float[Tensor, " d"]


def far_start(name: str, stream: torch.Generator, regressions: int = 100) -> FarStart:
    """Draw one instance, to be started at 50 in every coordinate; float64.

    Args:
        name: "quadratics" (N4: six tasks in four dimensions), "logistic" (N3: eight ridge-regularised tasks) or
            "linear d" (regression with d inputs and a bias on support and query sets of 20, as a learner sees them).
        stream: what to draw the tasks from.
        regressions: tasks of "linear d".

    Raises:
        ValueError: if there is no such instance.
    """
    match name.split():
        case ["quadratics"]:
            losses, alpha, dim = Quadratic.draw(6, 4, stream), 0.1, 4
        case ["logistic"]:
            losses = LogisticRidge.draw(8, stream)
            alpha, dim = 0.6 / losses.smoothness, 5
        case ["linear", inputs]:
            batch = LinearRegression(dim=int(inputs)).sample(regressions, stream).to(dtype=torch.float64)
            learner = MAML(MLP([int(inputs), 1]).double(), mse, inner_lr=0.05)
            losses, alpha, dim = on_batch(learner, batch), learner.inner_lr, int(inputs) + 1
        case _:
            raise ValueError(f"name={name!r}: must be quadratics, logistic or linear d")
    return FarStart(losses, alpha, torch.full((dim,), 50.0, dtype=torch.float64))
