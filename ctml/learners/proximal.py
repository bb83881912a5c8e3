"""The proximal inner problem, and the two classical first-order estimators built on it.

    h_nu(phi) = nu f(phi) + f^(phi) + lam/2 |phi - theta|^2,   phi_nu(theta) = argmin h_nu   (f^ support, f query loss)
    F(theta) = mean_i f_i(phi_0i(theta)),   grad F_i = lam H_i^{-1} grad f_i(phi_0i),   H_i = hess f^_i(phi_0i) + lam I

Tasks are two functions of one vector each, so the same estimators serve networks (a `Learner` flattens its parameters)
and problems that have no examples (`ctml.tasks.analytic`).

Invariants:
    * An estimate builds no graph through the inner solver: its memory does not depend on the number of inner steps.
    * theta is `(d,)`, shared, or `(tasks, d)`, one start per task; estimates and solutions are `(tasks, d)`.
    * Inner problems of several nu are one problem of nus x tasks tasks: `Perturbed` alone knows that they are related.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctml import trees
from ctml.checks import positive
from ctml.inner_solvers import InnerSolver, Iteration, Solution
from ctml.learners.gradient_learner import GradientLearner
from ctml.models.per_task import BATCH_NORMS
from ctml.tasks.analytic import Losses, LossFunctions, TaskLosses
from ctml.types import Examples, Loss, Model, Params, TaskBatch

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class MiniBatches(LossFunctions):
    """Task losses whose support loss is that of another mini-batch at every inner step.

    Args:
        support, query, n_tasks: of all examples.
        at_step: the support loss of one inner step.
    """

    at_step: Callable[[int], Losses]


class Estimate(NamedTuple):
    """An estimated meta-gradient with where it was taken.

    Attributes:
        gradient: one estimate of grad F_i per task.
        phi: the adapted parameters phi_0i, or within O(nu^2) of them.
        evaluations: gradients (of any loss or inner objective) that each task cost; a Hessian-vector product is two.
    """

    gradient: Float[Tensor, "tasks d"]
    phi: Float[Tensor, "tasks d"]
    evaluations: Int[Tensor, " tasks"]


@dataclass(frozen=True)
class Perturbed:
    """The inner objective h_nu of every task, for one nu or for several side by side: phi is `(nus * tasks, d)`.

    h_nu(phi) = nu f(phi) + f^(phi) + lam/2 |phi - theta|^2

    Args:
        losses, theta, lam: the tasks, the meta-parameters and the pull.
        nus: the perturbations; all tasks of the first come before all tasks of the second.
    """

    losses: TaskLosses
    theta: Float[Tensor, "*tasks d"]
    lam: float
    nus: tuple[float, ...] = (0.0,)

    def value(self, phi: Float[Tensor, "all d"], step: int = 0) -> Float[Tensor, " all"]:
        """Return h_nu(phi)."""
        points = self._by_nu(phi)
        value = self._support(step)(points) + self.lam / 2 * (points - self.theta).square().sum(-1)
        return (value + self._weights(phi)[:, None] * self.losses.query(points) if any(self.nus) else value).flatten()

    def gradient(self, phi: Float[Tensor, "all d"], step: int = 0) -> Float[Tensor, "all d"]:
        """Return nu grad f(phi) + grad f^(phi) + lam (phi - theta)."""
        points = self._by_nu(phi)
        # Solves that start together share their first gradients; later they never meet again.
        if step == 0 and len(points) > 1 and bool((points == points[:1]).all()):
            points = points[:1]
        gradient = gradient_of(self._support(step), points)
        # One loss after the other and in place: the two graphs need not live at once, and every copy of phi counts.
        if any(self.nus):
            of_query = gradient_of(self.losses.query, points)
            if len(points) < len(self.nus):
                gradient = gradient + self._weights(phi)[:, None, None] * of_query
            else:
                gradient.addcmul_(of_query, self._weights(phi)[:, None, None])
        return gradient.add_(points, alpha=self.lam).sub_(self.theta, alpha=self.lam).flatten(0, 1)

    def closed_form(self) -> Float[Tensor, "all d"]:
        """Return phi_nu where the tasks know it (quadratics)."""
        solution = getattr(self.losses, "perturbed_solution", None)
        if solution is None:
            kind = type(self.losses).__name__
            raise TypeError(f"losses={kind}: only quadratic tasks have a closed form; choose another solver")
        return torch.cat([solution(self.theta, self.lam, nu) for nu in self.nus])

    def _support(self, step: int) -> Losses:
        return self.losses.at_step(step) if isinstance(self.losses, MiniBatches) else self.losses.support

    def _by_nu(self, phi: Tensor) -> Float[Tensor, "nus tasks d"]:
        return phi.unflatten(0, (len(self.nus), -1))

    def _weights(self, like: Tensor) -> Float[Tensor, " nus"]:
        return torch.tensor(self.nus, dtype=like.dtype, device=like.device)


def gradient_of(value: Losses, phi: Float[Tensor, "*points tasks d"]) -> Float[Tensor, "*points tasks d"]:
    """Return each task's gradient of a function `(*points, tasks, d) -> (*points, tasks)`, without a graph."""
    with torch.enable_grad():
        phi = phi.detach().requires_grad_()
        # Tasks do not see each other, so the gradient of the sum is the batch of the tasks' gradients.
        return torch.autograd.grad(value(phi).sum(), phi)[0]


def solve_inner(losses: TaskLosses, theta: Tensor, n_tasks: int, lam: float, solver: InnerSolver) -> Solution:
    """Solve every task's unperturbed inner problem, starting from theta."""
    return solver.solve(Perturbed(losses, theta, lam), theta.expand(n_tasks, theta.shape[-1]))


def fo_maml_estimate(losses, theta, n_tasks, *, lam, solver) -> Estimate:
    """Return grad f(phi_0): the meta-gradient with lam H^{-1} left out (FO-MAML in the proximal set-up)."""
    inner = solve_inner(losses, theta, n_tasks, lam, solver)
    return Estimate(gradient_of(losses.query, inner.phi), inner.phi, inner.evaluations + 1)


def reptile_estimate(losses, theta, n_tasks, *, lam, solver) -> Estimate:
    """Return lam (theta - phi_0), the gradient of the Moreau envelope of f^ (Reptile in the proximal set-up)."""
    inner = solve_inner(losses, theta, n_tasks, lam, solver)
    return Estimate(lam * (theta - inner.phi), inner.phi, inner.evaluations)


def with_steps(solver: InnerSolver, steps: int) -> InnerSolver:
    """Return the same solver with a fixed number of steps."""
    return replace(cast(Iteration, solver), steps=steps, tolerance=None)


class ProximalLearner(GradientLearner):
    """A learner that adapts by solving the proximal inner problem; subclasses say how they estimate the meta-gradient.

    Args:
        model, loss, tasks_at_once: see `Learner`.
        lam: pull lam towards theta; above the largest negative curvature of the support loss.
        solver: inner solver, see `ctml.inner_solvers`.

    Raises:
        ValueError: if lam is not positive.
    """

    def __init__(self, model: Model, loss: Loss, *, lam: float, solver: InnerSolver, tasks_at_once: int | None = None):
        super().__init__(model, loss, tasks_at_once=tasks_at_once)
        positive("lam", lam)
        self.lam, self.solver = lam, solver

    def estimate(self, losses: TaskLosses, theta: Float[Tensor, " d"], n_tasks: int) -> Estimate:
        """Estimate grad F_i(theta) for every task."""
        raise NotImplementedError

    @torch.no_grad()
    def adapt(self, support: Examples) -> Params:
        """Return phi_0, without a graph."""
        loss = self.loss_on(support)
        # nu = 0: the query loss is never asked for
        unperturbed = LossFunctions(loss, query=loss, n_tasks=len(support.x))
        return self.as_params(solve_inner(unperturbed, self.theta(), len(support.x), self.lam, self.solver).phi)

    def with_inner_steps(self, inner_steps: int) -> "ProximalLearner":
        """Return this learner with a fixed number of steps of its solver, which then has no tolerance."""
        other = copy.copy(self)
        other.solver = with_steps(self.solver, inner_steps)
        return other

    @torch.no_grad()
    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add the tasks' estimates; return their query losses at phi_0.

        Raises:
            ValueError: if dropout or batch norm's running statistics would make an inner solve differ from the next.
        """
        self.refuse_noise()
        losses = self.task_losses(part)
        estimate = self.estimate(losses, self.theta(), part.n_tasks)
        self.accumulate(self.as_params(estimate.gradient), weight)
        return losses.query(estimate.phi)

    def theta(self) -> Float[Tensor, " d"]:
        """Return the meta-parameters as one vector."""
        return trees.flatten(self.shared()).detach()

    def as_params(self, phi: Float[Tensor, "tasks d"]) -> Params:
        """Cut vectors into the model's parameters, one set per task (views)."""
        return trees.unflatten(phi, self.shared())

    def loss_on(self, examples: Examples, context: Tensor | None = None) -> Losses:
        """Return phi -> loss of every task on its examples; several points a task go through as more tasks."""
        repeated = {1: (examples.x, examples.y, context)}

        def losses(phi: Float[Tensor, "*points tasks d"]) -> Float[Tensor, "*points tasks"]:
            times = phi.shape[:-2].numel()
            if times not in repeated:  # once a solve and not once a step
                x, y = (torch.cat([part] * times) for part in (examples.x, examples.y))
                repeated[times] = x, y, None if context is None else torch.cat([context] * times)
            x, y, seen = repeated[times]
            return self.loss(self.outputs(self.as_params(phi.flatten(0, -2)), x, seen), y).view(phi.shape[:-1])

        return losses

    def task_losses(self, batch: TaskBatch) -> LossFunctions:
        """Return the support and query losses as functions of phi."""
        query = self.loss_on(batch.query, context=batch.support.x)
        return LossFunctions(self.loss_on(batch.support), query, batch.n_tasks)

    def refuse_noise(self) -> None:
        """Raise if the model draws random numbers or keeps statistics: a difference of solves would be its noise."""
        for name, part in self.model.named_modules():
            if part.training and (isinstance(part, BATCH_NORMS) or (isinstance(part, DROPOUTS) and part.p > 0)):
                raise ValueError(
                    f"model.{name} is an active {type(part).__name__}: the inner solves would see different functions; "
                    "call learner.eval() first, or use ctml.models.BatchNorm, which keeps no state"
                )


class ProximalFOMAML(ProximalLearner):
    """FO-MAML in the proximal set-up: grad f(phi_0). Biased, however exact the inner solver.

    >>> import ctml
    >>> from ctml.inner_solvers import GradientDescent
    >>> batch = ctml.tasks.LinearRegression(dim=3).sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([3, 1], generator=ctml.generator(0, "weights"))
    >>> solver = GradientDescent(steps=50, rate=0.1)
    >>> learner = ctml.ProximalFOMAML(network, ctml.mse, lam=1.0, solver=solver)
    >>> losses = learner.meta_gradient(batch)
    """

    def estimate(self, losses: TaskLosses, theta: Float[Tensor, " d"], n_tasks: int) -> Estimate:
        """Return grad f(phi_0)."""
        return fo_maml_estimate(losses, theta, n_tasks, lam=self.lam, solver=self.solver)


class ProximalReptile(ProximalLearner):
    """Reptile in the proximal set-up: lam (theta - phi_0), which never looks at the query set.

    >>> import ctml
    >>> from ctml.inner_solvers import GradientDescent
    >>> batch = ctml.tasks.LinearRegression(dim=3).sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([3, 1], generator=ctml.generator(0, "weights"))
    >>> solver = GradientDescent(steps=50, rate=0.1)
    >>> learner = ctml.ProximalReptile(network, ctml.mse, lam=1.0, solver=solver)
    >>> losses = learner.meta_gradient(batch)
    """

    def estimate(self, losses: TaskLosses, theta: Float[Tensor, " d"], n_tasks: int) -> Estimate:
        """Return lam (theta - phi_0)."""
        return reptile_estimate(losses, theta, n_tasks, lam=self.lam, solver=self.solver)
