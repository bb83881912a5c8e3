"""FO-B-MAML, implicit MAML and their proximal companions against closed forms and plain autograd, in float64."""

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import ctml
from ctml import trees
from ctml.inner_solvers import ClosedForm, GradientDescent
from ctml.learners.fo_b_maml import FOBMAML, largest_safe_nu, perturbed_estimate, stencil
from ctml.learners.imaml import IMAML, implicit_estimate
from ctml.learners.proximal import ProximalFOMAML, ProximalReptile, fo_maml_estimate, reptile_estimate
from ctml.memory import peak_bytes
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid
from ctml.theory import rates
from ctml.theory.fo_b_maml import ExactThenDescend, QSuite, neumann_series

LAM, TASKS, DIM = 1.0, 6, 5


@pytest.fixture
def suite():
    return QSuite.draw(TASKS, DIM, generator(0, "q"))


@pytest.fixture
def theta():
    return torch.randn(DIM, generator=generator(0, "theta"), dtype=torch.float64)


def estimate(suite, theta, order, nu, solver=None, **options):
    solver = solver or ClosedForm()
    return perturbed_estimate(suite, theta, TASKS, lam=LAM, nu=nu, order=order, solver=solver, **options).gradient


def relative(actual, expected):
    return float((actual - expected).norm() / expected.norm())


# The estimators on vectors


@pytest.mark.parametrize("order", range(1, 7))
def test_stencil_takes_the_derivative_of_polynomials_up_to_its_order(order):
    nodes, weights = stencil(order)
    assert len(nodes) == order + order % 2
    for power in range(order + 1):
        assert sum(a * j**power for j, a in zip(nodes, weights, strict=True)) == pytest.approx(
            float(power == 1), abs=1e-11
        )


def test_stencils_of_the_paper_and_of_order_four():
    assert stencil(1) == ((0, 1), (-1.0, 1.0))
    assert stencil(2) == ((-1, 1), (-0.5, 0.5))
    nodes, weights = stencil(4)
    assert nodes == (-2, -1, 1, 2)
    assert weights == pytest.approx((1 / 12, -8 / 12, 8 / 12, -1 / 12))


@pytest.mark.parametrize(("order", "nus"), [(1, (1e-4, 1e-2)), (2, (1e-4, 1e-2)), (3, (1e-3, 1e-2)), (4, (1e-2, 3e-2))])
def test_bias_falls_with_the_order_of_the_difference(suite, theta, order, nus):
    exact = suite.meta_gradient(theta, LAM)
    grid = torch.logspace(*torch.tensor(nus).log10(), 5, dtype=torch.float64)
    errors = torch.tensor([relative(estimate(suite, theta, order, float(nu)), exact) for nu in grid])
    assert rates.power(grid, errors).value == pytest.approx(order, abs=0.1)


def test_implicit_estimate_equals_the_closed_form(suite, theta):
    found = implicit_estimate(suite, theta, TASKS, lam=LAM, solver=ClosedForm(), cg_steps=2 * DIM, cg_tolerance=1e-14)
    torch.testing.assert_close(found.gradient, suite.meta_gradient(theta, LAM), rtol=1e-10, atol=1e-10)


def test_one_warm_started_step_of_size_one_over_lam_is_fo_maml(suite, theta):
    one_step = ExactThenDescend(rate=1 / LAM, steps=1)
    fo_maml = fo_maml_estimate(suite, theta, TASKS, lam=LAM, solver=ClosedForm()).gradient
    assert relative(estimate(suite, theta, 1, 1e-5, one_step, warm_start=True), fo_maml) < 1e-9
    assert relative(fo_maml, suite.meta_gradient(theta, LAM)) > 0.1


@pytest.mark.parametrize("steps", [2, 5])
def test_warm_started_steps_are_a_truncated_neumann_series(suite, theta, steps):
    rate = 0.15

    found = estimate(suite, theta, 2, 1e-5, ExactThenDescend(rate=rate, steps=steps), warm_start=True)
    H = suite.A + LAM * torch.eye(DIM, dtype=torch.float64)
    slope = torch.einsum("tde,te->td", suite.B, suite.perturbed_solution(theta, LAM, 0.0) - suite.b)
    powers = [torch.linalg.matrix_power(torch.eye(DIM, dtype=torch.float64) - rate * H, k) for k in range(steps)]
    series = LAM * rate * torch.einsum("tde,te->td", torch.stack(powers).sum(0), slope)
    assert relative(found, series) < 1e-8
    assert relative(neumann_series(suite, theta, lam=LAM, rate=rate, steps=steps), series) < 1e-12


def test_gradients_are_counted(suite, theta):
    def count(method, **options):
        found = method(suite, theta, TASKS, lam=LAM, solver=GradientDescent(rate=0.1, steps=7), **options)
        return found.evaluations.tolist()

    assert count(fo_maml_estimate) == [8] * TASKS
    assert count(reptile_estimate) == [7] * TASKS
    assert count(perturbed_estimate, nu=0.1, order=2, stacked=False) == [14] * TASKS
    assert count(perturbed_estimate, nu=0.1, order=2) == [13] * TASKS  # the first gradient is shared
    assert count(perturbed_estimate, nu=0.1, order=2, warm_start=True) == [20] * TASKS
    assert count(perturbed_estimate, nu=0.1, order=2, tangent=True) == [7 + 1 + 13] * TASKS
    assert count(implicit_estimate, cg_steps=3) == [7 + 2 + 6] * TASKS


@pytest.mark.parametrize("warm_start", [False, True])
def test_no_solution_is_kept_while_the_next_is_searched(suite, theta, warm_start):
    solutions = []

    class Watched(ClosedForm):
        def solve(self, objective, start):
            assert all(earlier() is None or earlier() is start for earlier in solutions)
            solution = super().solve(objective, start)
            solutions.append(weakref.ref(solution.phi))
            return solution

    estimate(suite, theta, 4, 0.1, Watched(), warm_start=warm_start, stacked=False)
    assert len(solutions) == 4 + warm_start


class Counted:
    """Tasks that count the points at which each of their losses is asked for."""

    def __init__(self, suite):
        self.suite, self.n_tasks, self.asked = suite, suite.n_tasks, {"support": 0, "query": 0}

    def support(self, points):
        self.asked["support"] += points.shape[:-1].numel()
        return self.suite.support(points)

    def query(self, points):
        self.asked["query"] += points.shape[:-1].numel()
        return self.suite.query(points)


@pytest.mark.parametrize("options", [{}, {"warm_start": True}, {"tangent": True}], ids=["cold", "warm", "tangent"])
@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize(
    "solver", [GradientDescent(rate=0.1, steps=7), GradientDescent(rate=0.1, tolerance=1e-6, steps=999)]
)
def test_solves_side_by_side_are_the_solves_one_after_another(suite, theta, order, options, solver):
    alone, together = (
        perturbed_estimate(suite, theta, TASKS, lam=LAM, nu=0.05, order=order, solver=solver, stacked=s, **options)
        for s in (False, True)
    )
    torch.testing.assert_close(together.gradient, alone.gradient, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(together.phi, alone.phi, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"tangent": True}], ids=["whole query loss", "tangent"])
def test_gradients_that_are_counted_are_those_that_are_taken(suite, theta, options):
    tasks, solver = Counted(suite), GradientDescent(rate=0.1, steps=7)
    found = perturbed_estimate(tasks, theta, TASKS, lam=LAM, nu=0.05, solver=solver, **options)
    asked_for = tasks.asked["query"] + tasks.asked["support"] if options else tasks.asked["support"]
    assert asked_for == found.evaluations.sum()
    assert tasks.asked["query"] == (TASKS if options else 13 * TASKS)


def test_with_the_tangent_the_estimate_is_exact_at_every_nu_on_quadratic_support_losses(suite, theta):
    exact = suite.meta_gradient(theta, LAM)
    solver = GradientDescent(rate=0.15, steps=2000, tolerance=1e-12)
    for order in (1, 2):
        assert relative(estimate(suite, theta, order, 0.3, solver, tangent=True), exact) < 1e-9
    assert relative(estimate(suite, theta, 2, 0.3, solver), exact) > 1e-3  # the whole query loss leaves its bias


def test_reptile_is_the_gradient_of_the_moreau_envelope(suite, theta):
    theta.requires_grad_()
    phi = suite.perturbed_solution(theta, LAM, 0.0)
    envelope = (suite.support(phi) + LAM / 2 * (phi - theta).square().sum(1)).sum()
    (expected,) = torch.autograd.grad(envelope, theta)
    found = reptile_estimate(suite, theta.detach(), TASKS, lam=LAM, solver=ClosedForm()).gradient.sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


# The learners on a network


@pytest.fixture
def batch():
    return Sinusoid(shots=6, queries=5).sample(4, generator(0, "t")).to(dtype=torch.float64)


def network():
    return MLP([1, 6, 1], activation=torch.tanh, generator=generator(0, "w")).double()


STRONG = 20.0  # a pull that makes the network's inner problem convex
SOLVER = GradientDescent(rate=0.03, steps=400, tolerance=1e-11)


def gradient_of(learner):
    return trees.flatten({k: p.grad for k, p in learner.model.named_parameters()})


def autograd_through_many_steps(model, batch, steps=150):
    """The loop everybody writes, long enough to be the exact meta-gradient of the proximal problem."""
    theta = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    total = 0.0
    for i in range(batch.n_tasks):
        params = dict(theta)
        for _ in range(steps):
            loss = F.mse_loss(functional_call(model, params, (batch.support.x[i : i + 1],)), batch.support.y[i : i + 1])
            loss = loss + STRONG / 2 * sum((params[k] - theta[k]).square().sum() for k in theta)
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {k: v - 0.03 * g for (k, v), g in zip(params.items(), grads, strict=True)}
        out = functional_call(model, params, (batch.query.x[i : i + 1],))
        total = total + F.mse_loss(out, batch.query.y[i : i + 1]) / batch.n_tasks
    gradients = torch.autograd.grad(total, list(theta.values()))
    return torch.cat([g.flatten() for g in gradients]), total.detach()


def test_implicit_and_symmetric_gradients_equal_autograd_through_the_inner_loop(batch):
    expected, loss = autograd_through_many_steps(network(), batch)
    implicit = IMAML(network(), ctml.mse, lam=STRONG, solver=SOLVER, cg_steps=60, cg_tolerance=1e-13)
    losses = implicit.meta_gradient(batch)
    assert relative(gradient_of(implicit), expected) < 1e-8
    torch.testing.assert_close(losses.mean(), loss, rtol=1e-9, atol=0)
    for difference, nu, error in (("forward", 1e-4, 1e-4), ("symmetric", 1e-2, 1e-4), (4, 5e-2, 1e-5)):
        learner = FOBMAML(network(), ctml.mse, lam=STRONG, nu=nu, solver=SOLVER, difference=difference)
        learner.meta_gradient(batch)
        assert relative(gradient_of(learner), expected) < error, difference


@pytest.mark.parametrize("options", [{}, {"tangent": True}, {"difference": "forward"}, {"warm_start": True}])
def test_a_network_is_solved_side_by_side_as_one_after_another(batch, options):
    solver = GradientDescent(rate=0.03, steps=9)
    gradients = []
    for stacked in (True, False):
        learner = FOBMAML(network(), ctml.mse, lam=2.0, nu=0.02, solver=solver, stacked=stacked, **options)
        gradients.append((learner.meta_gradient(batch), gradient_of(learner)))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_the_tangent_of_the_query_loss_gives_the_exact_gradient_of_a_network(batch):
    expected, _ = autograd_through_many_steps(network(), batch)
    learner = FOBMAML(network(), ctml.mse, lam=STRONG, nu=1e-2, solver=SOLVER, tangent=True)
    learner.meta_gradient(batch)
    assert relative(gradient_of(learner), expected) < 1e-4


def test_memory_does_not_grow_with_the_steps_nor_a_stack_beyond_its_solves(batch):
    def peak(steps, **options):
        learner = FOBMAML(
            network(), ctml.mse, lam=1.0, nu=0.1, solver=GradientDescent(rate=0.05, steps=steps), **options
        )
        for p in learner.parameters():
            p.grad = torch.zeros_like(p)
        return min(peak_bytes(lambda: learner.meta_gradient(batch)) for _ in range(2))

    assert peak(12) <= 1.02 * peak(3)
    assert 1.2 * peak(3, stacked=False) < peak(3) < 2.5 * peak(3, stacked=False)


def test_classical_estimators_are_far_from_the_exact_one(batch):
    expected, _ = autograd_through_many_steps(network(), batch)
    for method in (ProximalFOMAML, ProximalReptile):
        learner = method(network(), ctml.mse, lam=STRONG, solver=SOLVER)
        learner.meta_gradient(batch)
        assert relative(gradient_of(learner), expected) > 1e-2


def test_no_estimate_is_kept_while_the_next_part_is_estimated(batch):
    estimates = []

    class Watched(ProximalReptile):
        def estimate(self, losses, theta, n_tasks):
            assert all(earlier() is None for earlier in estimates)
            found = super().estimate(losses, theta, n_tasks)
            estimates.append(weakref.ref(found.phi))
            return found

    Watched(network(), ctml.mse, lam=2.0, solver=GradientDescent(steps=2), tasks_at_once=1).meta_gradient(batch)
    assert len(estimates) == batch.n_tasks


@pytest.mark.parametrize("tasks_at_once", [1, 3])
def test_chunks_do_not_change_the_meta_gradient(batch, tasks_at_once):
    whole, cut = (
        FOBMAML(network(), ctml.mse, lam=2.0, nu=0.1, solver=GradientDescent(rate=0.05, steps=5), tasks_at_once=n)
        for n in (None, tasks_at_once)
    )
    torch.testing.assert_close(whole.meta_gradient(batch), cut.meta_gradient(batch), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(whole), gradient_of(cut), rtol=1e-9, atol=1e-11)


def test_equal_runs_cancel_their_inner_error(batch):
    exact, _ = autograd_through_many_steps(network(), batch)
    short = replace(SOLVER, steps=12, tolerance=None)
    learner = FOBMAML(network(), ctml.mse, lam=STRONG, nu=1e-5, solver=short)
    learner.meta_gradient(batch)
    with torch.no_grad():
        near, far = (IMAML(network(), ctml.mse, lam=STRONG, solver=s).adapt(batch.support) for s in (short, SOLVER))
        delta = trees.norm(trees.sub(near, far), batched=True).mean()
    assert (gradient_of(learner) - exact).norm() < 1e-2 * STRONG * delta / 1e-5


def test_common_random_numbers_keep_minibatch_noise_out_of_the_difference(batch):
    def spread(common):
        learner = FOBMAML(
            network(), ctml.mse, lam=2.0, nu=1e-2, solver=GradientDescent(rate=0.05, steps=20), minibatch=3,
            generator=generator(0, "minibatches"), common_random_numbers=common,
        )  # fmt: skip
        gradients = []
        for _ in range(6):
            learner.meta_gradient(batch)
            gradients.append(gradient_of(learner).clone())
        return torch.stack(gradients).std(0).norm()

    assert spread(common=True) < 0.1 * spread(common=False)


def test_adapting_to_inner_steps_and_training_by_meta_train(batch):
    learner = FOBMAML(network().float(), ctml.mse, lam=1.0, nu=0.05, solver=GradientDescent(rate=0.05, steps=8))
    adam = torch.optim.Adam(learner.parameters(), 1e-2)
    history = ctml.meta_train(learner, Sinusoid(), optimizer=adam, steps=60, meta_batch=8, seed=0, progress=False)
    assert sum(history.loss[-15:]) < 0.9 * sum(history.loss[:15])
    stay = learner.with_inner_steps(0).adapt(batch.to(dtype=torch.float32).support)
    for name, p in learner.model.named_parameters():
        torch.testing.assert_close(stay[name], p.detach().expand_as(stay[name]))


# Bad input


def make(**options):
    return FOBMAML(network(), ctml.mse, **{"lam": 1.0, "nu": 0.1, "solver": GradientDescent(rate=0.1), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": 0.0}, "lam=0.0: must be a positive"),
        ({"nu": -0.1}, "nu=-0.1: must be a positive"),
        ({"difference": "backward"}, "difference='backward': must be one of forward, symmetric, or an order"),
        ({"difference": 0}, "difference=0: must be at least 1"),
        ({"curvature": (-1.5, 2.0)}, r"lam=1.0: .* curvature down to -1.5, .*take lam > 1.5"),
        ({"curvature": (0.0, 20.0)}, r"nu=0.1: .* loses its convexity \(m=1, L=20\); take nu < 0.05"),
        ({"curvature": (0.0, 6.0), "difference": 4}, r"perturbed by -0.2 .*take nu < 0.08333"),
        ({"minibatch": 2}, "minibatch=2: give a generator"),
        ({"minibatch": 0, "generator": torch.Generator()}, "minibatch=0: must be at least 1"),
    ],
)
def test_senseless_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_largest_safe_nu_is_where_the_perturbed_problem_stops_being_convex(suite):
    least, most = torch.linalg.eigvalsh(suite.A[0])[0], torch.linalg.eigvalsh(suite.B[0])[-1]
    safe = largest_safe_nu(2, float(LAM + least), float(most))
    identity = torch.eye(DIM, dtype=torch.float64)
    assert torch.linalg.eigvalsh(suite.A[0] + LAM * identity - 0.999 * safe * suite.B[0])[0] > 0
    assert torch.linalg.eigvalsh((least + LAM) * identity - 1.001 * safe * suite.B[0])[0] < 0
    assert largest_safe_nu(1, 1.0, 1e9) == float("inf")  # forward never perturbs downwards
    make(curvature=(0.0, 20.0), difference="forward")


class Noisy(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.noise, self.mlp = layer, network()

    def forward(self, x, context=None):
        return self.mlp(self.noise(x))


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(6)], ids=["dropout", "batch norm"])
def test_active_noise_between_the_solves_is_refused(batch, layer):
    learner = FOBMAML(Noisy(layer), ctml.mse, lam=1.0, nu=0.1, solver=GradientDescent(rate=0.1))
    with pytest.raises(ValueError, match=rf"model.noise is an active {type(layer).__name__}: .*call learner.eval\(\)"):
        learner.meta_gradient(batch)
    if isinstance(layer, nn.Dropout):
        assert torch.isfinite(learner.eval().meta_gradient(batch)).all()
