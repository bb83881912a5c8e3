"""N-way K-shot tasks drawn from a pool of classes, whole meta-batches by indexing on the pool's device.

Labels run 0 .. ways-1 in the random order in which the classes were drawn: a class has no fixed label across tasks.
Within a task the examples are ordered by label, `shots` (or `queries`) of each.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ctml.checks import at_least
from ctml.types import ClassPool, Examples, TaskBatch


@dataclass(frozen=True)
class FewShot:
    """Draw N-way K-shot classification tasks; no example is in both support and query of a task.

    Args:
        pool: classes with their examples (uint8 images are scaled to [0, 1], floats are left as they are).
        ways: classes per task (N).
        shots: support examples per class (K).
        queries: query examples per class.

    Raises:
        ValueError: if the pool has fewer than `ways` classes, or a class fewer than `shots + queries` examples.
    """

    pool: ClassPool
    ways: int = 5
    shots: int = 1
    queries: int = 15

    def __post_init__(self) -> None:
        at_least("ways", self.ways, 2)
        at_least("shots", self.shots, 1)
        at_least("queries", self.queries, 1)
        if self.ways > self.pool.n_classes:
            raise ValueError(
                f"ways={self.ways}: {self.pool.source} has only {self.pool.n_classes} classes; "
                "choose fewer ways or another split"
            )
        smallest = int(self.pool.counts.argmin())
        if self.shots + self.queries > int(self.pool.counts[smallest]):
            raise ValueError(
                f"shots={self.shots} + queries={self.queries}: class {self.pool.names[smallest]!r} "
                f"of {self.pool.source} has only "
                f"{int(self.pool.counts[smallest])} examples; choose fewer shots or queries"
            )

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draw `n_tasks` tasks; x `(tasks, ways * shots, *features)` float32, y `(tasks, ways * shots)` int64."""
        counts = self.pool.counts
        classes = self.classes(n_tasks, generator)
        per_class = self.shots + self.queries
        within = self._without_replacement(
            int(counts.max()), per_class, (n_tasks, self.ways), generator, counts[classes]
        )
        starts = counts.cumsum(0) - counts
        index = starts[classes][..., None] + within  # (tasks, ways, shots + queries)
        return TaskBatch(self._examples(index[..., : self.shots]), self._examples(index[..., self.shots :]))

    def classes(self, n_tasks: int, generator: torch.Generator) -> Int[Tensor, "tasks ways"]:
        """Draw the classes of each task; the class in column j gets the label j."""
        return self._without_replacement(self.pool.n_classes, self.ways, (n_tasks,), generator)

    def _without_replacement(
        self, n: int, k: int, rows: tuple[int, ...], generator: torch.Generator, size: Tensor | None = None
    ) -> Tensor:
        device = self.pool.examples.device
        keys = torch.rand(*rows, n, generator=generator, device=generator.device).to(device)
        if size is not None:  # classes differ in size: an index beyond a class's own size must never win
            keys = keys.masked_fill(torch.arange(n, device=device) >= size[..., None], -1.0)
        return keys.topk(k, dim=-1).indices

    def _examples(self, index: Tensor) -> Examples:
        n_tasks, ways, n = index.shape
        x = self.pool.examples[index.reshape(n_tasks, ways * n)]
        x = x.float().div_(255) if x.dtype == torch.uint8 else x
        y = torch.arange(ways, device=x.device).repeat_interleave(n).expand(n_tasks, ways * n)
        return Examples(x, y)
