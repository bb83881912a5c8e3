"""The protocol of all meta-learners: adapt, predict, meta_loss, meta_gradient.

    adapted = learner.adapt(batch.support)                                 what a task's own data make of the learner
    outputs = learner.predict(adapted, batch.query.x, batch.support.x)     no labels of the query set are needed
    losses  = learner.meta_loss(batch)                                     loss(outputs, batch.query.y), differentiable
    losses  = learner.meta_gradient(batch)                                 fills `.grad`; an optimiser does the rest

A new method overrides `adapt` and `predict`. One whose meta-gradient is not the derivative of its meta-loss (Reptile,
FO-B-MAML, ...) overrides `add_meta_gradient` as well, and nothing else: splitting the meta-batch and weighting its
tasks are done here, once.

Invariants:
    * A learner's own parameters (`learner.parameters()`) are the meta-parameters, nothing else is trained.
    * Every verb takes a batch of tasks at once; adapted parameters carry a leading `tasks` axis.
    * Tasks do not see each other: a task's loss and gradient do not depend on its neighbours or their order.
    * Under `torch.no_grad()` adaptation builds no graph: that is how meta-testing calls it.
"""

from typing import Any, NoReturn, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ctml.checks import at_least
from ctml.types import Examples, Loss, Model, Params, TaskBatch


class Learner(nn.Module):
    """A model with the loss of its tasks; methods say how it adapts and what its meta-gradient is.

    Args:
        model: an nn.Module that is a `ctml.types.Model`.
        loss: maps outputs and targets to one loss per task.
        tasks_at_once: tasks that go through together; bounds memory. None takes the whole meta-batch.

    Raises:
        TypeError: if the model is no nn.Module.
        ValueError: if `tasks_at_once` is below 1.
    """

    def __init__(self, model: Model, loss: Loss, *, tasks_at_once: int | None = None):
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model={model!r}: must be an nn.Module; see ctml.models, or wrap one in ctml.models.PerTask"
            )
        if tasks_at_once is not None:
            at_least("tasks_at_once", tasks_at_once, 1)
        self.model, self.loss, self.tasks_at_once = model, loss, tasks_at_once

    def adapt(self, support: Examples) -> Params:
        """Adapt to the support sets; return what `predict` needs, with a leading `tasks` axis."""
        raise NotImplementedError(f"{type(self).__name__} must say how it adapts: override adapt(support)")

    def predict(
        self, adapted: Params, x: Shaped[Tensor, "tasks n *features"], support_x: Shaped[Tensor, "tasks s *features"]
    ) -> Float[Tensor, "tasks n *out"]:
        """Return the outputs on x after adaptation; `support_x` gives batch norm its statistics where asked to."""
        raise NotImplementedError(f"{type(self).__name__} must say how it predicts: override predict(...)")

    def meta_loss(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Return the query loss after adaptation, one per task, differentiable through the adaptation."""
        return self.loss(self.predict(self.adapt(batch.support), batch.query.x, batch.support.x), batch.query.y)

    @final
    def meta_gradient(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Fill `.grad` with the mean of the tasks' meta-gradients; return the tasks' losses."""
        self.zero_grad()
        weight = 1 / batch.n_tasks
        losses = torch.cat([self.add_meta_gradient(part, weight) for part in batch.split(self.tasks_at_once)])
        self.after_meta_gradient()
        return losses

    def after_meta_gradient(self) -> None:
        """Take note that `.grad` is whole; here nothing. For methods whose next meta-step depends on this one."""

    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add weight * (sum over the part's tasks of their meta-gradients) to `.grad`; return the tasks' losses."""
        losses = self.meta_loss(part)
        (weight * losses.sum()).backward()
        return losses.detach()

    def with_inner_steps(self, inner_steps: int) -> "Learner":
        """Return this learner, parameters shared, taking another number of inner steps (to evaluate with).

        Raises:
            ValueError: if the method has no inner steps.
        """
        raise ValueError(f"inner_steps={inner_steps}: {type(self).__name__} takes no inner steps; leave it None")

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a learner is adapted first."""
        raise TypeError("learner(...): call learner.predict(adapted, x, support_x), adapted = learner.adapt(support)")
