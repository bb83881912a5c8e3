"""Inner solvers against the closed form of quadratic tasks, in float64."""

import pytest
import torch

from ctml.inner_solvers import LBFGS, ClosedForm, GradientDescent, InnerSolveError, Nesterov, Newton, hessian
from ctml.learners.proximal import Perturbed
from ctml.rng import generator
from ctml.theory.fo_b_maml import GSuite, QSuite

LAM, TASKS, DIM = 1.0, 6, 5
TOLERANCE = 1e-9
ITERATIVE = [
    GradientDescent(rate=1 / 6, steps=400, tolerance=TOLERANCE),
    Nesterov(rate=1 / 6, convexity=LAM, steps=400, tolerance=TOLERANCE),
    LBFGS(steps=60, tolerance=TOLERANCE),
    Newton(steps=3, tolerance=TOLERANCE),
]


@pytest.fixture
def suite():
    return QSuite.draw(TASKS, DIM, generator(0, "q"))


@pytest.fixture
def theta():
    return torch.randn(DIM, generator=generator(0, "theta"), dtype=torch.float64)


def solve(solver, suite, theta, nu=0.0):
    return solver.solve(Perturbed(suite, theta, LAM, (nu,)), theta.expand(suite.n_tasks, DIM))


@pytest.mark.parametrize("nu", [0.0, 0.3, -0.1])
@pytest.mark.parametrize("solver", ITERATIVE, ids=lambda s: type(s).__name__)
def test_solution_is_as_close_to_the_closed_form_as_the_tolerance_promises(solver, suite, theta, nu):
    solution = solve(solver, suite, theta, nu)
    convexity = LAM + 0.1 - abs(min(nu, 0)) * 3  # the suite's spectra: support above .1, query below 3
    distance = (solution.phi - suite.perturbed_solution(theta, LAM, nu)).norm(dim=1)
    assert (solution.last_norm <= TOLERANCE).all()
    assert (distance <= TOLERANCE / convexity).all()
    assert (distance > 0).any()


@pytest.mark.parametrize("solver", ITERATIVE, ids=lambda s: type(s).__name__)
def test_a_task_does_not_depend_on_its_neighbours(solver, suite, theta):
    together, alone = solve(solver, suite, theta), solve(solver, suite.take(torch.tensor([2])), theta)
    torch.testing.assert_close(together.phi[2], alone.phi[0], rtol=0, atol=1e-13)
    assert together.evaluations[2] == alone.evaluations[0]


def test_fixed_steps_of_gradient_descent_are_the_plain_recursion(suite, theta):
    solution = solve(GradientDescent(rate=0.1, steps=3), suite, theta)
    phi = theta.expand(TASKS, DIM)
    for _ in range(3):
        phi = phi - 0.1 * (torch.einsum("tde,te->td", suite.A, phi - suite.a) + LAM * (phi - theta))
    torch.testing.assert_close(solution.phi, phi, rtol=1e-12, atol=0)
    assert solution.evaluations.tolist() == [3] * TASKS


def test_gradients_needed_fall_from_gradient_descent_to_nesterov_to_lbfgs(suite, theta):
    descent, nesterov, lbfgs, newton = (solve(s, suite, theta).evaluations.double().mean() for s in ITERATIVE)
    assert descent > 1.5 * nesterov > 1.5 * lbfgs
    assert newton == 2  # one step, and the gradient that shows it arrived


def test_lbfgs_solves_problems_that_are_not_quadratic():
    suite = GSuite.draw(TASKS, DIM, 30, generator(0, "g"))
    theta = torch.full((DIM,), 3.0, dtype=torch.float64)
    by_lbfgs = solve(LBFGS(steps=60, tolerance=1e-10), suite, theta)
    by_newton = solve(Newton(steps=30, tolerance=1e-12), suite, theta)
    assert ((by_lbfgs.phi - by_newton.phi).norm(dim=1) <= 2e-10 / LAM).all()


def test_closed_form_is_the_stationary_point(suite, theta):
    solution = solve(ClosedForm(), suite, theta, 0.2)
    assert Perturbed(suite, theta, LAM, (0.2,)).gradient(solution.phi).norm(dim=1).max() < 1e-12


def test_closed_form_of_other_tasks_is_refused(theta):
    suite = GSuite.draw(2, DIM, 10, generator(0, "g"))
    with pytest.raises(TypeError, match="losses=GSuite: only quadratic tasks have a closed form"):
        solve(ClosedForm(), suite, theta)


def test_a_solver_that_falls_short_says_how_far_it_got(suite, theta):
    with pytest.raises(InnerSolveError, match=r"Descent reached \|grad h\| = .* in 5 steps on task .*take more"):
        solve(GradientDescent(rate=0.1, steps=5, tolerance=1e-9), suite, theta)


def test_a_solver_that_diverges_says_so(suite, theta):
    with pytest.raises(InnerSolveError, match="it diverges: take a smaller rate"):
        solve(GradientDescent(rate=2.0, steps=2000, tolerance=1e-9), suite, theta)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDescent(rate=0), "rate=0: must be a positive"),
        (lambda: GradientDescent(steps=-1), "steps=-1: must be at least 0"),
        (lambda: GradientDescent(tolerance=-1e-3), "tolerance=-0.001: must be a positive"),
        (lambda: Nesterov(rate=1.0, convexity=2.0), "rate=1.0: convexity=2.0 allows at most 1 / convexity = 0.5"),
        (lambda: LBFGS(memory=0), "memory=0: must be at least 1"),
    ],
)
def test_senseless_solvers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_hessian_of_a_quadratic(suite):
    phi = torch.randn(TASKS, DIM, generator=generator(0, "phi"), dtype=torch.float64)
    torch.testing.assert_close(hessian(suite.query, phi), suite.B, rtol=1e-12, atol=1e-12)
