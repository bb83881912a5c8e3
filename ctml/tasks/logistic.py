"""Logistic regression tasks: smooth, convex, not quadratic; strongly convex once the loss has a ridge."""

from dataclasses import dataclass

import torch

from ctml.checks import at_least
from ctml.types import Examples, TaskBatch


@dataclass(frozen=True)
class Logistic:
    """Draw tasks y ~ Bernoulli(sigmoid(x . w_i)), w_i = w + spread * N(0, I), x ~ N(0, I).

    The common weights w ~ size * N(0, I) are drawn once per call of `sample`, as part of its stream.

    Args:
        dim: number of inputs.
        shots, queries: support and query points per task.
        size: scale of the common weights.
        spread: heterogeneity of the tasks; 0 gives all tasks the same weights.
    """

    dim: int = 5
    shots: int = 40
    queries: int = 40
    size: float = 1.5
    spread: float = 0.5

    def __post_init__(self) -> None:
        for name in ("dim", "shots"):
            at_least(name, getattr(self, name), 1)
        for name in ("queries", "size", "spread"):
            at_least(name, getattr(self, name), 0)

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draw `n_tasks` tasks; x `(tasks, n, dim)` float32, y `(tasks, n)` int64 in {0, 1}."""

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, device=generator.device)

        n = self.shots + self.queries
        x = normal(n_tasks, n, self.dim)
        w = self.size * normal(self.dim, 1) + self.spread * normal(n_tasks, self.dim, 1)
        chance = torch.sigmoid(x @ w)[..., 0]
        y = (torch.rand(n_tasks, n, generator=generator, device=generator.device) < chance).long()
        return TaskBatch(
            Examples(x[:, : self.shots], y[:, : self.shots]), Examples(x[:, self.shots :], y[:, self.shots :])
        )
