"""Problems with known answers and the constants of FO-B-MAML's analysis, all derived here.

Three problems, each a batch of tasks for `ctml.learners.proximal`:
    QSuite              quadratic support and query losses: everything in closed form
    GSuite              log cosh regressions: smooth, convex, not quadratic
    ctml.tasks.Cosine   one dimension, f^ = cos: the objective F has curvature that grows with its gradient

Invariants: float64 throughout; `take` picks tasks, so that several runs go through side by side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctml import rng
from ctml.agreement import relative_error
from ctml.checks import at_least, positive
from ctml.inner_solvers import ClosedForm, GradientDescent, InnerSolver, Iteration, Newton, Objective, Solution, hessian
from ctml.learners.fo_b_maml import perturbed_estimate
from ctml.learners.imaml import implicit_estimate
from ctml.learners.proximal import Estimate, Perturbed, gradient_of, solve_inner
from ctml.tasks.analytic import TaskTable, log_cosh, quadratic
from ctml.theory.rates import Rate, power

Estimator = Callable[..., Estimate]


@dataclass(frozen=True, repr=False)
class QSuite(TaskTable):
    """Quadratic tasks: f^ = 1/2 (phi - a)' A (phi - a), f = 1/2 (phi - b)' B (phi - b).

    Also linear regression with A = X'X/n and a the least-squares solution.

    Args:
        A, a: Hessian and minimiser of the support losses.
        B, b: of the query losses.
    """

    A: Float[Tensor, "tasks d d"]
    a: Float[Tensor, "tasks d"]
    B: Float[Tensor, "tasks d d"]
    b: Float[Tensor, "tasks d"]

    @classmethod
    def draw(cls, n_tasks: int, dim: int, generator: torch.Generator, *, shared_hessian: bool = False) -> "QSuite":
        """Draw spectra log-uniform in [.1, 5] (support) and [.2, 3] (query), minimisers ~ 2 N(0, I).

        Args:
            shared_hessian: all tasks have the same A, where FO-MAML has no bias.
        """
        at_least("n_tasks", n_tasks, 1)
        draws = {"generator": generator, "dtype": torch.float64}

        def matrices(n: int, low: float, high: float) -> Tensor:
            spectrum = low * (high / low) ** torch.rand(n, dim, **draws)
            basis, _ = torch.linalg.qr(torch.randn(n, dim, dim, **draws))
            return (basis * spectrum[:, None]) @ basis.mT

        A = matrices(1 if shared_hessian else n_tasks, 0.1, 5.0).expand(n_tasks, dim, dim)
        a, b = 2 * torch.randn(2, n_tasks, dim, **draws)
        return cls(A, a, matrices(n_tasks, 0.2, 3.0), b)

    def support(self, phi: Float[Tensor, "*points tasks d"]) -> Float[Tensor, "*points tasks"]:
        """Return f^(phi)."""
        return quadratic(self.A, phi - self.a)

    def query(self, phi: Float[Tensor, "*points tasks d"]) -> Float[Tensor, "*points tasks"]:
        """Return f(phi)."""
        return quadratic(self.B, phi - self.b)

    def perturbed_solution(
        self, theta: Float[Tensor, "*tasks d"], lam: float, nu: float | Tensor
    ) -> Float[Tensor, "tasks d"]:
        """Return phi_nu = (nu B + A + lam I)^{-1} (nu B b + A a + lam theta)."""
        right = nu * _times(self.B, self.b) + _times(self.A, self.a) + lam * theta
        return torch.linalg.solve(nu * self.B + self.A + lam * torch.eye(self.A.shape[-1], dtype=self.A.dtype), right)

    def meta_gradient(self, theta: Float[Tensor, "*tasks d"], lam: float) -> Float[Tensor, "tasks d"]:
        """Return grad F_i = lam H_i^{-1} B_i (phi_i - b_i)."""
        slope = _times(self.B, self.perturbed_solution(theta, lam, 0.0) - self.b)
        return lam * torch.linalg.solve(self.A + lam * torch.eye(self.A.shape[-1], dtype=self.A.dtype), slope)

    def largest_curvature(self) -> tuple[float, float]:
        """Return the largest eigenvalue of all support Hessians and of all query Hessians."""
        return float(torch.linalg.eigvalsh(self.A).max()), float(torch.linalg.eigvalsh(self.B).max())

    def optimum(self, lam: float) -> Float[Tensor, " d"]:
        """Return the minimiser of F, which is a quadratic too: its Hessian is mean_i lam^2 H_i^{-1} B_i H_i^{-1}."""
        inverse = lam * torch.linalg.inv(self.A + lam * torch.eye(self.A.shape[-1], dtype=self.A.dtype))
        at_zero = self.meta_gradient(torch.zeros_like(self.a[0]), lam).mean(0)
        return torch.linalg.solve((inverse @ self.B @ inverse).mean(0), -at_zero)


@dataclass(frozen=True, repr=False)
class GSuite(TaskTable):
    """Log cosh regressions: f^ = s mean_j log cosh(x_j . phi - y_j), f = mean_j log cosh(z_j . phi - t_j).

    Args:
        s: scale of the support losses, which differs between tasks.
        x, y: support inputs and targets.
        z, t: query inputs and targets.
    """

    s: Float[Tensor, " tasks"]
    x: Float[Tensor, "tasks n d"]
    y: Float[Tensor, "tasks n"]
    z: Float[Tensor, "tasks n d"]
    t: Float[Tensor, "tasks n"]

    @classmethod
    def draw(cls, n_tasks: int, dim: int, n: int, generator: torch.Generator) -> "GSuite":
        """Draw x, z ~ N(0, I), targets from task weights ~ 2 N(0, I) with noise of size 1/2, s ~ U[.5, 2]."""
        at_least("n_tasks", n_tasks, 1)
        draws = {"generator": generator, "dtype": torch.float64}
        x, z = torch.randn(2, n_tasks, n, dim, **draws)
        w = 2 * torch.randn(n_tasks, dim, **draws)
        y, t = (_times(inputs, w) + 0.5 * torch.randn(n_tasks, n, **draws) for inputs in (x, z))
        return cls(0.5 + 1.5 * torch.rand(n_tasks, **draws), x, y, z, t)

    def support(self, phi: Float[Tensor, "*points tasks d"]) -> Float[Tensor, "*points tasks"]:
        """Return f^(phi)."""
        return self.s * log_cosh(_times(self.x, phi) - self.y).mean(-1)

    def query(self, phi: Float[Tensor, "*points tasks d"]) -> Float[Tensor, "*points tasks"]:
        """Return f(phi)."""
        return log_cosh(_times(self.z, phi) - self.t).mean(-1)

    def largest_curvature(self) -> tuple[float, float]:
        """Return bounds on the eigenvalues of all support Hessians and of all query Hessians; (log cosh)'' <= 1."""
        support, query = (torch.linalg.eigvalsh(v.mT @ v / v.shape[1])[:, -1] for v in (self.x, self.z))
        return float((self.s * support).max()), float(query.max())

    def smoothness(self) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """Return L of the query losses and rho of the support losses.

        |(log cosh)''| <= 1,   |(log cosh)'''| <= 4 / (3 sqrt 3)
        """
        of_query, of_support = (torch.linalg.eigvalsh(v.mT @ v / v.shape[1])[:, -1] for v in (self.z, self.x))
        longest = self.x.norm(dim=2).amax(1)
        return of_query, 4 / (3 * math.sqrt(3)) * self.s * longest * of_support


@dataclass(frozen=True)
class Inexact:
    """A solver whose every solution is off by a random vector of length delta: the inner accuracy of the theory.

    Solves with independent errors are what the law delta / nu is about: equal deterministic runs cancel most of theirs.
    """

    solver: InnerSolver
    delta: float
    generator: torch.Generator

    def solve(self, objective: Objective, start: Float[Tensor, "tasks d"]) -> Solution:
        """Solve, then displace."""
        exact = self.solver.solve(objective, start)
        error = torch.randn(exact.phi.shape, generator=self.generator, dtype=exact.phi.dtype)
        phi = exact.phi + self.delta * error / error.norm(dim=1, keepdim=True)
        return Solution(phi, exact.first_norm, exact.last_norm, exact.evaluations)


class ExactThenDescend(GradientDescent):
    """Solve the unperturbed problem in closed form; take K steps of gradient descent on the others."""

    def solve(self, objective: Perturbed, start: Float[Tensor, "all d"]) -> Solution:
        """Solve by the rule above."""
        return super().solve(objective, start) if any(objective.nus) else ClosedForm().solve(objective, start)


def neumann_series(
    suite: QSuite, theta: Float[Tensor, "*tasks d"], *, lam: float, rate: float, steps: int
) -> Float[Tensor, "tasks d"]:
    """Return lam alpha sum_{k<K} (I - alpha H)^k grad f(phi_0): what K warm-started steps give as nu goes to 0."""
    H = suite.A + lam * torch.eye(suite.A.shape[-1], dtype=suite.A.dtype)
    term = _times(suite.B, suite.perturbed_solution(theta, lam, 0.0) - suite.b)
    total = torch.zeros_like(term)
    for _ in range(steps):
        total, term = total + lam * rate * term, term - rate * _times(H, term)
    return total


@dataclass(frozen=True)
class Constants:
    """What the bias bounds need to know of one task.

    Args:
        lam: pull of the inner problem.
        m: strong convexity of the perturbed inner problems, lam + mu - |nu| L.
        L, rho, rho3: Lipschitz constants of the first, second and third derivatives of both losses.
        B: bound on |grad f| near the adapted parameters.
    """

    lam: float
    m: float
    L: float
    rho: float
    rho3: float
    B: float

    def __post_init__(self) -> None:
        positive("m", self.m)

    def second(self, nu: float) -> float:
        """Return S2 >= |d^2 phi_nu / dnu^2|."""
        v = self.B / self.m
        return (2 * self.L * v + (1 + nu) * self.rho * v**2) / self.m

    def third(self, nu: float) -> float:
        """Return S3 >= |d^3 phi_nu / dnu^3|."""
        v, s2 = self.B / self.m, self.second(nu)
        from_third = 3 * (1 + nu) * self.rho * v * s2 + 3 * self.rho * v**2
        return (3 * self.L * s2 + from_third + (1 + nu) * self.rho3 * v**3) / self.m

    def forward_bias(self, nu: float, delta: float = 0.0) -> float:
        """Return lam S2 nu / 2 + 2 lam delta / nu, a bound on the forward estimate's error."""
        return self.lam * (self.second(nu) * nu / 2 + 2 * delta / nu)

    def symmetric_bias(self, nu: float, delta: float = 0.0) -> float:
        """Return lam S3 nu^2 / 6 + lam delta / nu, a bound on the symmetric estimate's error."""
        return self.lam * (self.third(nu) * nu**2 / 6 + delta / nu)


def generalized_smoothness(lam: float, m, L, rho) -> tuple:
    """Return (L0, L1) with |hess F_i| <= L0 + L1 |grad F_i|.

    L0 = (lam / m)^2 L,   L1 = rho lam / m^2
    """
    return (lam / m) ** 2 * L, rho * lam / m**2


def meta_hessian(suite, theta: Float[Tensor, "tasks d"], lam: float) -> Float[Tensor, "tasks d d"]:
    """Return hess F_i = J hess f J - H^{-1} (D^3 f^ [grad F_i]) J, J = lam H^{-1}, at exact inner solutions."""
    phi = exact_solution(suite, theta, lam)
    H = hessian(suite.support, phi) + lam * torch.eye(phi.shape[1], dtype=phi.dtype)
    J = lam * torch.linalg.inv(H)
    g = _times(J, gradient_of(suite.query, phi))

    def slope_along_g(p: Tensor) -> Tensor:  # its Hessian is D^3 f^ [g]
        return (torch.autograd.grad(suite.support(p).sum(), p, create_graph=True)[0] * g).sum(1)

    return J @ hessian(suite.query, phi) @ J - torch.linalg.solve(H, hessian(slope_along_g, phi) @ J)


def exact_solution(suite, theta: Float[Tensor, "*tasks d"], lam: float) -> Float[Tensor, "tasks d"]:
    """Return phi_0 to rounding: in closed form for quadratics, by Newton's method otherwise."""
    return solve_inner(suite, theta, suite.n_tasks, lam, exact_solver(suite)).phi


def exact_solver(suite) -> ClosedForm | Newton:
    """Return the solver that is exact for a suite."""
    return ClosedForm() if hasattr(suite, "perturbed_solution") else Newton(steps=50, tolerance=1e-12)


def objective(
    suite, theta: Float[Tensor, "runs d"], lam: float
) -> tuple[Float[Tensor, " runs"], Float[Tensor, "runs d"]]:
    """Return F(theta) and the exact grad F(theta) for several theta at once."""
    runs, d = theta.shape
    index = torch.arange(suite.n_tasks).repeat(runs)
    many = suite.take(index)
    exact = implicit_estimate(
        many,
        theta.repeat_interleave(suite.n_tasks, 0),
        len(index),
        lam=lam,
        solver=exact_solver(suite),
        cg_steps=2 * d,
        cg_tolerance=1e-14,
    )
    return many.query(exact.phi).view(runs, -1).mean(1), exact.gradient.view(runs, -1, d).mean(1)


def descend(
    estimator: Estimator,
    suite,
    start: Float[Tensor, "runs d"],
    optimizer: Callable[[list], torch.optim.Optimizer],
    *,
    steps: int,
    sample: Callable[[int], Int[Tensor, "runs batch"]] | None = None,
) -> tuple[Float[Tensor, "points runs d"], Float[Tensor, " points"]]:
    """Run the outer loop from several starts (or seeds) side by side.

    Args:
        estimator: (losses, theta, n_tasks) -> Estimate.
        optimizer: makes the outer optimiser of one run from its parameters.
        sample: step -> indices of the tasks of each run; None takes all tasks at every step.

    Returns:
        The path of theta including its start, and the gradient evaluations per task spent up to each point.
    """
    runs, d = start.shape
    thetas = [nn.Parameter(s.clone()) for s in start]
    optimizers = [optimizer([p]) for p in thetas]
    everything = torch.arange(suite.n_tasks).repeat(runs, 1)
    path, spent = [start.clone()], [0.0]
    for step in range(steps):
        index = everything if sample is None else sample(step)
        theta = torch.stack([p.detach() for p in thetas]).repeat_interleave(index.shape[1], 0)
        estimate = estimator(suite.take(index.flatten()), theta, index.numel())
        for p, g in zip(thetas, estimate.gradient.view(runs, -1, d).mean(1), strict=True):
            p.grad = g
        for o in optimizers:
            o.step()
        path.append(torch.stack([p.detach().clone() for p in thetas]))
        spent.append(spent[-1] + float(estimate.evaluations.double().mean()))
    return torch.stack(path), torch.tensor(spent)


def warm_started(
    suite: QSuite, theta: Float[Tensor, "*tasks d"], *, lam: float, rate: float, steps: int
) -> Float[Tensor, "tasks d"]:
    """Return the symmetric estimate, nu = 1e-5, whose perturbed solves take a few steps from the exact phi_0."""
    options = {"lam": lam, "nu": 1e-5, "order": 2, "solver": ExactThenDescend(rate=rate, steps=steps)}
    return perturbed_estimate(suite, theta, suite.n_tasks, warm_start=True, **options).gradient


def best_error(
    suite: QSuite,
    *,
    theta: Float[Tensor, " d"],
    lam: float,
    solver: Iteration,
    deltas: Float[Tensor, " deltas"],
    nus: Float[Tensor, " nus"],
) -> Float[Tensor, " deltas"]:
    """Return the symmetric estimate's least relative error over nu, the solver stopped at |grad h| <= delta."""
    exact = suite.meta_gradient(theta, lam)

    def error(nu: float, delta: float) -> float:
        options = {"lam": lam, "nu": nu, "solver": replace(solver, tolerance=delta)}
        return relative_error(perturbed_estimate(suite, theta, suite.n_tasks, **options).gradient, exact)

    return torch.tensor([min(error(nu, delta) for nu in nus.tolist()) for delta in deltas.tolist()]).double()


def displaced_errors(
    suite: QSuite,
    theta: Float[Tensor, " d"],
    *,
    lam: float,
    order: int,
    deltas: Float[Tensor, " deltas"],
    nus: Float[Tensor, " nus"],
    draws: int,
    seed: int,
) -> Float[Tensor, "deltas nus"]:
    """Return the relative error of the estimate, exact solutions displaced by delta, over all tasks and noise draws."""
    many = suite.take(torch.arange(suite.n_tasks).repeat(draws))
    exact = many.meta_gradient(theta, lam)
    grid = []
    for delta in deltas.tolist():
        solver = Inexact(ClosedForm(), delta, rng.generator(seed, f"inner errors {delta:.0e}"))
        for nu in nus.tolist():
            found = perturbed_estimate(many, theta, many.n_tasks, lam=lam, nu=nu, order=order, solver=solver)
            grid.append(relative_error(found.gradient, exact))
    return torch.tensor(grid, dtype=torch.float64).view(len(deltas), len(nus))


def tuned_bias_slope(errors: Float[Tensor, "deltas nus"], deltas: Float[Tensor, " deltas"]) -> Rate:
    """Return the exponent of the error in delta when nu is tuned for each delta (the smallest error over the grid)."""
    return power(deltas, errors.amin(1))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("tnd,...td->...tn", matrix, vector)
