"""Tasks that show nothing: what a step costs does not depend on what the inputs are."""

from dataclasses import dataclass

import torch

from ctml.checks import at_least
from ctml.types import Examples, TaskBatch


@dataclass(frozen=True)
class Noise:
    """Draw N-way K-shot tasks with standard normal inputs, classes in order.

    Args:
        ways, shots, queries: classes, and examples of each in support and query set.
        shape: of one input, as (3, 32, 32).
    """

    ways: int
    shots: int
    queries: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("ways", "shots", "queries"):
            at_least(name, getattr(self, name), 1)

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draw a meta-batch."""
        labels = torch.arange(self.ways)

        def examples(each: int) -> Examples:
            x = torch.randn(n_tasks, self.ways * each, *self.shape, generator=generator)
            return Examples(x, labels.repeat_interleave(each).expand(n_tasks, -1))

        return TaskBatch(examples(self.shots), examples(self.queries))
