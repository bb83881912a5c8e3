"""RK-MAML for policies: stages move by REINFORCE, the weighted surrogate goes through one trust-region step.

    D_j = trajectories at theta^(j),   k_j = grad L(theta^(j); D_j),   theta^(j) = theta - s sum_{l<j} q_jl k_l
    J(theta) = E_task sum_j a_j J(theta^(j); D_j)     subject to     E_task sum_j a_j KL_j <= delta

Letters as in `ctml.learners.rk_maml`. Each stage needs trajectories of its own, and they serve both its k_j and its
part of the surrogate: weight on the unadapted policy (a_1 > 0) costs no further sample. That the constraint carries the
surrogate's weights is our choice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from tqdm.auto import tqdm

from ctml import trees
from ctml.checkpoint import Checkpoint
from ctml.checks import at_least, positive
from ctml.flows.tableaus import Tableau
from ctml.learners.rk_maml import ORDERS
from ctml.rl.environments import Environment
from ctml.rl.policy import GaussianPolicy
from ctml.rl.policy_gradient import Experience, gather, inner_gradient, inner_step, surrogate_and_divergence
from ctml.rl.trpo import TRPO, Objective, Product, Taken
from ctml.rng import generator
from ctml.settings import describe
from ctml.types import Params


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

    def every(self, stride: int) -> "Stages":
        """Keep every `stride`-th step of the trajectories."""
        return Stages([seen.every(stride) for seen in self.experience], self.shifts)

    def of(self, tasks: slice) -> "Stages":
        """Keep some tasks."""
        shifts = [{k: v[tasks] for k, v in shift.items()} for shift in self.shifts]
        return Stages([seen.of(tasks) for seen in self.experience], shifts)


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
    order: str = "first"
    trajectories: int = 20
    discount: float = 0.99
    curvature_every: int = 10

    def __post_init__(self) -> None:
        positive("inner_lr", self.inner_lr)
        positive("discount", self.discount)
        at_least("trajectories", self.trajectories, 2)
        at_least("curvature_every", self.curvature_every, 1)
        if self.order not in ORDERS:
            raise ValueError(f"order={self.order!r}: must be one of {', '.join(ORDERS)}")
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

    def objective(self, stages: Stages) -> Objective:
        """Return theta -> (E_task sum_j a_j J_j, E_task sum_j a_j KL_j), in parts of some tasks each."""

        def value(theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            for tasks in stages.experience[-1].chunks():
                part = stages.of(tasks)
                weighted = [
                    (a / stages.n_tasks * surrogate.sum(), a / stages.n_tasks * divergence.sum())
                    for a, point, seen in self._weighted(theta, part)
                    for surrogate, divergence in [surrogate_and_divergence(self.policy, point, seen)]
                ]
                yield trees.sum_of(j for j, _ in weighted), trees.sum_of(d for _, d in weighted)

        return value

    def fisher(self, stages: Stages) -> Product:
        """Return v -> hess(E_task sum_j a_j KL_j) v at the parameters that the trajectories were made with.

        F = E_task sum_j a_j G_j' M_j G_j,   G_j = d (mean, log sigma)_j / d theta,   M_j = hess KL in (mean, log sigma)

        The rest of the Hessian carries the slope of KL in (mean, log sigma), which is zero there. G v comes from
        differentiating the linear map u -> G'u, so a product is two backward passes (Townsend 2017).
        """
        theta = self.theta.requires_grad_()
        outputs, metric = [], []
        for a, point, seen in self._weighted(theta, stages):
            new = functional_call(self.policy, point, (seen.observations,))
            mean, log_std = new.fisher()
            outputs += new
            metric += [a / stages.n_tasks * seen.share[..., None] * mean.detach(), a / stages.n_tasks * log_std]
        u = [torch.zeros_like(out, requires_grad=True) for out in outputs]
        (pulled,) = torch.autograd.grad(outputs, theta, u, create_graph=True)

        def product(v: Tensor) -> Tensor:
            pushed = torch.autograd.grad(pulled, u, v, retain_graph=True)
            weighted = [m * p for m, p in zip(metric, pushed, strict=True)]
            return torch.autograd.grad(outputs, theta, weighted, retain_graph=True)[0]

        return product

    def outer_step(
        self, goals: Float[Tensor, "tasks goal"], outer: TRPO, stream: torch.Generator
    ) -> tuple[Taken, list]:
        """Take one meta-iteration on these tasks; return what the step did and the stages' mean returns."""
        stages = self.collect(goals, stream)
        taken = outer.step(self.theta, self.objective(stages), self.fisher(stages.every(self.curvature_every)))
        self.load(taken.point)
        return taken, [float(seen.returns.mean()) for seen in stages.experience]

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

    def _weighted(self, theta: Tensor, stages: Stages) -> Iterator[tuple[float, Params, Experience]]:
        """Yield a_j, theta^(j) and D_j of the stages that have weight."""
        for a, point, seen in zip(self.tableau.b, self.stage_points(theta, stages), stages.experience, strict=True):
            if a:
                yield float(a), point, seen

    def _shared(self, theta: Tensor) -> Params:
        return trees.unflatten(theta, dict(self.policy.named_parameters()))

    def _moved(self, params: Params, row: Sequence[Fraction | int], slopes: Sequence[Params]) -> Params:
        for q, k in zip(row, slopes, strict=True):
            if q:
                params = trees.axpy(-self.inner_lr * float(q / self.tableau.a[1][0]), k, params)
        return params

    def _gather(self, params: Params, goals: Tensor, stream: torch.Generator) -> Experience:
        return gather(self.environment, self.policy, params, goals, self.trajectories, self.discount, stream)


@dataclass
class PolicyHistory:
    """One entry per meta-iteration: mean return at each stage, divergence of the step, and whether it moved."""

    returns: list[list[float]] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    moved: list[bool] = field(default_factory=list)


def meta_train_policy(
    method: MetaPolicy,
    *,
    iterations: int,
    meta_batch: int,
    seed: int,
    outer: TRPO | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
    progress: bool = True,
) -> PolicyHistory:
    """Take `iterations` trust-region steps, each on `meta_batch` fresh tasks.

    Args:
        outer: settings of the step, `TRPO()` by default.
        checkpoint: file to resume from and to write to, atomically; a resumed run ends with the same numbers.

    Raises:
        ValueError: if the checkpoint belongs to a run with other settings, or has taken more iterations than asked for.
    """
    at_least("iterations", iterations, 0)
    at_least("meta_batch", meta_batch, 1)
    at_least("checkpoint_every", checkpoint_every, 1)
    outer, history = outer or TRPO(), PolicyHistory()
    stream = generator(seed, "meta-train policy")
    settings = describe(seed=seed, meta_batch=meta_batch, method=method, outer=outer)
    file = Checkpoint(checkpoint, settings)
    saved = file.load(most=iterations)
    if saved is not None:
        method.load(saved["theta"])
        stream.set_state(saved["stream"])
        history = PolicyHistory(**saved["history"])
    for i in tqdm(range(len(history.moved), iterations), disable=not progress, leave=False):
        taken, returns = method.outer_step(method.environment.draw(meta_batch, stream), outer, stream)
        history.returns.append(returns)
        history.divergence.append(taken.divergence)
        history.moved.append(taken.shortened is not None)
        if (i + 1) % checkpoint_every == 0 or i + 1 == iterations:
            file.save(i + 1, {"theta": method.theta, "stream": stream.get_state(), "history": vars(history)})
    return history
