"""Logistic regression with a ridge: strongly convex, smooth, and its Hessian truly varies; constants in closed form.

f_i(w) = mean_n log(1 + exp(-y_n x_n . w)) + mu/2 |w|^2,     y_n = +-1
mu I <= hess f_i <= (mu + lambda_max(X'X / 4n)) I
|hess f_i(v) - hess f_i(w)| <= mean_n |x_n|^3 / (6 sqrt 3) |v - w|      (the greatest |sigmoid''| is 1 / (6 sqrt 3))
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive
from ctml.tasks.analytic import TaskTable
from ctml.tasks.logistic import Logistic


@dataclass(frozen=True, repr=False)
class LogisticRidge(TaskTable):
    """A finite set of tasks, each a function of w alone (the oracle setting).

    Args:
        signed: y_n x_n, inputs times their label's sign.
        ridge: mu.

    Raises:
        ValueError: unless the ridge is positive.
    """

    signed: Float[Tensor, "*families tasks n d"]
    ridge: float

    def __post_init__(self) -> None:
        positive("ridge", self.ridge)

    @classmethod
    def draw(
        cls,
        n_tasks: int,
        generator: torch.Generator,
        *,
        dim: int = 5,
        examples: int = 40,
        spread: float = 0.5,
        ridge: float = 0.2,
    ) -> "LogisticRidge":
        """Draw tasks from `Logistic` with common weights of size 1.5 (instance N3); float64."""
        at_least("n_tasks", n_tasks, 1)
        tasks = Logistic(dim=dim, shots=examples, queries=0, spread=spread)
        x, y = tasks.sample(n_tasks, generator).to(dtype=torch.float64).support
        return cls(x * (2 * y - 1)[..., None], ridge)

    def support(self, points: Float[Tensor, "... #tasks d"]) -> Float[Tensor, "... tasks"]:
        """Return f_i(w_i), each task's loss at its own point."""
        points = points.expand(*points.shape[:-2], self.signed.shape[-3], -1)
        margins = torch.einsum("...tnd,...td->...tn", self.signed, points)
        return F.softplus(-margins).mean(-1) + 0.5 * self.ridge * points.square().sum(-1)

    query = support  # the oracle setting: one function is both

    @property
    def smoothness(self) -> float:
        """L, the greatest curvature of any task."""
        second_moment = self.signed.mT @ self.signed / self.signed.shape[1]
        return self.ridge + float(torch.linalg.eigvalsh(second_moment).max()) / 4

    @property
    def hessian_lipschitz(self) -> float:
        """rho, by which the Hessians are Lipschitz."""
        return float(torch.linalg.vector_norm(self.signed, dim=-1).pow(3).mean(1).max()) / (6 * math.sqrt(3))
