"""BI-MAML: joint training while gradients are large, then MAML (Xu, Chen, Karbasi 2021).

    phase 1   G = mean_i grad f_i(w)                                 no inner step: one gradient per task
    phase 2   G = mean_i (I - alpha H_i) grad f_i(w - alpha g_i)     MAML, in whatever order is chosen

The outer optimiser is handed G in both phases and keeps its state over the switch, which happens once. That the phases
are told apart by gradient norms is the paper's idea; the exact rules here are ours. Not to be confused with Balanced
Incremental MAML (also called BI-MAML).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml import trees
from ctml.checks import at_least, positive
from ctml.learners.maml import MAML
from ctml.types import Loss, TaskBatch


def gradient_units(order: str, inner_steps: int) -> int:
    """Return the cost of a task's meta-gradient in gradients; a Hessian-vector product counts 2.

    joint 1,   first order K + 1,   second order 3K + 1
    """
    return 1 + inner_steps if order == "first" else 1 + 3 * inner_steps


@dataclass(frozen=True)
class Switch:
    """When phase 1 ends: as soon as any of the rules holds.

    Args:
        at_most: K1_max, the outer steps after which it ends in any case. Always needed, for neither norm has to fall:
            mean_i |g_i| has a floor as soon as the tasks differ, and a meta-batch's |mean_i g_i| one by sampling.
        joint_norm: eps_1, ends when |mean_i g_i| <= eps_1.
        inner_norm: G_1, ends when mean_i |g_i| <= G_1.

    Raises:
        ValueError: if at_most is negative, or a norm is not positive (such a rule can never fire).
    """

    at_most: int
    joint_norm: float | None = None
    inner_norm: float | None = None

    def __post_init__(self) -> None:
        at_least("at_most", self.at_most, 0)
        for name in ("joint_norm", "inner_norm"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.inner_norm is not None and self.joint_norm is not None and self.inner_norm <= self.joint_norm:
            raise ValueError(
                f"inner_norm={self.inner_norm}: never fires before joint_norm={self.joint_norm}, since mean |g_i| "
                f"is at least |mean g_i|; take inner_norm above joint_norm or leave it out"
            )

    def fires(self, joint_norm: Tensor, inner_norm: Tensor | None) -> bool:
        """Tell whether one of the norm rules holds."""
        return (self.joint_norm is not None and bool(joint_norm <= self.joint_norm)) or (
            self.inner_norm is not None and inner_norm is not None and bool(inner_norm <= self.inner_norm)
        )


class BiMAML(MAML):
    """Meta-learn an initialisation in two phases, joint training and MAML.

    Args:
        model, loss: see `Learner`.
        switch: when phase 1 ends.
        inner_lr, inner_steps, order, tasks_at_once: those of phase 2, see `MAML`.

    Attributes:
        joint_steps: outer steps of phase 1 so far, an int tensor (in checkpoints, as the next two).
        switched: whether phase 2 has begun.
        units: cost so far per task, in gradients.
    """

    joint_steps: Tensor
    switched: Tensor
    units: Tensor

    def __init__(self, model: nn.Module, loss: Loss, *, switch: Switch, **options):
        super().__init__(model, loss, **options)
        self.switch = switch
        self.register_buffer("joint_steps", torch.tensor(0))
        self.register_buffer("switched", torch.tensor(switch.at_most == 0))
        self.register_buffer("units", torch.tensor(0))

    def meta_gradient(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Fill `.grad` with the gradient of the phase; return the query losses, before adaptation in phase 1."""
        if not self.switched:
            losses, inner_norm = self._joint_gradient(batch)
            self.units += 1
            joint_norm = trees.norm({k: p.grad for k, p in self.shared().items() if p.grad is not None})
            if not self.switch.fires(joint_norm, inner_norm):
                self.joint_steps += 1
                self.switched.fill_(bool(self.joint_steps >= self.switch.at_most))
                return losses
            self.switched.fill_(True)
        self.units += gradient_units(self.order, self.inner_steps)
        return super().meta_gradient(batch)

    def _joint_gradient(self, batch: TaskBatch) -> tuple[Float[Tensor, " tasks"], Tensor | None]:
        """Fill `.grad` with the gradient of the mean query loss at shared parameters; measure mean_i |g_i| if asked."""
        self.zero_grad()
        losses, norms = [], []
        for part in batch.split(self.tasks_at_once):
            if self.switch.inner_norm is None:  # tasks share their parameters: one ordinary batch
                loss = self.loss(self.predict(self.shared(), part), part.query.y)
                (loss.sum() / batch.n_tasks).backward()
            else:
                own = self.expanded(part.query)
                loss = self.loss(self.predict(own, part), part.query.y)
                each = dict(zip(own, torch.autograd.grad(loss.sum(), list(own.values())), strict=True))
                self.accumulate(each, 1 / batch.n_tasks)
                norms.append(trees.norm(each, batched=True))
            losses.append(loss.detach())
        return torch.cat(losses), torch.cat(norms).mean() if norms else None
