"""Several runs of one learner in one batched program: same method, other seeds.

Small models spend their time on launching operations, not on arithmetic, so five runs cost little more than one. Every
parameter gets a leading `runs` axis, and a meta-batch holds the runs' tasks one run after another. An elementwise
optimiser (SGD, Adam) on the stacked parameters is that optimiser on each run; one that mixes parameters (clipping by
the norm) is not.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctml.learners.anil import ANIL
from ctml.learners.base import Learner
from ctml.learners.gradient_learner import GradientLearner
from ctml.types import Examples, Params, TaskBatch


def stack(learners: Sequence[Learner]) -> "Stacked":
    """Return one learner that is all the given runs; they differ in their parameters only.

    Raises:
        ValueError: if there are none, they are of different kinds, adapt a part of the model only, bound memory by
            `tasks_at_once`, or choose their phase by a measured norm (each run would need its own).
    """
    if not learners:
        raise ValueError("learners is empty: give one learner per run")
    first = learners[0]
    kinds = {type(learner) for learner in learners}
    if len(kinds) > 1:
        raise ValueError(f"learners={sorted(k.__name__ for k in kinds)}: stack runs of one method")
    if isinstance(first, ANIL):
        raise ValueError(f"learners={type(first).__name__}: its features are shared by all tasks; run seeds one by one")
    if first.tasks_at_once is not None:
        raise ValueError(f"tasks_at_once={first.tasks_at_once}: a stack takes whole meta-batches; leave it None")
    switch = getattr(first, "switch", None)
    if switch is not None and (switch.joint_norm is not None or switch.inner_norm is not None):
        raise ValueError(f"switch={switch}: a norm switches each run at its own time; stack with at_most alone")
    stacked: Any = copy.deepcopy(first)  # a Stacked from its new class on
    for parameter, *copies in zip(*(m.parameters() for m in (stacked, *learners)), strict=True):
        parameter.data = torch.stack([c.detach() for c in copies])
    stacked.__class__ = type(f"Stacked{type(first).__name__}", (Stacked, type(first)), {})
    stacked.runs = len(learners)
    return stacked


class Stacked(GradientLearner):
    """The part of a stacked learner that keeps runs apart; made by `stack`, never by hand.

    Attributes:
        runs: how many; a meta-batch has a multiple of that many tasks.
    """

    runs: int

    def unstack(self) -> list[Learner]:
        """Return the runs as learners of their own, with copies of their parameters."""
        singles = []
        for run in range(self.runs):
            single = copy.deepcopy(self)
            single.__class__ = type(self).__mro__[2]
            for parameter in single.parameters():
                parameter.data = parameter.data[run].clone()
            singles.append(single)
        return singles

    def expanded(self, support: Examples) -> Params:
        """Give every task the parameters of its run."""
        return self._of_tasks(self.shared(), len(support.x))

    def outputs(self, params: Params, embedded: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the model's outputs at the runs' own or at per-task parameters."""
        n_tasks, first = len(embedded), next(iter(params.values()))
        return super().outputs(params if len(first) == n_tasks else self._of_tasks(params, n_tasks), embedded, context)

    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Tensor:
        """Add each run's own meta-gradient: a run has 1/runs of the tasks, so each weighs that much more."""
        return super().add_meta_gradient(part, weight * self.runs)

    def accumulate(self, gradients: Params, weight: float) -> None:
        """Add weight * the sum over each run's tasks to `.grad`."""
        for name, parameter in self.shared().items():
            total = weight * gradients[name].unflatten(0, (self.runs, -1)).sum(1)
            parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)

    def _of_tasks(self, params: Params, n_tasks: int) -> Params:
        if n_tasks % self.runs:
            raise ValueError(f"n_tasks={n_tasks}: must be a multiple of the {self.runs} stacked runs")
        return {k: v.repeat_interleave(n_tasks // self.runs, 0) for k, v in params.items()}
