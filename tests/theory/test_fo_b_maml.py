"""The suites' closed forms and the analysis's constants against finite differences, in float64."""

import pytest
import torch

from ctml.inner_solvers import ClosedForm, GradientDescent, hessian
from ctml.learners.fo_b_maml import perturbed_estimate
from ctml.learners.imaml import implicit_estimate
from ctml.learners.proximal import Estimate, Perturbed, fo_maml_estimate
from ctml.rng import generator
from ctml.tasks import Cosine
from ctml.theory import rates
from ctml.theory.fo_b_maml import (
    Constants,
    GSuite,
    Inexact,
    QSuite,
    best_error,
    descend,
    displaced_errors,
    exact_solution,
    exact_solver,
    generalized_smoothness,
    meta_hessian,
    objective,
    tuned_bias_slope,
)

LAM, TASKS, DIM = 1.0, 6, 5


@pytest.fixture(params=["quadratic", "log cosh"])
def suite(request):
    if request.param == "quadratic":
        return QSuite.draw(TASKS, DIM, generator(0, "q"))
    return GSuite.draw(TASKS, DIM, 30, generator(0, "g"))


def normal(*shape, purpose="x"):
    return torch.randn(*shape, generator=generator(0, purpose), dtype=torch.float64)


def test_exact_meta_gradient_is_the_derivative_of_the_objective(suite):
    theta, direction, eps = normal(1, DIM), normal(1, DIM, purpose="u"), 1e-5
    _, gradient = objective(suite, theta, LAM)
    (ahead, _), (behind, _) = (objective(suite, theta + s * eps * direction, LAM) for s in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float((ahead - behind) / (2 * eps)), rel=1e-8)


def test_meta_gradient_is_minus_lam_times_the_derivative_along_the_perturbed_path():
    suite, theta = QSuite.draw(TASKS, DIM, generator(0, "q")), normal(DIM)
    nu = torch.zeros((), dtype=torch.float64, requires_grad=True)
    path = suite.perturbed_solution(theta, LAM, nu)
    slope = torch.stack([torch.autograd.grad(p, nu, retain_graph=True)[0] for p in path.flatten()]).view(TASKS, DIM)
    torch.testing.assert_close(-LAM * slope, suite.meta_gradient(theta, LAM), rtol=1e-10, atol=1e-10)


def test_meta_hessian_is_the_derivative_of_the_meta_gradient(suite):
    theta, direction, eps = normal(1, DIM), normal(DIM, purpose="u"), 1e-5
    hessians = meta_hessian(suite, theta.expand(TASKS, DIM), LAM).mean(0)
    (_, ahead), (_, behind) = (objective(suite, theta + s * eps * direction, LAM) for s in (1, -1))
    torch.testing.assert_close(hessians @ direction, ((ahead - behind) / (2 * eps))[0], rtol=1e-6, atol=1e-8)


def test_optimum_of_the_quadratic_suite_is_stationary_and_lowest():
    suite = QSuite.draw(TASKS, DIM, generator(0, "q"))
    best = suite.optimum(LAM)
    value, gradient = objective(suite, torch.stack([best, best + 0.1 * normal(DIM)]), LAM)
    assert gradient[0].norm() < 1e-12
    assert value[0] < value[1]


def test_with_one_support_hessian_fo_maml_is_stationary_where_the_objective_is():
    shared, own = (QSuite.draw(TASKS, DIM, generator(0, "q"), shared_hessian=s) for s in (True, False))
    for suite, right in ((shared, True), (own, False)):
        theta = suite.optimum(LAM)
        estimate = fo_maml_estimate(suite, theta, TASKS, lam=LAM, solver=ClosedForm()).gradient.mean(0)
        assert (estimate.norm() < 1e-11) == right


def test_cosine_in_closed_form():
    tasks = Cosine(torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None])
    phi = torch.linspace(-4, 4, 7, dtype=torch.float64)[:, None]
    theta, first, second = tasks.derivatives(phi, 2.0)
    torch.testing.assert_close(exact_solution(tasks, theta, 2.0), phi, rtol=0, atol=1e-13)
    eps = 1e-6
    ahead, behind = (tasks.query(exact_solution(tasks, theta + s * eps, 2.0)) for s in (1, -1))
    torch.testing.assert_close((ahead - behind)[:, None] / (2 * eps), first, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(meta_hessian(tasks, theta, 2.0)[:, 0], second, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"lam=0\.5: cos has curvature -1"):
        tasks.derivatives(phi, 0.5)


@pytest.mark.parametrize("nu", [0.0, 0.3, -0.04])
def test_perturbed_cosine_is_stationary_also_far_out(nu):
    tasks = Cosine(torch.full((5, 1), torch.pi, dtype=torch.float64))
    theta = torch.tensor([[-200.0], [-1.0], [0.0], [10.0], [200.0]], dtype=torch.float64)
    problem = Perturbed(tasks, theta, 1.05, (nu,))
    assert problem.gradient(problem.closed_form()).abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"lam=0\.9, nu=0\.05: .*take lam \+ nu > 1"):
        tasks.perturbed_solution(theta, 0.9, 0.05)


def test_generalized_smoothness_holds_and_plain_smoothness_does_not():
    phi = torch.linspace(-300, 300, 20001, dtype=torch.float64)[:, None]
    tasks = Cosine(torch.zeros_like(phi))
    _, first, second = tasks.derivatives(phi, 2.0)
    l0, l1 = generalized_smoothness(2.0, m=1.0, L=1.0, rho=1.0)
    assert (second.abs() <= l0 + l1 * first.abs()).all()
    assert second.abs().max() > 50 * l0


def test_smoothness_constants_of_the_log_cosh_suite_bound_its_meta_hessian():
    suite = GSuite.draw(200, 3, 20, generator(0, "g"))
    theta = 3 * normal(200, 3)
    L, rho = suite.smoothness()
    l0, l1 = generalized_smoothness(LAM, m=LAM, L=L, rho=rho)
    size = torch.linalg.matrix_norm(meta_hessian(suite, theta, LAM), ord=2)
    gradient = implicit_estimate(suite, theta, 200, lam=LAM, solver=exact_solver(suite)).gradient.norm(dim=1)
    assert (size <= l0 + l1 * gradient).all()
    assert (size / (l0 + l1 * gradient)).max() > 0.05


@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_bias_bounds_hold_on_quadratics(delta):
    suite, theta, nu = QSuite.draw(TASKS, DIM, generator(0, "q")), normal(DIM), 1e-2
    phi = suite.perturbed_solution(theta, LAM, -nu)
    slopes = torch.einsum("tde,te->td", suite.B, phi - suite.b).norm(dim=1)
    constants = Constants(lam=LAM, m=LAM + 0.1 - nu * 3, L=3.0, rho=0.0, rho3=0.0, B=1.1 * float(slopes.max()))
    solver = ClosedForm() if delta == 0 else Inexact(ClosedForm(), delta, generator(0, "error"))
    for order, bound in ((1, constants.forward_bias(nu, delta)), (2, constants.symmetric_bias(nu, delta))):
        found = perturbed_estimate(suite, theta, TASKS, lam=LAM, nu=nu, order=order, solver=solver).gradient
        error = (found - suite.meta_gradient(theta, LAM)).norm(dim=1)
        assert (error <= bound).all()
        assert error.max() > 1e-4 * bound


def test_largest_curvature_bounds_every_hessian(suite):
    phi = normal(TASKS, DIM)
    for bound, loss in zip(suite.largest_curvature(), (suite.support, suite.query), strict=True):
        largest = float(torch.linalg.eigvalsh(hessian(loss, phi)).max())
        assert 0.3 * bound < largest <= bound * (1 + 1e-12)


def test_a_problem_without_convexity_has_no_bounds():
    with pytest.raises(ValueError, match=r"m=-1\.0: must be a positive"):
        Constants(lam=1.0, m=-1.0, L=1.0, rho=1.0, rho3=1.0, B=1.0)


def test_descent_runs_side_by_side_and_counts_gradients():
    suite = QSuite.draw(TASKS, DIM, generator(0, "q"))

    def exact(losses, theta, n_tasks):
        return Estimate(losses.meta_gradient(theta, LAM), theta, torch.full((n_tasks,), 3))

    starts = torch.stack([torch.zeros(DIM, dtype=torch.float64), normal(DIM)])
    path, spent = descend(exact, suite, starts, lambda p: torch.optim.SGD(p, lr=0.3), steps=400)
    assert path.shape == (401, 2, DIM)
    torch.testing.assert_close(path[-1], suite.optimum(LAM).expand(2, DIM), rtol=1e-4, atol=1e-4)
    assert spent[-1] == 3 * 400


def test_tuned_slope_reads_the_best_nu_of_each_delta():
    deltas = torch.tensor([1e-6, 1e-5, 1e-4, 1e-3], dtype=torch.float64)
    nus = torch.logspace(-5, 1, 200, dtype=torch.float64)
    errors = nus + deltas[:, None] / nus
    assert tuned_bias_slope(errors, deltas).value == pytest.approx(0.5, abs=1e-2)
    assert tuned_bias_slope(nus**2 + deltas[:, None] / nus, deltas).value == pytest.approx(2 / 3, abs=1e-2)
    assert rates.power(deltas, errors[:, 0]).value == pytest.approx(1.0, abs=0.1)


def test_displaced_solutions_pay_delta_over_nu_and_exact_ones_the_truncation_alone():
    suite = QSuite.draw(4, 5, generator(0, "q"))
    theta = torch.ones(5, dtype=torch.float64)
    nus, deltas = torch.tensor([1e-4, 1e-3], dtype=torch.float64), torch.tensor([1e-16, 1e-3], dtype=torch.float64)
    errors = displaced_errors(suite, theta, lam=LAM, order=2, deltas=deltas, nus=nus, draws=50, seed=0)
    assert errors[0].max() < 1e-6  # nothing but the truncation, of order nu^2
    # two independent unit vectors are sqrt 2 apart: lam / 2 nu times that, over the length of the exact gradient
    law = LAM * 1e-3 * 2**0.5 / (2 * nus) / suite.meta_gradient(theta, LAM).square().sum(1).mean().sqrt()
    torch.testing.assert_close(errors[1], law, rtol=0.1, atol=0)


def test_a_real_solver_errs_less_than_independent_errors_of_its_accuracy():
    suite = QSuite.draw(4, 5, generator(0, "q"))
    theta = torch.ones(5, dtype=torch.float64)
    deltas, nus = torch.tensor([1e-7, 1e-5], dtype=torch.float64), torch.logspace(-4, -1, 7, dtype=torch.float64)
    solver = GradientDescent(rate=1 / 6, steps=2000)
    real = best_error(suite, theta=theta, lam=LAM, solver=solver, deltas=deltas, nus=nus)
    independent = displaced_errors(suite, theta, lam=LAM, order=2, deltas=deltas, nus=nus, draws=20, seed=0).amin(1)
    assert torch.all(real < 0.5 * independent)
    assert real[0] < 0.1 * real[1]
