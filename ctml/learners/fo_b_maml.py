"""FO-B-MAML: the meta-gradient as a derivative along a perturbed inner problem (Chayti and Jaggi 2024).

    phi_nu(theta) = argmin_phi  nu f(phi) + f^(phi) + lam/2 |phi - theta|^2
    d/dnu phi_nu at 0 = -H^{-1} grad f(phi_0)   hence   grad F(theta) = -lam d/dnu phi_nu at 0

A finite difference of inner solutions is therefore an estimate of the exact meta-gradient from gradients alone:

    forward    lam (phi_0 - phi_nu) / nu            error O(nu)
    symmetric  lam (phi_-nu - phi_nu) / (2 nu)      error O(nu^2)
    order p    -(lam / nu) sum_j alpha_j phi_(j nu)  error O(nu^p)

The idea and the two estimators' names are the paper's; formulas and orders are derived here (its text was not at hand).
The sign: with theta - phi it is plus, with phi it is minus.

A cheaper relative, ours: put the query loss in as its tangent, nu <grad f(phi_0), phi>. The path phi_nu then has the
same derivative at nu = 0, and the query set costs one gradient instead of one a step.
"""

from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive
from ctml.inner_solvers import InnerSolver, Iteration
from ctml.learners.proximal import Estimate, MiniBatches, Perturbed, ProximalLearner, gradient_of
from ctml.tasks.analytic import Losses, LossFunctions, TaskLosses
from ctml.types import Examples, Loss, Model, TaskBatch

ORDERS = {"forward": 1, "symmetric": 2}


def stencil(order: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return nodes j and weights alpha_j with sum_j alpha_j psi(j nu) / nu = psi'(0) + O(nu^order).

    An even order needs as many nodes, symmetric and without 0; an odd one needs one more.
    """
    at_least("order", order, 1)
    half = order // 2
    nodes = tuple(j for j in range(-half, half + 1 + order % 2) if j != 0 or order % 2)
    powers = torch.tensor(nodes, dtype=torch.float64) ** torch.arange(len(nodes), dtype=torch.float64)[:, None]
    target = torch.zeros(len(nodes), dtype=torch.float64)
    target[1] = 1
    return nodes, tuple(torch.linalg.solve(powers, target).tolist())


def largest_safe_nu(order: int, convexity: float, smoothness: float) -> float:
    """Return the nu below which every perturbed problem of the stencil stays strongly convex: m / (L max -j)."""
    deepest = -min(stencil(order)[0])
    return convexity / (smoothness * deepest) if deepest else float("inf")


def perturbed_estimate(
    losses: TaskLosses,
    theta: Float[Tensor, "*tasks d"],
    n_tasks: int,
    *,
    lam: float,
    nu: float,
    order: int = 2,
    solver: InnerSolver,
    warm_start: bool = False,
    tangent: bool = False,
    stacked: bool = True,
) -> Estimate:
    """Estimate grad F_i from inner solutions at several nu.

    g = -(lam / nu) sum_j alpha_j phi_(j nu)

    Args:
        losses, theta, lam, solver: the tasks, the meta-parameters, the pull and the inner solver.
        nu: perturbation; the truncation error is O(nu^order), an inner error delta weighs delta / nu.
        order: 1 is forward, 2 symmetric.
        warm_start: start the perturbed solves from phi_0 (one more solve unless the stencil has it) and not from theta.
        tangent: perturb by nu <grad f(phi_0), phi> instead of nu f(phi), which also asks for phi_0 first.
        stacked: solve all nu side by side, sharing the first gradients; else one after another, in less memory.
    """
    nodes, weights = stencil(order)
    start = theta.expand(n_tasks, theta.shape[-1])
    gradient, phi = torch.zeros_like(start), torch.zeros_like(start)
    evaluations = torch.zeros(n_tasks, dtype=torch.int64, device=start.device)
    weight = dict(zip(nodes, weights, strict=True))
    middle_first = warm_start or tangent
    # Where phi_0 itself is not asked for, the middle of phi_-nu and phi_nu is within O(nu^2) of it.
    adapted = {0: 1.0} if middle_first or 0 in nodes else {-1: 0.5, 1: 0.5}
    ordered = sorted({*nodes, *adapted}, key=abs)
    rest = ordered[1:] if middle_first else ordered
    # Sums are kept and no solutions, for the memory's sake.
    for group in ([[0]] if middle_first else []) + ([rest] if stacked else [[j] for j in rest]):
        problem = Perturbed(losses, theta, lam, tuple(j * nu for j in group))
        solution = solver.solve(problem, start.repeat(len(group), 1) if len(group) > 1 else start)
        for j, solved in zip(group, solution.phi.unflatten(0, (len(group), n_tasks)), strict=True):
            gradient.add_(solved, alpha=-lam / nu * weight.get(j, 0.0))
            phi.add_(solved, alpha=adapted.get(j, 0.0))
        spent = solution.evaluations.view(len(group), n_tasks)
        evaluations = evaluations + spent.sum(0) - (len(group) - 1) * spent[0].clamp_max(1)
        if middle_first and group == [0]:
            if tangent:
                losses, evaluations = with_tangent(losses, solution.phi), evaluations + 1
            if warm_start:
                start = solution.phi
        del solution, solved  # else they would live through the next solve
    return Estimate(gradient, phi, evaluations)


def with_tangent(losses: TaskLosses, phi: Float[Tensor, "tasks d"]) -> LossFunctions:
    """Return the losses with the query loss replaced by its linear part at phi."""
    slope = gradient_of(losses.query, phi)

    def linear(points: Float[Tensor, "*points tasks d"]) -> Float[Tensor, "*points tasks"]:
        return (slope * points).sum(-1)

    if isinstance(losses, LossFunctions):
        return replace(losses, query=linear)
    return LossFunctions(losses.support, linear, losses.n_tasks)


class FOBMAML(ProximalLearner):
    """First-order meta-learning without the bias of FO-MAML and Reptile.

    >>> import ctml, torch
    >>> from ctml.inner_solvers import GradientDescent
    >>> batch = ctml.tasks.LinearRegression(dim=3).sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([3, 1], generator=ctml.generator(0, "weights"))
    >>> solver = GradientDescent(steps=50, rate=0.1)
    >>> learner = ctml.FOBMAML(network, ctml.mse, lam=1.0, nu=0.1, solver=solver)
    >>> losses = learner.meta_gradient(batch)
    >>> seen = network.head.weight.grad.clone()
    >>> losses = ctml.IMAML(network, ctml.mse, lam=1.0, solver=solver).meta_gradient(batch)
    >>> torch.allclose(seen, network.head.weight.grad, rtol=0.02)  # without a second derivative
    True

    Args:
        model, loss, lam, solver, tasks_at_once: see `ProximalLearner`.
        nu: perturbation of the inner problem; see `perturbed_estimate`.
        difference: "forward", "symmetric", or the order p of a finite difference.
        warm_start: start the perturbed solves from phi_0. From theta (the default) all solves take the same steps, and
            most of their inner error cancels.
        tangent: put the query loss into the inner problem as its tangent at phi_0: ours, not the paper's. One solve and
            a query gradient come first; then no step looks at the query set.
        stacked: take the perturbed solves side by side; else one after another, slower and in less memory.
        curvature: bounds (mu, L), hess f^ >= mu I (negative where not convex) and hess f <= L I, where they are known:
            then nu and lam are checked against them.
        minibatch: support examples per inner step, drawn with replacement; None takes them all.
        generator: source of the mini-batches.
        common_random_numbers: all solves of one estimate see the same mini-batches; without, noise / nu is added.

    Raises:
        ValueError: lam too small or nu too large for a convex inner problem, an unknown difference, mini-batches
            without a generator or with a tolerance.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        lam: float,
        nu: float,
        solver: InnerSolver,
        difference: str | int = "symmetric",
        warm_start: bool = False,
        tangent: bool = False,
        stacked: bool = True,
        curvature: tuple[float, float] | None = None,
        minibatch: int | None = None,
        generator: torch.Generator | None = None,
        common_random_numbers: bool = True,
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, lam=lam, solver=solver, tasks_at_once=tasks_at_once)
        positive("nu", nu)
        if isinstance(difference, str) and difference not in ORDERS:
            known = ", ".join(ORDERS)
            raise ValueError(f"difference={difference!r}: must be one of {known}, or an order 1, 2, ...")
        self.nu, self.accuracy = nu, ORDERS[difference] if isinstance(difference, str) else difference
        at_least("difference", self.accuracy, 1)
        if curvature is not None:
            refuse_lost_convexity(lam, nu, self.accuracy, *curvature)
        if minibatch is not None:
            at_least("minibatch", minibatch, 1)
            if generator is None or cast(Iteration, solver).tolerance is not None:
                raise ValueError(
                    f"minibatch={minibatch}: give a generator to draw it from, and a solver without a tolerance, "
                    "which a stochastic gradient never reaches"
                )
        self.warm_start, self.tangent, self.common_random_numbers = warm_start, tangent, common_random_numbers
        # A stack has one mini-batch a step for all its solves, which is what common random numbers are.
        self.stacked = stacked and (common_random_numbers or minibatch is None)
        self.minibatch, self.generator = minibatch, generator

    def estimate(self, losses: TaskLosses, theta: Float[Tensor, " d"], n_tasks: int) -> Estimate:
        """Return the finite difference of the perturbed solutions."""
        return perturbed_estimate(
            losses,
            theta,
            n_tasks,
            lam=self.lam,
            nu=self.nu,
            order=self.accuracy,
            solver=self.solver,
            warm_start=self.warm_start,
            tangent=self.tangent,
            stacked=self.stacked,
        )

    def task_losses(self, batch: TaskBatch) -> LossFunctions:
        """Return the losses as functions of phi; with mini-batches, step k of every solve sees batch k."""
        losses = super().task_losses(batch)
        source, size = self.generator, self.minibatch
        if size is None or source is None:
            return losses
        steps = cast(Iteration, self.solver).steps
        n_tasks, n = batch.support.x.shape[:2]
        tasks = torch.arange(n_tasks)[:, None]

        def draw() -> Tensor:
            return torch.randint(n, (steps, n_tasks, size), generator=source, device=source.device)

        fixed = draw() if self.common_random_numbers else None

        def at_step(step: int) -> Losses:
            index = (draw() if fixed is None else fixed)[step].to(batch.support.x.device)
            part = Examples(batch.support.x[tasks, index], batch.support.y[tasks, index])
            return self.loss_on(part)

        return MiniBatches(losses.support, losses.query, n_tasks, at_step)


def refuse_lost_convexity(lam: float, nu: float, order: int, least: float, smoothness: float) -> None:
    """Raise ValueError unless every perturbed inner problem is strongly convex.

    m = lam + mu > 0  and  nu max(-j) L < m

    Args:
        lam, nu, order: of the estimator.
        least: smallest curvature mu of the support loss.
        smoothness: largest curvature L of the query loss.
    """
    if lam + least <= 0:
        raise ValueError(
            f"lam={lam}: the support loss has curvature down to {least}, so the inner problem is not convex; "
            f"take lam > {-least:.4g}"
        )
    safe = largest_safe_nu(order, lam + least, smoothness)
    if nu >= safe:
        raise ValueError(
            f"nu={nu}: the problem perturbed by {nu * min(stencil(order)[0]):.4g} loses its convexity "
            f"(m={lam + least:.4g}, L={smoothness:.4g}); take nu < {safe:.4g}, or difference='forward'"
        )
