"""Few-shot tasks in which a class has the same label in every task: the foil of permuted labels.

Label j is always one of the classes j, j + ways, j + 2 ways, ... of the pool. A network can then learn the labels
themselves, without adapting; where labels are permuted per task it cannot.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ctml.tasks.few_shot import FewShot


@dataclass(frozen=True)
class FixedLabels(FewShot):
    """Draw N-way K-shot tasks with labels that belong to the classes; otherwise as `FewShot`.

    Args:
        pool, ways, shots, queries: see `FewShot`; the last `classes % ways` classes of the pool are never drawn.
    """

    def classes(self, n_tasks: int, generator: torch.Generator) -> Int[Tensor, "tasks ways"]:
        """Draw one class for each label j from those whose number is j modulo `ways`."""
        device = self.pool.examples.device
        turns = torch.randint(
            self.pool.n_classes // self.ways, (n_tasks, self.ways), generator=generator, device=generator.device
        ).to(device)
        return turns * self.ways + torch.arange(self.ways, device=device)
