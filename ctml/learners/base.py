"""The protocol of all meta-learners: three verbs, `adapt`, `meta_loss`, `meta_gradient`.

Invariants:
    * A learner's own parameters (`learner.parameters()`) are the meta-parameters, nothing else is trained.
    * Every verb takes a batch of tasks at once; adapted parameters carry a leading `tasks` axis.
    * Under `torch.no_grad()` adaptation builds no graph: that is how meta-testing calls it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ctml import trees
from ctml.types import Examples, Loss, Params, TaskBatch


class Learner(nn.Module):
    """A model with the loss of its tasks; methods say how it adapts and what its meta-gradient is.

    Args:
        model: forward(x, context=None) on `(tasks, n, *features)` (see `ctml.models`).
        loss: maps outputs and targets to one loss per task.
        tasks_at_once: tasks that go through together; bounds memory. None takes the whole meta-batch.
    """

    def __init__(self, model: nn.Module, loss: Loss, *, tasks_at_once: int | None = None):
        super().__init__()
        if tasks_at_once is not None and tasks_at_once < 1:
            raise ValueError(f"tasks_at_once={tasks_at_once}: must be at least 1, or None for the whole meta-batch")
        self.model, self.loss, self.tasks_at_once = model, loss, tasks_at_once

    def shared(self) -> Params:
        """Return the model's parameters before adaptation."""
        return dict(self.model.named_parameters())

    def forward(self, params: Params, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the model's outputs at the given (shared or per-task) parameters."""
        return functional_call(self.model, params, (x,), {"context": context})

    def gradient(self, params: Params, examples: Examples, create_graph: bool = False) -> Params:
        """Return each task's gradient of its loss at per-task parameters, detached unless `create_graph`."""
        with torch.enable_grad():
            if not create_graph:
                params = {k: v.detach().requires_grad_() for k, v in params.items()}
            # Tasks do not see each other, so the gradient of the sum is the batch of the tasks' gradients.
            total = self.loss(self.forward(params, examples.x), examples.y).sum()
            gradients = torch.autograd.grad(total, list(params.values()), create_graph=create_graph)
        return dict(zip(params, gradients, strict=True))

    def adapt(self, support: Examples, inner_steps: int | None = None) -> Params:
        """Adapt to the support sets; `inner_steps` overrides the learner's own number (for evaluation)."""
        raise NotImplementedError

    def predict(self, adapted: Params, batch: TaskBatch) -> Tensor:
        """Return the outputs on the query sets, `(tasks, n, ...)`, at adapted parameters."""
        return self.forward(adapted, batch.query.x, context=batch.support.x)

    def meta_loss(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Return the query loss after adaptation, one per task, differentiable through the adaptation."""
        return self.loss(self.predict(self.adapt(batch.support), batch), batch.query.y)

    def meta_gradient(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Fill `.grad` with the gradient of the mean meta-loss; return the tasks' losses."""
        self.zero_grad()
        losses = []
        for part in batch.split(self.tasks_at_once):
            loss = self.meta_loss(part)
            (loss.sum() / batch.n_tasks).backward()
            losses.append(loss.detach())
        return torch.cat(losses)

    def accumulate(self, gradients: Params, weight: float) -> None:
        """Add weight * (sum over tasks of the per-task gradients) to `.grad`, for methods with their own estimator."""
        for name, parameter in self.shared().items():
            total = weight * gradients[name].sum(0)
            parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)

    def expanded(self, support: Examples) -> Params:
        """Return the shared parameters as seen by each task before its first step (no copy)."""
        return trees.expand(self.shared(), len(support.x))
