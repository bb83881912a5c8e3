"""Linear regression tasks: noisy linear maps drawn around a common one."""

from dataclasses import dataclass

import torch

from ctml.checks import at_least
from ctml.types import Examples, TaskBatch


@dataclass(frozen=True)
class LinearRegression:
    """Draw tasks y = x . w_i + noise with w_i = w + spread * N(0, I), x ~ N(0, diag(scales^2)).

    Args:
        dim: number of inputs.
        shots, queries: support and query points per task.
        spread: standard deviation of the tasks' weights around the common ones (task heterogeneity).
        noise: standard deviation of the targets' noise.
        condition: ratio of the largest to the smallest input variance; scales are log-spaced.
        centre: the common weights w are this value in every coordinate.
    """

    dim: int = 10
    shots: int = 20
    queries: int = 20
    spread: float = 1.0
    noise: float = 0.1
    condition: float = 1.0
    centre: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "shots", "queries", "condition"):
            at_least(name, getattr(self, name), 1)
        for name in ("spread", "noise"):
            at_least(name, getattr(self, name), 0)

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draw `n_tasks` tasks; x `(tasks, n, dim)`, y `(tasks, n, 1)`, float32."""

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(n_tasks, *shape, generator=generator, device=generator.device)

        scales = torch.logspace(0, -0.5, self.dim, base=self.condition, device=generator.device)
        x = normal(self.shots + self.queries, self.dim) * scales
        w = self.centre + self.spread * normal(self.dim, 1)
        y = x @ w + self.noise * normal(self.shots + self.queries, 1)
        return TaskBatch(
            Examples(x[:, : self.shots], y[:, : self.shots]), Examples(x[:, self.shots :], y[:, self.shots :])
        )
