"""Flows against the matrix exponential, explicit loops, and event times against bisection; all float64."""

import pytest
import torch

from ctml.flows.maml_field import joint_field, maml_field, mean_inner_gradient_norm
from ctml.flows.maml_flow import (
    EventNeverHappens,
    NonFiniteFlow,
    biphasic_flow,
    flow,
    flow_until,
    rest_points,
    slows_to,
)
from ctml.rng import generator
from ctml.tasks import CurvatureJump, LogisticRidge, Quadratic
from ctml.theory import rates
from ctml.theory.maml_ode import QuadraticMaml

ALPHA = 0.1


@pytest.fixture
def quadratics():
    return Quadratic.draw(6, 4, generator(0, "t"))


@pytest.fixture
def w0():
    return 3 * torch.randn(5, 4, generator=generator(0, "w"), dtype=torch.float64)


def times(end, steps):
    return torch.linspace(0, end, steps + 1, dtype=torch.float64)


def test_dopri5_is_the_matrix_exponential(quadratics, w0):
    path = flow(maml_field(quadratics, ALPHA), w0, times(2.0, 4))
    exact = torch.stack([QuadraticMaml(quadratics, ALPHA).solution(float(t), w0) for t in times(2.0, 4)])
    torch.testing.assert_close(path, exact, rtol=0, atol=1e-8)


def test_euler_is_mamls_gradient_descent(w0):
    losses, beta = LogisticRidge.draw(8, generator(0, "t")), 0.3
    field = maml_field(losses, ALPHA)
    w = w0.new_ones(3, 5)
    path = flow(field, w, beta * torch.arange(21, dtype=torch.float64), method="euler")
    for _ in range(20):
        w = w + beta * field(w)
    torch.testing.assert_close(path[-1], w, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method, order, margin", [("euler", 1, 0.1), ("heun2", 2, 0.1), ("rk4", 4, 0.15)])
def test_order_of_convergence(quadratics, w0, method, order, margin):
    field, exact = maml_field(quadratics, ALPHA), QuadraticMaml(quadratics, ALPHA).solution(1.0, w0)
    steps = torch.tensor([10, 20, 40, 80])
    errors = torch.stack([(flow(field, w0, times(1.0, n), method=method)[-1] - exact).norm() for n in steps.tolist()])
    assert rates.power(1 / steps, errors).value == pytest.approx(order, abs=margin)


def test_event_times_are_those_of_bisection(w0):
    losses = LogisticRidge.draw(8, generator(0, "t"))
    field = joint_field(losses)
    start = 5 * torch.randn(3, 5, generator=generator(1, "w"), dtype=torch.float64)
    found, at = flow_until(field, start, slows_to(field, 0.05), horizon=60.0)
    assert len(set(found.tolist())) == 3  # every point has its own time
    for point, time in zip(start, found.tolist(), strict=True):
        low, high = 0.0, 60.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            end = flow(field, point, torch.tensor([low, middle], dtype=torch.float64), rtol=1e-7, atol=1e-9)[-1]
            before = field(end).norm() > 0.05
            low, high, point = (middle, high, end) if before else (low, middle, point)
        assert time == pytest.approx(low, abs=1e-5)
    assert field(at).norm(dim=-1).tolist() == pytest.approx([0.05] * 3, rel=1e-6)


def test_an_event_that_is_past_happens_at_once(quadratics, w0):
    field = joint_field(quadratics)
    threshold = field(w0).norm(dim=-1).median()
    found, at = flow_until(field, w0, slows_to(field, threshold), horizon=50.0)
    past = field(w0).norm(dim=-1) <= threshold
    assert 0 < past.sum() < len(w0)
    assert (found[past] == 0).all()
    torch.testing.assert_close(at[past], w0[past])
    assert (found[~past] > 0).all()


def test_rest_points_of_a_cubic_field():
    """dw/dt = w (1 - w) (w + 2) rests at -2, 0, 1 and is attracted by the outer two."""
    line = torch.linspace(-5, 5, 1002, dtype=torch.float64)[:, None]
    stable, unstable = rest_points(lambda w: w * (1 - w) * (w + 2), line)
    assert stable[:, 0].tolist() == pytest.approx([-2, 1], abs=0.01)
    assert unstable[:, 0].tolist() == pytest.approx([0], abs=0.01)


def test_a_switch_below_its_floor_is_refused_with_the_missing_amount(quadratics, w0):
    floor = mean_inner_gradient_norm(quadratics, QuadraticMaml(quadratics, 0.0).minimiser)
    gap = lambda w: mean_inner_gradient_norm(quadratics, w) - 0.5  # noqa: E731
    with pytest.raises(EventNeverHappens, match=rf"5 of 5 points.* no closer than {float(floor) - 0.5:.4g}"):
        flow_until(joint_field(quadratics), w0, gap, horizon=60.0)


def test_biphasic_flow_is_joint_before_and_maml_after_the_switch(quadratics, w0):
    first, second = joint_field(quadratics), maml_field(quadratics, ALPHA)
    run = biphasic_flow(first, second, w0, slows_to(first, 0.5), end=6.0, marks=30)
    assert run.points.shape == (60, 5, 4)
    joint, maml = QuadraticMaml(quadratics, 0.0), QuadraticMaml(quadratics, ALPHA)
    for i, switch in enumerate(run.switch_time.tolist()):
        at_switch = joint.solution(switch, w0[i])
        early = torch.stack([joint.solution(t, w0[i]) for t in run.times[:30, i].tolist()])
        torch.testing.assert_close(run.points[:30, i], early, rtol=0, atol=1e-7)
        late = torch.stack([maml.solution(t - switch, at_switch) for t in run.times[30:, i].tolist()])
        torch.testing.assert_close(run.points[30:, i], late, rtol=0, atol=1e-7)
    assert (run.times[-1] == 6.0).all()


def test_an_exploding_flow_says_when_and_where():
    losses = CurvatureJump.one()
    w0 = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    with pytest.raises(NonFiniteFlow, match=r"t=\d.*initial points \[1\]"):
        flow(lambda w: -(joint_field(losses)(w) ** 3), w0, times(50.0, 50), method="euler")


def test_unknown_method_names_those_that_exist(quadratics, w0):
    with pytest.raises(ValueError, match=r"method='rk5'.*dopri5.*euler"):
        flow(joint_field(quadratics), w0, times(1.0, 1), method="rk5")
