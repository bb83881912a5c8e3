"""BI-MAML: joint training while gradients are large, then MAML (Xu, Chen, Karbasi 2021).

    phase 1   G = mean_i grad f_i(w)                                 no inner step: one gradient per task
    phase 2   G = mean_i (I - alpha H_i) grad f_i(w - alpha g_i)     MAML, in whatever order is chosen

The outer optimiser is handed G in both phases and keeps its state over the switch, which happens once, after the
meta-step at which a rule first holds. That the phases are told apart by gradient norms is the paper's idea; the exact
rules here are ours. Not to be confused with Balanced Incremental MAML (also called BI-MAML).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.checks import at_least, positive
from ctml.counting import count_gradients
from ctml.learners.maml import MAML
from ctml.types import Loss, Model, TaskBatch


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

    def fires(self, joint_steps: int, joint_norm: float, inner_norm: float) -> bool:
        """Tell whether one of the rules holds after this many joint steps, at these norms of the last one."""
        return (
            joint_steps >= self.at_most
            or (self.joint_norm is not None and joint_norm <= self.joint_norm)
            or (self.inner_norm is not None and inner_norm <= self.inner_norm)
        )


class BiMAML(MAML):
    """Meta-learn an initialisation in two phases, joint training and MAML.

    >>> import ctml
    >>> batch = ctml.tasks.Sinusoid().sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.BiMAML(network, ctml.mse, inner_lr=0.01, switch=ctml.Switch(at_most=2))
    >>> for step in range(3):
    ...     losses = learner.meta_gradient(batch)
    ...     print(bool(learner.switched), int(learner.units))  # a joint step takes 1 gradient, a MAML step 4
    False 1
    True 2
    True 6

    Args:
        model, loss: see `Learner`.
        switch: when phase 1 ends.
        inner_lr, inner_steps, order, tasks_at_once: those of phase 2, see `MAML`.

    Attributes:
        joint_steps: meta-steps of phase 1 so far, an int tensor (in checkpoints, as the next two).
        switched: whether phase 2 has begun.
        units: gradients taken so far for each task, counted as they are taken (see `ctml.counting`).
    """

    joint_steps: Tensor
    switched: Tensor
    units: Tensor

    def __init__(self, model: Model, loss: Loss, *, switch: Switch, **options):
        super().__init__(model, loss, **options)
        self.switch = switch
        self.register_buffer("joint_steps", torch.tensor(0))
        self.register_buffer("switched", torch.tensor(switch.at_most == 0))
        self.register_buffer("units", torch.tensor(0))
        self._units, self._inner_norm = 0, 0.0  # of the meta-batch that is going on

    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add the part's gradients of the phase; return the query losses, before adaptation in phase 1."""
        with count_gradients(self) as count:
            losses = super().add_meta_gradient(part, weight) if self.switched else self._add_joint(part, weight)
        self._units = count.units // part.n_tasks  # tasks of one meta-batch all cost the same
        return losses

    def _add_joint(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add the gradients of the query losses at shared parameters, task by task where a rule needs their norms."""
        if self.switch.inner_norm is None:  # tasks share their parameters: one ordinary batch
            losses = self.loss(self.predict(self.shared(), part.query.x, part.support.x), part.query.y)
            (weight * losses.sum()).backward()
        else:
            own = self.expanded(part.query)
            losses = self.loss(self.predict(own, part.query.x, part.support.x), part.query.y)
            each = dict(zip(own, torch.autograd.grad(losses.sum(), list(own.values())), strict=True))
            self.accumulate(each, weight)
            self._inner_norm += weight * float(trees.norm(each, batched=True).sum())
        return losses.detach()

    def after_meta_gradient(self) -> None:
        """Count the step; after one of phase 1 see whether the phase ends."""
        self.units += self._units
        if not self.switched:
            self.joint_steps += 1
            joint_norm = self._joint_norm() if self.switch.joint_norm is not None else math.inf
            self.switched.fill_(self.switch.fires(int(self.joint_steps), joint_norm, self._inner_norm))
        self._inner_norm = 0.0

    def _joint_norm(self) -> float:
        return float(trees.norm({k: p.grad for k, p in self.shared().items() if p.grad is not None}))
