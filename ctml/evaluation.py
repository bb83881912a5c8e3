"""Meta-testing: one definition for all learners.

Invariants:
    * Equal seeds mean the same tasks, whatever the learner and the limits of memory.
    * Tasks come from their own stream; nothing of training depends on them.
    * The learner is left as it was, also where a metric fails.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least
from ctml.learners.base import Learner
from ctml.losses import accuracy
from ctml.rng import generator
from ctml.statistics import Interval, interval
from ctml.types import TaskBatch, TaskDistribution


@dataclass(frozen=True, repr=False)
class MetaTest:
    """Scores of a learner on fixed tasks.

    Attributes:
        scores: one score per task.
        inner_steps: adaptation steps, None for the learner's own.
        seed: of the stream that drew the tasks; equal seeds mean the same tasks.
        norm: the model's batch-norm mode, "none" without batch norm.
    """

    scores: Float[Tensor, " tasks"]
    inner_steps: int | None
    seed: int
    norm: str

    @property
    def interval(self) -> Interval:
        """Mean and 95% interval over tasks."""
        return interval(self.scores)

    def __str__(self) -> str:
        return f"{self.interval} tasks, seed {self.seed}, norm: {self.norm}"

    def __repr__(self) -> str:
        return f"MetaTest({self})"


@torch.no_grad()
def meta_test(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    n_tasks: int = 1000,
    seed: int = 0,
    metric: Callable[[Tensor, Tensor], Tensor] = accuracy,
    inner_steps: int | None = None,
    tasks_at_once: int = 50,
    purpose: str = "meta-test",
    device: torch.device | str = "cpu",
) -> MetaTest:
    """Adapt to each support set and score on its query set.

    The tasks are the first `n_tasks` of the stream (seed, purpose): the same for every learner.

    >>> import ctml
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.MAML(network, ctml.mse, inner_lr=0.01)
    >>> tasks = ctml.tasks.Sinusoid()
    >>> def error(outputs, targets):
    ...     return (outputs - targets).square().mean((1, 2))
    >>> after = ctml.meta_test(learner, tasks, n_tasks=100, metric=error)
    >>> before = ctml.meta_test(learner, tasks, n_tasks=100, metric=error, inner_steps=0)  # the same tasks
    >>> after.interval.mean < before.interval.mean
    True

    Args:
        metric: maps outputs and targets of the query sets to one score per task.
        inner_steps: adaptation steps if they differ from training's; None keeps the learner's.
        tasks_at_once: tasks drawn and adapted together; part of the stream's definition.
    """
    at_least("n_tasks", n_tasks, 1)
    at_least("tasks_at_once", tasks_at_once, 1)
    stream = generator(seed, purpose)
    modes = {module: module.training for module in learner.modules()}
    learner.eval()  # label smoothing and the like belong to meta-training
    scores: list[Tensor] = []
    try:
        tested = learner if inner_steps is None else learner.with_inner_steps(inner_steps)
        for start in range(0, n_tasks, tasks_at_once):
            batch: TaskBatch = tasks.sample(min(tasks_at_once, n_tasks - start), stream).to(device)
            for part in batch.split(learner.tasks_at_once):
                outputs = tested.predict(tested.adapt(part.support), part.query.x, part.support.x)
                scores.append(metric(outputs, part.query.y).cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    return MetaTest(torch.cat(scores), inner_steps, seed, getattr(learner.model, "norm", "none"))
