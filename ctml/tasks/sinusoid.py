"""Sinusoid regression, the standard few-shot regression task (Finn, Abbeel, Levine 2017, section 5.1)."""

import math
from dataclasses import dataclass

import torch

from ctml.checks import at_least
from ctml.types import Examples, TaskBatch


@dataclass(frozen=True)
class Sinusoid:
    """Draw tasks y = A sin(x - phi) with A ~ U[amplitude], phi ~ U[phase], x ~ U[domain].

    Args:
        shots: support points per task.
        queries: query points per task.
        amplitude, phase, domain: ends of the three uniform distributions.
    """

    shots: int = 10
    queries: int = 10
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    domain: tuple[float, float] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        at_least("shots", self.shots, 1)
        at_least("queries", self.queries, 1)

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draw `n_tasks` sinusoids; x and y are `(tasks, n, 1)`, float32."""

        def uniform(ends: tuple[float, float], *shape: int) -> torch.Tensor:
            unit = torch.rand(n_tasks, *shape, 1, generator=generator, device=generator.device)
            return ends[0] + (ends[1] - ends[0]) * unit

        x = uniform(self.domain, self.shots + self.queries)
        y = uniform(self.amplitude, 1) * torch.sin(x - uniform(self.phase, 1))
        return TaskBatch(
            Examples(x[:, : self.shots], y[:, : self.shots]), Examples(x[:, self.shots :], y[:, self.shots :])
        )
