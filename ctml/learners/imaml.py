"""Implicit MAML: the exact meta-gradient of the proximal inner problem (Rajeswaran, Finn, Kakade, Levine 2019).

    grad F_i(theta) = lam H_i^{-1} grad f_i(phi_0i),   H_i = hess f^_i(phi_0i) + lam I

The linear system is solved by conjugate gradients with Hessian-vector products; no graph goes through the inner solver.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive
from ctml.conjugate_gradients import conjugate_gradients
from ctml.inner_solvers import InnerSolver
from ctml.learners.proximal import Estimate, ProximalLearner, gradient_of, solve_inner
from ctml.tasks.analytic import TaskLosses
from ctml.types import Loss, Model


def implicit_estimate(
    losses: TaskLosses,
    theta: Float[Tensor, "*tasks d"],
    n_tasks: int,
    *,
    lam: float,
    solver: InnerSolver,
    cg_steps: int = 20,
    cg_tolerance: float = 1e-10,
    truncate: bool = False,
) -> Estimate:
    """Return lam H^{-1} grad f(phi_0), by conjugate gradients; options as in `conjugate_gradients`."""
    inner = solve_inner(losses, theta, n_tasks, lam, solver)
    right = lam * gradient_of(losses.query, inner.phi)
    with torch.enable_grad():
        phi = inner.phi.detach().requires_grad_()
        (slope,) = torch.autograd.grad(losses.support(phi).sum(), phi, create_graph=True)

    products = 0

    def times_h(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return torch.autograd.grad(slope, phi, v, retain_graph=True)[0] + lam * v

    solution = conjugate_gradients(times_h, right, steps=cg_steps, tolerance=cg_tolerance, truncate=truncate)
    return Estimate(solution, inner.phi, inner.evaluations + 2 + 2 * products)


class IMAML(ProximalLearner):
    """Meta-learn with the exact meta-gradient of the proximal inner problem.

    >>> import ctml
    >>> from ctml.inner_solvers import GradientDescent
    >>> batch = ctml.tasks.LinearRegression(dim=3).sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([3, 1], generator=ctml.generator(0, "weights"))
    >>> solver = GradientDescent(steps=50, rate=0.1)
    >>> learner = ctml.IMAML(network, ctml.mse, lam=1.0, solver=solver)
    >>> losses = learner.meta_gradient(batch)
    >>> learner.adapt(batch.support)["head.weight"].shape  # phi_0, pulled towards theta by lam
    torch.Size([4, 1, 3])

    Args:
        model, loss, lam, solver, tasks_at_once: see `ProximalLearner`.
        cg_steps, cg_tolerance, truncate: see `conjugate_gradients`.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        lam: float,
        solver: InnerSolver,
        cg_steps: int = 20,
        cg_tolerance: float = 1e-10,
        truncate: bool = False,
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, lam=lam, solver=solver, tasks_at_once=tasks_at_once)
        at_least("cg_steps", cg_steps, 1)
        positive("cg_tolerance", cg_tolerance)
        self.options = {"cg_steps": cg_steps, "cg_tolerance": cg_tolerance, "truncate": truncate}

    def estimate(self, losses: TaskLosses, theta: Float[Tensor, " d"], n_tasks: int) -> Estimate:
        """Return lam H^{-1} grad f(phi_0)."""
        return implicit_estimate(losses, theta, n_tasks, lam=self.lam, solver=self.solver, **self.options)
