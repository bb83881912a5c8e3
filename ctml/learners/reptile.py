"""Reptile: move the initialisation towards where each task's own training ends (Nichol, Achiam, Schulman 2018).

    phi_i = K steps of gradient descent on task i from theta,   theta <- theta + epsilon mean_i (phi_i - theta)

`.grad` holds mean_i (theta - phi_i), so plain SGD with rate epsilon is the update above. Training does not tell support
from query: the inner loop runs over all examples of a task, in disjoint mini-batches, one per step.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.learners.maml import MAML
from ctml.types import Examples, Loss, Model, TaskBatch


class Reptile(MAML):
    """Meta-learn an initialisation close to the tasks' solutions, without a meta-loss.

    >>> import ctml, torch
    >>> batch = ctml.tasks.Sinusoid().sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.Reptile(network, ctml.mse, inner_lr=0.01, inner_steps=5)
    >>> outer = torch.optim.SGD(learner.parameters(), lr=0.1)  # theta <- theta + 0.1 mean_i (phi_i - theta)
    >>> losses = learner.meta_gradient(batch)
    >>> outer.step()

    Args:
        model, loss, inner_lr, tasks_at_once: as in `MAML`.
        inner_steps: mini-batch steps K; with K = 1 Reptile is joint training, so at least 2.

    Raises:
        ValueError: if `inner_steps` is below 2.
    """

    def __init__(
        self, model: Model, loss: Loss, *, inner_lr: float, inner_steps: int = 5, tasks_at_once: int | None = None
    ):
        if inner_steps < 2:
            raise ValueError(f"inner_steps={inner_steps}: Reptile with one step is joint training; take at least 2")
        super().__init__(
            model, loss, inner_lr=inner_lr, inner_steps=inner_steps, order="first", tasks_at_once=tasks_at_once
        )

    @torch.no_grad()
    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add weight * sum_i (theta - phi_i); return each task's loss on all its examples at phi_i."""
        x, y = (torch.cat(pair, dim=1) for pair in zip(part.support, part.query, strict=True))
        start = phi = self.expanded(part.support)
        for step in range(self.inner_steps):
            # Examples are ordered by class, so every K-th one makes a mini-batch with all classes in it.
            batch = Examples(x[:, step :: self.inner_steps], y[:, step :: self.inner_steps])
            phi = self.inner_step(phi, batch, step)
        self.accumulate(trees.sub(start, phi), weight)
        return self.loss(self.outputs(phi, x), y)
