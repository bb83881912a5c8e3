"""The instances of the ANIL theory: closed forms, finite differences, constants and bounds, in float64."""

import math

import pytest
import torch

from ctml.rng import generator
from ctml.tasks import Cosine
from ctml.theory import anil as theory
from ctml.theory import rates
from ctml.theory.anil_instances import Constants, LogCoshTasks, QuadraticTasks, TwoLayerTasks

STEPS = (1, 2, 3, 5, 7, 10)


def draw(kind, seed=0):
    return kind.draw(generator(seed, "instance"))


def points(n, n_w=6, n_phi=4, scale=1.0):
    stream = generator(0, "points")
    return tuple(scale * torch.randn(n, k, generator=stream, dtype=torch.float64) for k in (n_w, n_phi))


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_inner_loop_of_the_quadratic_has_its_closed_form(steps):
    tasks, (w, phi) = draw(QuadraticTasks), points(1)
    torch.testing.assert_close(
        theory.adapt(tasks, w[0], phi[0], 0.5, steps), tasks.adapted(w[0], phi[0], 0.5, steps), rtol=1e-12, atol=1e-13
    )


def test_quadratic_tasks_have_the_curvature_asked_for():
    tasks = QuadraticTasks.draw(generator(0, "q"), curvature=(0.5, 2.0))
    for matrix in (tasks.A, tasks.E):
        ends = torch.linalg.eigvalsh(matrix)[:, [0, -1]]
        torch.testing.assert_close(ends, torch.tensor([0.5, 2.0], dtype=torch.float64).expand_as(ends))


@pytest.mark.parametrize("kind", [QuadraticTasks, LogCoshTasks, TwoLayerTasks])
def test_meta_gradient_agrees_with_finite_differences(kind):
    tasks = draw(kind)
    w, phi = points(1, n_w=getattr(tasks, "n_w", 6))
    gradients = theory.meta_gradient(tasks, w, phi, 0.5, 3)
    directions, eps = points(1, n_w=w.shape[1]), 1e-6
    for which, (gradient, direction) in enumerate(zip(gradients, directions, strict=True)):
        ends = []
        for sign in (1, -1):
            moved = [w[0], phi[0]]
            moved[which] = moved[which] + sign * eps * direction[0]
            ends.append(theory.meta_objective(tasks, *moved, 0.5, 3))
        assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * eps), rel=1e-7)


def test_curvature_of_the_quadratic_is_its_product_formula():
    """d2F/dw2 = mean P E P, P = (I - alpha A)^N; symmetric P because A is."""
    tasks, (w, phi) = draw(QuadraticTasks), points(2)
    P = torch.linalg.matrix_power(torch.eye(6, dtype=torch.float64) - 0.5 * tasks.A, 4)
    expected = torch.linalg.matrix_norm((P @ tasks.E @ P).mean(0), 2).expand(2)
    torch.testing.assert_close(theory.curvature(tasks, w, phi, 0.5, 4).ww, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_constants_of_log_cosh_hold_along_random_segments(seed):
    tasks = draw(LogCoshTasks, seed)
    constants = tasks.constants()
    (w, phi), (w2, phi2) = points(2), (v[[1, 0]] for v in points(2))
    distance = torch.cat([w - w2, phi - phi2], 1).norm(dim=1)

    def per_task(which, task):
        return lambda w, phi: getattr(tasks.given(phi), which)(w.expand(tasks.n_tasks, 6))[task]

    for task in range(tasks.n_tasks):
        slope = torch.func.vmap(torch.func.grad(per_task("support", task), argnums=(0, 1)))
        ends = [torch.cat(slope(*p), 1) for p in ((w, phi), (w2, phi2))]
        assert ((ends[0] - ends[1]).norm(dim=1) <= constants.L * distance).all()
        second = torch.func.vmap(torch.func.hessian(per_task("support", task), argnums=(0, 1)))
        (ww, _), (pw, _) = second(w, phi)
        (ww2, _), (pw2, _) = second(w2, phi2)
        assert (torch.linalg.eigvalsh(ww)[:, 0] >= constants.mu - 1e-12).all()
        assert (torch.linalg.matrix_norm(ww - ww2, 2) <= constants.rho * distance).all()
        assert (torch.linalg.matrix_norm(pw - pw2, 2) <= constants.tau * distance).all()
        query = torch.func.vmap(torch.func.grad(per_task("query", task), argnums=(0, 1)))
        assert (torch.cat(query(w, phi), 1).norm(dim=1) <= constants.M).all()


@pytest.mark.parametrize("steps", STEPS)
def test_strongly_convex_bounds_hold(steps):
    tasks, (w, phi) = draw(LogCoshTasks), points(30, scale=2.0)
    constants = tasks.constants()
    alpha = 1 / constants.L
    bounds = theory.strongly_convex_bounds(constants, alpha, steps)
    gradients = [g.norm(dim=1).max() for g in theory.meta_gradient(tasks, w, phi, alpha, steps)]
    curvature = [c.max() for c in theory.curvature(tasks, w, phi, alpha, steps)]
    for seen, bound in zip([*gradients, *curvature], bounds, strict=True):
        assert float(seen) <= bound


@pytest.mark.parametrize("steps", STEPS)
def test_nonconvex_bounds_hold_on_the_cosine(steps):
    target = 0.3
    task, w = Cosine.of(target), torch.linspace(-math.pi, math.pi, 401, dtype=torch.float64)[:, None]
    constants = Constants(mu=0.0, L=1.0, rho=1.0, tau=0.0, M=math.pi + target)
    bounds = theory.nonconvex_bounds(constants, 0.3, steps)
    phi = w[:, :0]
    curvature = theory.curvature(task, w, phi, 0.3, steps).ww.max()
    assert float(theory.meta_gradient(task, w, phi, 0.3, steps)[0].abs().max()) <= bounds.gradient_w
    assert 1.3 ** (2 * steps) * (1 - 1e-9) <= float(curvature) <= bounds.ww  # the left end is F'' at w = 0


def test_step_size_rule_keeps_the_nonconvex_factor_bounded():
    factors = [(1 + theory.step_size(2.0, n, "nonconvex", c=0.5) * 2.0) ** n for n in STEPS]
    assert max(factors) <= math.exp(0.5)
    assert theory.step_size(2.0, 10, "strongly-convex") == 0.5


@pytest.mark.parametrize("examples", [4, 40])
def test_head_smoothness_bounds_the_hessian_and_is_attained(examples):
    """At zero weights with two classes, softmax's own factor is exactly 1/2, and the bound is the Hessian's norm."""
    features = torch.randn(1, examples, 7, generator=generator(0, "h"), dtype=torch.float64)
    labels = torch.arange(examples) % 2

    def loss(w):
        logits = features[0] @ w[:, :7].T + w[:, 7]
        return torch.nn.functional.cross_entropy(logits, labels)

    zero = torch.zeros(2, 8, dtype=torch.float64)
    hessian = torch.func.hessian(loss)(zero).reshape(16, 16)
    bound = float(theory.head_smoothness(features))
    assert float(torch.linalg.eigvalsh(hessian)[-1]) == pytest.approx(bound, rel=1e-10)
    assert float(theory.head_smoothness(features, ridge=0.1)) == pytest.approx(bound + 0.1)


def test_two_layer_head_is_the_network_it_says():
    tasks, (w, phi) = draw(TwoLayerTasks), points(1, n_w=20)
    U, v = w[0, :16].view(4, 4), w[0, 16:]
    out = [v @ torch.tanh(U.T @ (phi[0].exp() * x)) for x in tasks.x[2]]
    expected = 0.5 * (torch.stack(out) - tasks.y[2]).square()
    seen = (f(w.expand(5, 20))[2] for f in (tasks.given(phi[0]).support, tasks.given(phi[0]).query))
    torch.testing.assert_close(torch.stack(tuple(seen)), expected.view(2, -1).mean(1))


def test_costs_count_entries():
    assert theory.anil_cost(3, 5, 2) == (2 * 3 + 8, 2 * 3 * 8)
    assert theory.maml_cost(3, 5, 2) == (3 * 8, 2 * 8 * 8)


@pytest.mark.parametrize(("ratio", "best"), [(30, 20), (5, 12)])
def test_cost_of_the_bound_is_least_at_a_moderate_number_of_steps(ratio, best):
    steps = torch.arange(1, 101, dtype=torch.float64)
    assert int(steps[theory.cost_of_bound(steps, 0.75, 1.0, ratio).argmin()]) == best


def test_curvature_decays_geometrically_where_the_inner_loss_is_strongly_convex():
    tasks, (w, phi) = draw(QuadraticTasks), points(1)
    steps = (5, 7, 10, 15)
    norms = [float(theory.curvature(tasks, w, phi, 0.5, n).ww) for n in steps]
    decay = rates.exponential(torch.tensor(steps).double(), torch.tensor(norms).double())
    assert decay.value == pytest.approx(-2 * math.log(0.75), abs=0.02)


def test_descent_on_the_quadratic_follows_its_hessian():
    """F is quadratic, so its gradient after k steps is (I - beta H)^k times the first one."""
    tasks, (w, phi), beta = draw(QuadraticTasks), points(3), 0.1
    seen = theory.descend(tasks, w, phi, beta, beta, 0.5, 2, 6)
    zero, one = torch.zeros(10, dtype=torch.float64), torch.eye(10, dtype=torch.float64)
    hessian = torch.func.hessian(lambda p: theory.meta_objective(tasks, p[:6], p[6:], 0.5, 2))(zero)
    first = torch.cat(theory.meta_gradient(tasks, w, phi, 0.5, 2), 1)
    last = first @ torch.linalg.matrix_power(one - beta * hessian, 5)
    torch.testing.assert_close(seen.gradient_w[-1], last[:, :6].square().sum(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(seen.gradient_phi[-1], last[:, 6:].square().sum(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(seen.objective[0, 0], theory.meta_objective(tasks, w[0], phi[0], 0.5, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.step_size(-1.0, 1, "nonconvex"), "L=-1.0: must be a positive"),
        (lambda: theory.step_size(1.0, 1, "convex"), "geometry='convex': must be one of strongly-convex, nonconvex"),
        (lambda: theory.strongly_convex_bounds(Constants(1, 2, 0, 0, 1), 0.6, 1), "alpha=0.6: the bounds hold"),
        (lambda: QuadraticTasks.draw(generator(0, "q"), curvature=(2.0, 1.0)), r"curvature\[1\]=1.0"),
        (lambda: LogCoshTasks.draw(generator(0, "q"), ridge=0.0), "ridge=0.0: must be a positive"),
    ],
)
def test_senseless_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
