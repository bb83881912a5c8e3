"""Synthetic embeddings of noisy classes: what a network's features are to the head that adapts on them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive
from ctml.types import Examples, TaskBatch


@dataclass(frozen=True)
class Embeddings:
    """Draw tasks phi = relu(c_n + noise e), class centres c_n ~ N(0, I), e ~ N(0, I): features without a network.

    Args:
        ways: classes of a task (N).
        shots, queries: support and query embeddings per class.
        d: width of an embedding.
        noise: spread within a class; the centres have spread 1.
        scale: None gives every embedding the length 1. A number multiplies them all; their squared length is then
            d scale^2 (1 + noise^2) / 2 on average.
        dtype: type of the numbers drawn; streams of different types differ.
    """

    ways: int = 5
    shots: int = 5
    queries: int = 15
    d: int = 64
    noise: float = 2.5
    scale: float | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        for name in ("ways", "shots", "d"):
            at_least(name, getattr(self, name), 1)
        for name in ("queries", "noise"):
            at_least(name, getattr(self, name), 0)
        if self.scale is not None:
            positive("scale", self.scale)

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draw `n_tasks` tasks; x `(tasks, ways * n, d)` sorted by class, y `(tasks, ways * n)` int64."""
        centres = self._normal(generator, n_tasks, self.ways, 1, self.d)
        spread = self.noise * self._normal(generator, n_tasks, self.ways, self.shots + self.queries, self.d)
        phi = (centres + spread).relu()
        phi = F.normalize(phi, dim=-1) if self.scale is None else phi * self.scale
        parts = phi.split([self.shots, self.queries], dim=2)
        return TaskBatch(*(Examples(part.flatten(1, 2), self._labels(part)) for part in parts))

    def head(self, generator: torch.Generator) -> Float[Tensor, "ways d"]:
        """Draw an initial head W_0 ~ N(0, I / d)."""
        return self._normal(generator, self.ways, self.d) / self.d**0.5

    def _normal(self, generator: torch.Generator, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device, dtype=self.dtype)

    def _labels(self, part: Float[Tensor, "tasks ways n d"]) -> Tensor:
        n_tasks, ways, n, _ = part.shape
        return torch.arange(ways, device=part.device).repeat_interleave(n).expand(n_tasks, -1)
