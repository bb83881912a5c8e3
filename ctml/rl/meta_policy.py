"""RK-MAML for policies, the learner: a policy, its stages, and how it adapts.

    D_j = trajectories at theta^(j),   k_j = grad L(theta^(j); D_j),   theta^(j) = theta - s sum_{l<j} q_jl k_l

Letters as in `ctml.learners.rk_maml`. Each stage needs trajectories of its own, and they serve both its k_j and its
part of the surrogate (`ctml.rl.objective`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.checks import at_least, one_of, positive
from ctml.flows.tableaus import Tableau
from ctml.rl.environments import Environment
from ctml.rl.policy import GaussianPolicy
from ctml.rl.policy_gradient import Experience, gather, inner_gradient, inner_step
from ctml.types import Params

Order = Literal["first", "second"]


@dataclass(frozen=True)
class Stages:
    """The trajectories of a meta-batch at every stage, and how far each stage stands from theta.

    Args:
        experience: D_j, one per stage.
        shifts: theta^(j) - theta, per task.
    """

    experience: list[Experience]
    shifts: list[Params]

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.experience[0].returns)

    def thin(self, stride: int) -> "Stages":
        """Keep every `stride`-th step of the trajectories."""
        return Stages([seen.thin(stride) for seen in self.experience], self.shifts)

    def select(self, tasks: slice) -> "Stages":
        """Keep some tasks."""
        shifts = [{k: v[tasks] for k, v in shift.items()} for shift in self.shifts]
        return Stages([seen.select(tasks) for seen in self.experience], shifts)


@dataclass
class MetaPolicy:
    """A policy with the way it adapts and the direction in which it meta-learns.

    Args:
        policy, environment: what is trained, and where.
        tableau: `EULER` is joint training, `rk2(1)` MAML, `rk2(a2)` and others the rest of the family.
        inner_lr: alpha, the step to the second stage and of adaptation.
        order: "first" leaves out the derivative of the k_l; "second" keeps it. Both leave out how the distribution
            of later trajectories depends on theta.
        trajectories: per task and stage.
        discount: of rewards, in the advantages.
        curvature_every: the Hessian of the divergence uses every so manieth step of the trajectories.

    Raises:
        ValueError: an option out of its range, or a tableau with a negative weight (a constraint cannot have one).
    """

    policy: GaussianPolicy
    environment: Environment
    tableau: Tableau
    inner_lr: float = 0.1
    order: Order = "first"
    trajectories: int = 20
    discount: float = 0.99
    curvature_every: int = 10

    def __post_init__(self) -> None:
        positive("inner_lr", self.inner_lr)
        positive("discount", self.discount)
        at_least("trajectories", self.trajectories, 2)
        at_least("curvature_every", self.curvature_every, 1)
        one_of("order", self.order, get_args(Order))
        if min(self.tableau.b) < 0:
            raise ValueError(f"tableau={self.tableau.name!r} has a negative weight, which the constraint cannot carry")

    @property
    def theta(self) -> Float[Tensor, " d"]:
        """The policy's parameters as one vector."""
        return trees.flatten(dict(self.policy.named_parameters())).detach()

    def collect(self, goals: Float[Tensor, "tasks goal"], stream: torch.Generator) -> Stages:
        """Gather the trajectories of every stage, one stage after another."""
        theta = self._shared(self.theta)
        expanded = trees.expand(theta, len(goals))
        found, shifts, slopes = [], [], []
        for row in self.tableau.a:
            point = self._moved(expanded, row, slopes)
            # At the first stage all tasks share their parameters: one matrix product instead of one per task.
            found.append(self._gather(point if row else theta, goals, stream))
            shifts.append(trees.sub(point, expanded))
            if len(found) < self.tableau.stages:
                slopes.append(inner_gradient(self.policy, point, found[-1]))
        return Stages(found, shifts)

    def stage_points(self, theta: Float[Tensor, " d"], stages: Stages) -> list[Params]:
        """Return theta^(1) .. theta^(stages) per task as functions of theta, at second order through the k_l."""
        params = trees.expand(self._shared(theta), stages.n_tasks)
        if self.order == "first":  # wherever theta is tried, the k_l are those of the old parameters
            return [trees.add(params, shift) for shift in stages.shifts]
        points, slopes = [], []
        for row, seen in zip(self.tableau.a, stages.experience, strict=True):
            points.append(self._moved(params, row, slopes))
            if len(points) < self.tableau.stages:
                slopes.append(inner_gradient(self.policy, points[-1], seen))
        return points

    def adapt(self, goals: Float[Tensor, "tasks goal"], rates: Sequence[float], stream: torch.Generator) -> Params:
        """Return each task's parameters after one REINFORCE step per rate, each on fresh trajectories."""
        params = trees.expand(self._shared(self.theta), len(goals))
        for rate in rates:
            params = inner_step(self.policy, params, self._gather(params, goals, stream), rate)
        return params

    def returns(
        self, goals: Float[Tensor, "tasks goal"], rates: Sequence[float], stream: torch.Generator
    ) -> Float[Tensor, "steps tasks"]:
        """Return each task's mean return before and after each adaptation step, with the steps' rates."""
        params, found = trees.expand(self._shared(self.theta), len(goals)), []
        for rate in (*rates, None):
            seen = self._gather(params, goals, stream)
            found.append(seen.returns.mean(1))
            if rate is not None:
                params = inner_step(self.policy, params, seen, rate)
        return torch.stack(found)

    def load(self, theta: Float[Tensor, " d"]) -> None:
        """Set the policy's parameters."""
        with torch.no_grad():
            for name, value in self._shared(theta).items():
                self.policy.get_parameter(name).copy_(value)

    def _shared(self, theta: Tensor) -> Params:
        return trees.unflatten(theta, dict(self.policy.named_parameters()))

    def _moved(self, params: Params, row: Sequence[Fraction | int], slopes: Sequence[Params]) -> Params:
        for q, k in zip(row, slopes, strict=True):
            if q:
                params = trees.axpy(-self.inner_lr * float(q / self.tableau.a[1][0]), k, params)
        return params

    def _gather(self, params: Params, goals: Tensor, stream: torch.Generator) -> Experience:
        return gather(self.environment, self.policy, params, goals, self.trajectories, self.discount, stream)
