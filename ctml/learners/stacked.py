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
from ctml.learners.proximal import ProximalLearner
from ctml.models.per_task import BATCH_NORMS
from ctml.types import Examples, Params, TaskBatch


def stack(learners: Sequence[Learner]) -> "Stacked":
    """Return one learner that is all the given runs; they differ in their parameters only.

    >>> import ctml
    >>> networks = [ctml.models.MLP([1, 8, 1], generator=ctml.generator(seed, "weights")) for seed in range(3)]
    >>> runs = ctml.stack([ctml.MAML(network, ctml.mse, inner_lr=0.01) for network in networks])
    >>> batch = ctml.tasks.Sinusoid().sample(3 * 4, ctml.generator(0, "tasks"))
    >>> runs.meta_gradient(batch).shape  # four tasks for each run
    torch.Size([12])
    >>> first, second, third = runs.unstack()

    Raises:
        ValueError: if there are none, they are of different kinds or options, or the method cannot be stacked: what
            it is that stands in the way, by name.
    """
    if not learners:
        raise ValueError("learners is empty: give one learner per run")
    first = learners[0]
    _refuse_method(learners)
    for run, other in enumerate(learners):
        _refuse_difference(first, other, run)
    stacked: Any = copy.deepcopy(first)  # a Stacked from its new class on
    for parameter, *copies in zip(*(m.parameters() for m in (stacked, *learners)), strict=True):
        parameter.data = torch.stack([c.detach() for c in copies])
    stacked.__class__ = type(f"Stacked{type(first).__name__}", (Stacked, type(first)), {})
    stacked.runs = len(learners)
    return stacked


def _refuse_method(learners: Sequence[Learner]) -> None:
    """Raise unless the learners' one method reads its parameters where `Stacked` gives each task those of its run."""
    first = learners[0]
    name, kinds = type(first).__name__, {type(learner) for learner in learners}
    if len(kinds) > 1:
        raise ValueError(f"learners={sorted(k.__name__ for k in kinds)}: stack runs of one method")
    if isinstance(first, ANIL):
        raise ValueError(f"learners={name}: its features are shared by all tasks; run seeds one by one")
    if isinstance(first, ProximalLearner):
        raise ValueError(f"learners={name}: its solver knows one start for all tasks; run seeds one by one")
    if not isinstance(first, GradientLearner):
        raise ValueError(f"learners={name}: it adapts no parameters task by task; run seeds one by one")
    of_model = {id(p) for p in first.model.parameters()}
    own = [n for n, p in first.named_parameters() if id(p) not in of_model]
    if own:
        raise ValueError(f"learners={name}: its own parameters ({', '.join(own)}) belong to no task; run one by one")
    for path, part in first.model.named_modules():
        if isinstance(part, BATCH_NORMS):
            raise ValueError(
                f"learners={name}: model.{path} is a {type(part).__name__}, whose statistics would mix the runs; "
                "use ctml.models.BatchNorm, which keeps none"
            )
    if first.tasks_at_once is not None:
        raise ValueError(f"tasks_at_once={first.tasks_at_once}: a stack takes whole meta-batches; leave it None")
    switch = getattr(first, "switch", None)
    if switch is not None and (switch.joint_norm is not None or switch.inner_norm is not None):
        raise ValueError(f"switch={switch}: a norm switches each run at its own time; stack with at_most alone")


def _refuse_difference(first: Learner, other: Learner, run: int) -> None:
    """Raise if run number `run` differs from the first in more than the numbers in its parameters."""
    options, others = ({k: v for k, v in vars(m).items() if not k.startswith("_")} for m in (first, other))
    for name in options | others:
        mine, its = options.get(name), others.get(name)
        if not (torch.equal(mine, its) if isinstance(mine, Tensor) and isinstance(its, Tensor) else mine == its):
            raise ValueError(
                f"{name}={its} of run {run} is not run 0's {mine}: runs of a stack differ in their parameters only"
            )
    shapes, theirs = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (first, other))
    for name in shapes | theirs:
        if shapes.get(name) != theirs.get(name):
            raise ValueError(
                f"{name} of run {run} has shape {theirs.get(name)}, of run 0 {shapes.get(name)}: stack runs of one "
                "architecture"
            )
    buffers, theirs = dict(first.named_buffers()), dict(other.named_buffers())
    for name in buffers | theirs:
        if name not in buffers or name not in theirs or not torch.equal(buffers[name], theirs[name]):
            raise ValueError(
                f"{name} of run {run} is not run 0's: a stack has one set of buffers; train from the start"
            )


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
