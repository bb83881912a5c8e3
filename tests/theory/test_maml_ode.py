"""Every theorem about the MAML ODE as a numerical test in float64: bounds hold, and tight ones are reached."""

import math

import pytest
import torch

from ctml.flows.maml_field import (
    gradients,
    hessian,
    hessian_vector_products,
    heterogeneity,
    joint_field,
    maml_field,
    maml_loss,
)
from ctml.flows.maml_flow import flow, flow_until, settle
from ctml.rng import generator
from ctml.tasks import CurvatureJump, LogisticRidge, Quadratic, expand, side_by_side
from ctml.theory import rates
from ctml.theory.maml_ode import (
    Bounds,
    QuadraticMaml,
    greatest_maml_curvature,
    greatest_turn,
    least_turned_product,
    symmetric_part,
    time_saved_per_efold,
)
from ctml.theory.maml_ode_instances import fold, through_concavity


def times(end, steps):
    return torch.linspace(0, end, steps + 1, dtype=torch.float64)


def f(tasks):
    return lambda w: tasks.query(w[..., None, :].expand(*w.shape[:-1], tasks.n_tasks, w.shape[-1])).mean(-1)


def minimiser(losses, w0):
    return flow(joint_field(losses), w0, times(200.0, 1), rtol=1e-10, atol=1e-12)[-1]


@pytest.mark.parametrize("a, b", [(0.5, 1.0), (0.2, 1.0), (0.1, 0.9), (0.01, 1.0), (0.4, 1.0)])
def test_t0_symmetric_part_is_tight(a, b):
    """The worst symmetric matrices are 2 x 2 with eigenvalues a, b, turned against each other."""
    assert least_turned_product(a, b) == pytest.approx(symmetric_part(a, b), abs=1e-6)


@pytest.mark.parametrize("a, b", [(0.5, 0.99), (0.2, 0.95), (0.1, 0.9), (0.9, 0.95)])
def test_t1_no_product_is_farther_from_a_multiple_of_the_identity(a, b):
    """kappa = b^2 - m^2 is reached by P = Q = b I, and by no pair exceeded, in any dimension."""
    bounds = Bounds((1 - b) / 0.1, (1 - a) / 0.1, 0.1)
    assert bounds.turning == pytest.approx(greatest_turn(a, b), rel=1e-9)
    stream, d = generator(0, "kappa"), 5
    basis, _ = torch.linalg.qr(torch.randn(2, 500, d, d, generator=stream, dtype=torch.float64))
    p, q = (basis * (a + (b - a) * torch.rand(2, 500, 1, d, generator=stream, dtype=torch.float64))) @ basis.mT
    centred = p @ q - ((a + b) / 2) ** 2 * torch.eye(d, dtype=torch.float64)
    assert torch.linalg.matrix_norm(centred, ord=2).max() <= bounds.turning


@pytest.mark.parametrize("share", [0.1, 0.01, 0.001])
def test_t1_stationary_radius_is_reached_by_two_quadratics_as_alpha_falls(share):
    """On the line with curvatures mu and L all is in closed form: the ratio is 1 - O(alpha)."""
    mu, smoothness = 1.0, 4.0
    alpha, curvatures = share / smoothness, torch.tensor([mu, smoothness], dtype=torch.float64)
    tasks = Quadratic(curvatures.view(2, 1, 1), torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    at = QuadraticMaml(tasks, alpha).minimiser
    bounds = Bounds(mu, smoothness, alpha, float(heterogeneity(tasks, at)))
    ratio = float(joint_field(tasks)(at).norm()) / bounds.stationary_radius
    assert 1 - 4 * share < ratio <= 1
    assert bounds.floor == pytest.approx(bounds.stationary_radius**2 / (2 * mu))


def test_t1_holds_on_a_hundred_random_families():
    families = through_concavity(100, generator(0, "families"))
    both, alpha, t = side_by_side(families), 0.1, times(6.0, 60)
    path = flow(maml_field(both, alpha), torch.full((100, 1), 8.0, dtype=torch.float64), t, rtol=1e-6, atol=1e-8)
    least = settle(joint_field(both), path[-1])
    gap = f(both)(path) - f(both)(least)
    sigma = heterogeneity(both, path).max(0).values
    limits = zip(families, sigma.tolist(), gap[0].tolist(), strict=True)
    bound = torch.stack(
        [Bounds(1.0, float(x.smoothness.max()), alpha, s).joint_gap(t, gap0) for x, s, gap0 in limits], dim=1
    )
    assert (gap <= bound + 1e-6).all()
    for k in range(0, 100, 10):  # the disagreement still to come gives a lower bound, which holds as well
        bounds, along = Bounds(1.0, float(families[k].smoothness.max()), alpha), heterogeneity(both, path)[:, k]
        sharper = bounds.joint_gap_along(t, float(gap[0, k]), along)
        assert (gap[:, k] <= sharper + 1e-6).all() and (sharper <= bound[:, k].clamp_min(sharper[0]) + 1e-9).all()


def test_t1_along_a_constant_disagreement_is_t1():
    bounds, t = Bounds(0.2, 1.0, 0.3, sigma=0.5), times(20.0, 50)
    torch.testing.assert_close(bounds.joint_gap_along(t, 7.0, torch.full_like(t, 0.5)), bounds.joint_gap(t, 7.0))


def test_t1_families_pass_through_concavity():
    families = through_concavity(100, generator(0, "families"))
    both, alpha, t = side_by_side(families), 0.1, times(6.0, 60)
    path = flow(maml_field(both, alpha), torch.full((100, 1), 8.0, dtype=torch.float64), t, rtol=1e-6, atol=1e-8)
    assert (hessian(maml_field(both, alpha), path)[..., 0, 0].min(0).values < 0).sum() > 50


def test_t1_floor_is_of_order_alpha_squared_and_so_is_the_plateau():
    tasks = LogisticRidge.draw(8, generator(0, "t"), spread=1.0)
    centre = settle(joint_field(tasks), torch.zeros(5, dtype=torch.float64))
    shares, plateau, floor = torch.tensor([0.1, 0.05, 0.025, 0.0125], dtype=torch.float64), [], []
    for share in shares.tolist():
        end = settle(maml_field(tasks, share / tasks.smoothness), centre)
        plateau.append(float(f(tasks)(end) - f(tasks)(centre)))
        floor.append(Bounds.of(tasks, share, float(heterogeneity(tasks, end))).floor)
    assert all(p < b for p, b in zip(plateau, floor, strict=True))
    for curve in (plateau, floor):
        assert rates.power(shares, torch.tensor(curve)).value == pytest.approx(2, abs=0.2)


def test_bounds_of_a_family_are_those_of_its_constants():
    tasks = LogisticRidge.draw(8, generator(0, "t"), spread=0.5)
    bounds, by_hand = Bounds.of(tasks, 0.3, 0.7), (0.2, tasks.smoothness, 0.3 / tasks.smoothness, 0.7)
    assert (bounds.mu, bounds.smoothness, bounds.alpha, bounds.sigma) == by_hand
    assert bounds.rho == tasks.hessian_lipschitz


def test_t0_holds_for_random_matrices_in_higher_dimension():
    stream, d = generator(0, "t0"), 5
    basis, _ = torch.linalg.qr(torch.randn(2, 500, d, d, generator=stream, dtype=torch.float64))
    p, q = (basis * (0.1 + 0.8 * torch.rand(2, 500, 1, d, generator=stream, dtype=torch.float64).round())) @ basis.mT
    least = torch.linalg.eigvalsh((p @ q + q @ p) / 2).min()
    assert least >= symmetric_part(0.1, 0.9)


@pytest.mark.parametrize("alpha_l", [0.1, 0.3, 0.6])
def test_t1_joint_loss_falls_at_a_linear_rate_to_a_neighbourhood(alpha_l):
    tasks = LogisticRidge.draw(8, generator(0, "t"), spread=0.5)
    loss = f(tasks)
    alpha = alpha_l / tasks.smoothness
    w0 = 3 * torch.randn(5, generator=generator(0, "w"), dtype=torch.float64)
    t = times(60.0, 120)
    path = flow(maml_field(tasks, alpha), w0, t, rtol=1e-8, atol=1e-10)
    least = loss(minimiser(tasks, w0))
    bounds = Bounds(tasks.ridge, tasks.smoothness, alpha, float(heterogeneity(tasks, path).max()))
    assert (loss(path) - least <= bounds.joint_gap(t, float(loss(w0) - least))).all()
    assert maml_field(tasks, alpha)(path[-1]).norm() <= bounds.gradient_radius


def test_t1_is_an_exact_rate_when_tasks_agree():
    """With sigma = 0 the joint gap falls at 2 lambda_A mu at least; on one isotropic quadratic exactly so."""
    mu, alpha = 1.5, 0.2
    tasks = Quadratic(mu * torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, 3, dtype=torch.float64))
    bounds = Bounds(mu, mu, alpha)
    t = times(4.0, 40)
    gap = f(tasks)(flow(maml_field(tasks, alpha), torch.ones(3, dtype=torch.float64), t))
    assert rates.exponential(t, gap).value == pytest.approx(2 * bounds.descent * mu, rel=1e-6)
    torch.testing.assert_close(gap, bounds.joint_gap(t, float(gap[0])), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.24])
def test_t1_prime_gradient_dominance_is_tight(alpha):
    tasks = CurvatureJump.one()
    bounds = Bounds(1.0, 4.0, alpha)
    w = torch.linspace(-20, 20, 400_001, dtype=torch.float64)[:, None]
    least = float(tasks.query(minimiser(tasks, torch.zeros(1, dtype=torch.float64))[None]))
    gap = maml_loss(tasks, alpha, w) - least
    dominated = maml_field(tasks, alpha)(w).norm(dim=-1) ** 2 / (2 * gap.clamp_min(1e-300))
    ratio = float(dominated[gap > 1e-6].min()) / bounds.gradient_dominance
    assert 1 <= ratio <= 1.05


def test_t1_prime_bounds_the_maml_loss_of_different_tasks():
    tasks, alpha = CurvatureJump.of((1.0, 4.0, 3.0, 0.05, 0.0, 1.0), (1.0, 3.0, 2.0, 0.1, 1.0, 1.0)), 0.1
    bounds, t = Bounds(1.0, 4.0, alpha), times(8.0, 160)
    path = flow(maml_field(tasks, alpha), torch.tensor([6.0], dtype=torch.float64), t)
    shared = expand(path, tasks.n_tasks)
    v = gradients(tasks.query, shared - alpha * gradients(tasks.support, shared))
    each = v - alpha * hessian_vector_products(tasks.support, shared, v)[1]
    sigma = float((each - each.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt().max())
    grid = torch.linspace(-2, 3, 100_001, dtype=torch.float64)[:, None, None].expand(-1, 2, 1)
    least = float(tasks.query(grid).min(0).values.mean())
    gap = maml_loss(tasks, alpha, path) - least
    assert (gap <= bounds.maml_gap(t, float(gap[0]), sigma) + 1e-9).all()
    far = math.sqrt(bounds.smoothness / bounds.mu) * bounds.b / bounds.a * sigma
    assert maml_field(tasks, alpha)(path[-1]).norm() <= far


def test_t2_maml_curvature_grows_with_the_inner_gradient_at_most_as_stated():
    tasks, alpha = CurvatureJump.one(), 0.1
    rho = (4.0 - 1.0) / (2 * 0.05)
    bounds = Bounds(1.0, 4.0, alpha, rho=rho)
    w = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    curvature = hessian(maml_field(tasks, alpha), w)[:, 0, 0].abs()
    inner = gradients(tasks.query, expand(w, tasks.n_tasks))[:, 0, 0].abs()
    bound = torch.tensor([bounds.maml_smoothness(g) for g in inner.tolist()], dtype=torch.float64)
    assert (curvature <= bound).all()
    assert curvature.max() > bounds.b**2 * bounds.smoothness  # without the second term it would be false


@pytest.mark.parametrize("beta", [0.4, 0.2, 0.1, 0.05])
def test_t2_distance_of_gradient_descent_to_the_flow(beta):
    tasks, alpha = LogisticRidge.draw(8, generator(0, "t")), 0.5
    t = beta * torch.arange(round(4 / beta) + 1, dtype=torch.float64)
    field, w0 = maml_field(tasks, alpha), 3 * torch.ones(5, dtype=torch.float64)
    exact = flow(field, w0, t)
    h = hessian(field, exact)
    size = torch.linalg.matrix_norm(h, ord=2).max()
    steepness = (h @ field(exact)[..., None]).norm(dim=1).max()
    error = (flow(field, w0, t, method="euler") - exact).norm(dim=1).max()
    assert error <= beta / 2 * steepness / size * torch.expm1(size * t[-1])


@pytest.mark.parametrize("alpha_l", [0.02, 0.05, 0.08])
def test_t3_f_is_strongly_convex_where_inner_gradients_are_small(alpha_l):
    tasks = LogisticRidge.draw(8, generator(0, "t"), spread=0.0)
    alpha = alpha_l / tasks.smoothness
    bounds = Bounds(tasks.ridge, tasks.smoothness, alpha, rho=tasks.hessian_lipschitz)
    stream = generator(0, "w")
    centre = minimiser(tasks, torch.zeros(5, dtype=torch.float64))
    radius = 12 * torch.rand(1000, 1, generator=stream, dtype=torch.float64)
    w = centre + radius * torch.randn(1000, 5, generator=stream, dtype=torch.float64)
    inner = gradients(tasks.query, expand(w, tasks.n_tasks)).norm(dim=-1).mean(-1)
    near = w[inner <= bounds.critical_inner_gradient / 2]
    assert len(near) > 30
    assert torch.linalg.eigvalsh(hessian(maml_field(tasks, alpha), near)).min() >= bounds.strong_convexity


def test_t3_and_t4_a_safe_switch_is_reached_in_time_and_phase_two_is_linear():
    tasks = LogisticRidge.draw(8, generator(0, "t"), spread=0.0)
    alpha = 0.02 / tasks.smoothness
    centre = minimiser(tasks, torch.zeros(5, dtype=torch.float64))
    w0 = centre + 100 / math.sqrt(5)
    sigma = float(heterogeneity(tasks, flow(joint_field(tasks), w0, times(60.0, 300))).max())
    bounds = Bounds(tasks.ridge, tasks.smoothness, alpha, sigma, tasks.hessian_lipschitz)
    assert bounds.limits_agree

    def gradient_norm(w):
        return joint_field(tasks)(w).norm(dim=-1)

    eps = bounds.safe_switch
    switch, at = flow_until(joint_field(tasks), w0, lambda w: gradient_norm(w) - eps, horizon=100.0)
    assert switch <= bounds.phase_one_time(float(gradient_norm(w0)), eps)
    t = times(40.0, 80)
    decay = maml_field(tasks, alpha)(flow(maml_field(tasks, alpha), at, t)).norm(dim=-1)
    assert (decay <= decay[0] * torch.exp(-bounds.strong_convexity * t) + 1e-8).all()


def test_t4_time_per_efold_on_a_quadratic():
    """On one quadratic the two flows decay at h and h (1 - alpha h)^2, so the saved time can be read off."""
    h, alpha = 0.5, 0.4
    tasks = Quadratic(h * torch.eye(1, dtype=torch.float64)[None], torch.zeros(1, 1, dtype=torch.float64))
    w0 = torch.tensor([[1.0], [math.e]], dtype=torch.float64)

    def time_to(field):
        return flow_until(field, w0, lambda w: w[..., 0].abs() - 0.1, horizon=100.0)[0].diff()

    saved = time_to(maml_field(tasks, alpha)) - time_to(joint_field(tasks))
    assert float(saved) == pytest.approx(time_saved_per_efold(h, alpha), rel=1e-6)


def test_t5_rates_of_quadratics():
    tasks, alpha = Quadratic.draw(6, 4, generator(0, "t")), 0.1
    closed = QuadraticMaml(tasks, alpha)
    mu, smoothness = (f(torch.linalg.eigvalsh(tasks.hessian)) for f in (torch.min, torch.max))
    assert closed.rates[0] >= min(mu * (1 - alpha * mu) ** 2, smoothness * (1 - alpha * smoothness) ** 2)
    assert closed.rates[-1] <= greatest_maml_curvature(alpha)
    w0 = 3 * torch.ones(4, dtype=torch.float64)
    distance = torch.stack([(closed.solution(float(t), w0) - closed.minimiser).norm() for t in times(20.0, 40)[20:]])
    assert rates.exponential(times(20.0, 40)[20:], distance).value == pytest.approx(float(closed.rates[0]), rel=0.01)
    field = maml_field(tasks, alpha)
    assert field(closed.minimiser).norm() < 1e-12


def test_t5_euler_is_stable_just_below_its_limit_and_not_above():
    tasks, alpha = Quadratic.draw(6, 4, generator(0, "t")), 0.1
    closed, field = QuadraticMaml(tasks, alpha), maml_field(tasks, alpha)
    limit, w0 = 2 / float(closed.rates[-1]), closed.minimiser + 1
    assert limit >= 27 * alpha / 2

    def distance(beta):
        end = flow(field, w0, beta * torch.arange(401, dtype=torch.float64), method="euler")[-1]
        return float((end - closed.minimiser).norm())

    assert distance(0.97 * limit) < 1e-3
    assert distance(1.03 * limit) > 1e3


def test_t5_with_one_common_hessian_both_methods_share_their_limit():
    tasks = Quadratic.draw(6, 4, generator(0, "t"), shared_hessian=True)
    torch.testing.assert_close(QuadraticMaml(tasks, 0.1).minimiser, QuadraticMaml(tasks, 0.0).minimiser)


def test_instance_n2_has_as_many_minima_as_the_step_size_says():
    tasks = CurvatureJump.two()
    w = torch.linspace(-5, 30, 350_001, dtype=torch.float64)[:, None]
    for alpha_l, roots in {0.9: 3, 0.7: 3, 0.66: 3, 0.5: 1, 0.1: 1}.items():
        slope = maml_field(tasks, alpha_l / 4)(w)[:, 0]
        assert int((slope[1:].sign() != slope[:-1].sign()).sum()) == roots


def test_instance_n2_folds_where_the_count_of_its_stationary_points_changes():
    tasks = CurvatureJump.two()
    w, share = fold(tasks, 10.3, 0.6)
    grid = torch.linspace(w - 0.5, w + 0.5, 100_001, dtype=torch.float64)[:, None]
    counts = [int(maml_field(tasks, s / 4)(grid)[:, 0].sign().diff().ne(0).sum()) for s in (share - 1e-4, share + 1e-4)]
    assert counts == [0, 2]
    with pytest.raises(ArithmeticError, match=r"w=-3\.0"):
        fold(tasks, -3.0, 0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"alpha": 0.25}, r"alpha=0\.25: the theorems need alpha < 1/L = 0\.25"),
        ({"mu": 0.0}, "mu=0"),
        ({"smoothness": 0.5}, "smoothness=0"),
        ({"sigma": -1.0}, "sigma=-1"),
    ],
)
def test_assumptions_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Bounds(**{"mu": 1.0, "smoothness": 4.0, "alpha": 0.1} | arguments)


def test_bounds_that_say_nothing_refuse_to_speak():
    with pytest.raises(ValueError, match=r"lambda_A=-0\.\d+ is not positive.*2/\(3L - mu\)"):
        _ = Bounds(1.0, 100.0, 0.0099).gradient_radius
    with pytest.raises(ValueError, match=r"sigma=10: at least G_c/2"):
        _ = Bounds(1.0, 4.0, 0.1, sigma=10.0, rho=1.0).safe_switch
