"""R1-R7 in float64: orders against the flow itself, closed forms against the learner and against plain iteration."""

import math
from fractions import Fraction

import pytest
import torch
from torchdiffeq import odeint

from ctml.flows.maml_field import joint_field
from ctml.flows.tableaus import CHAPRA_RALSTON, EULER, HEUN, KUTTA3, MIDPOINT, RALSTON, RK4, THREE_EIGHTHS, rk2
from ctml.learners.rk_maml import chain
from ctml.rng import generator
from ctml.tasks import LogisticRidge, Quadratic
from ctml.theory import rk_maml as theory

W0 = torch.tensor([2.0, -1.6, 1.0], dtype=torch.float64)
FAMILY = (HEUN, CHAPRA_RALSTON, RALSTON, MIDPOINT)


def tasks(n_tasks):
    return LogisticRidge.draw(n_tasks, generator(1, "t"), dim=3, examples=8, ridge=0.05, spread=2.0)


def last_slope(n_tasks, tableau, **options):
    errors = theory.errors(tasks(n_tasks), W0, 4.0, (20, 40), tableau, **options)
    return float(theory.halving_slopes(errors))


@pytest.mark.parametrize("tableau", [EULER, *FAMILY, KUTTA3, RK4, THREE_EIGHTHS], ids=lambda t: t.name)
def test_one_task_the_order_is_the_tableaus(tableau):
    assert last_slope(1, tableau) == pytest.approx(tableau.order, abs=0.1)


@pytest.mark.parametrize("a2", [Fraction(1, 2), Fraction(3, 4), Fraction(1)])
def test_order_is_lost_when_a2_q_is_not_one_half(a2):
    assert last_slope(1, rk2(a2), rate=float(1 / a2)) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("a2", [Fraction(1, 2), Fraction(1)])
def test_through_the_adaptation_the_rate_has_to_be_halved(a2):
    assert last_slope(1, rk2(a2), order="second") == pytest.approx(1, abs=0.15)
    assert last_slope(1, rk2(a2), order="second", rate=float(1 / (4 * a2))) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("steps", [2, 3])
def test_chains_have_order_two_at_alpha_h_over_2k(steps):
    assert last_slope(1, chain(steps)) == pytest.approx(2, abs=0.1)
    assert last_slope(1, chain(steps), rate=0.5) == pytest.approx(1, abs=0.15)


def test_no_weights_give_a_chain_order_three():
    """Weights that satisfy the other three order-3 conditions miss the fourth by alpha / 4h."""
    rate = Fraction(1, 3)
    c = [rate * j for j in range(3)]
    rows = torch.tensor([[float(x) ** k for x in c] for k in range(3)], dtype=torch.float64)
    weights = torch.linalg.solve(rows, torch.tensor([1, 1 / 2, 1 / 3], dtype=torch.float64))
    missing = theory.chained_condition(2, rate, [Fraction(float(a)) for a in weights])
    assert float(missing) == pytest.approx(float(rate) / 4, abs=1e-12)
    with pytest.raises(ValueError, match="weights has 1 entries: 2 steps have 3 stages"):
        theory.chained_condition(2, rate, [Fraction(1)])


@pytest.mark.parametrize("tableau", [HEUN, MIDPOINT], ids=lambda t: t.name)
def test_many_tasks_follow_the_modified_loss(tableau):
    assert last_slope(4, tableau) == pytest.approx(1, abs=0.15)
    assert last_slope(4, tableau, stages="mean") == pytest.approx(2, abs=0.1)
    assert last_slope(4, tableau, modified=True) == pytest.approx(2, abs=0.1)


def test_modified_field_is_the_formula_with_hessians():
    """-grad(E L - h/4 tr Cov g) = -Eg + h/2 (E[H g] - E[H] E[g]), Hessians by torch.func."""
    family, h = tasks(4), 0.3
    hessians = torch.func.hessian(lambda v: family.query(v.expand(4, 3)).sum())
    per_task = [torch.func.hessian(lambda v, i=i: family.query(v.expand(4, 3))[i])(W0) for i in range(4)]
    torch.testing.assert_close(hessians(W0), sum(per_task))
    g = torch.stack([torch.func.grad(lambda v, i=i: family.query(v.expand(4, 3))[i])(W0) for i in range(4)])
    H = torch.stack(per_task)
    expected = -g.mean(0) + h / 2 * ((H @ g[..., None])[..., 0].mean(0) - H.mean(0) @ g.mean(0))
    torch.testing.assert_close(theory.modified_field(family, h)(W0), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("q", [0.5, 2 / 3, 0.75, 1.0])
def test_local_error_on_the_line(q):
    """L = cosh, so the flow is known: tanh(w(t)/2) = tanh(w0/2) e^-t."""
    w, h = torch.tensor(1.0, dtype=torch.float64), 2e-3
    exact = 2 * torch.atanh(torch.tanh(w / 2) * torch.exp(torch.tensor(-h, dtype=torch.float64)))
    k1 = torch.sinh(w)
    step = w - h * ((1 - 1 / (2 * q)) * k1 + 1 / (2 * q) * torch.sinh(w - q * h * k1))
    leading = theory.local_error(torch.sinh(w), torch.cosh(w), torch.sinh(w), q, h)
    assert float((exact - step) / leading) == pytest.approx(1, abs=0.01)


def test_on_quadratics_the_family_is_one_method():
    family = Quadratic.draw(4, 5, generator(0, "q"), shared_hessian=True)
    w = torch.randn(5, generator=generator(0, "w"), dtype=torch.float64)
    h = 0.2
    one_step = [theory.descend(theory.direction(family, w, tableau=t, step=h, order="first"), w, h, 1) for t in FAMILY]
    H, c = family.hessian[0], family.centre.mean(0)
    expected = c + (torch.eye(5, dtype=torch.float64) - h * H + h**2 * H @ H / 2) @ (w - c)
    for found in one_step:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tableau", [EULER, MIDPOINT, HEUN, KUTTA3, RK4, chain(3)], ids=lambda t: t.name)
def test_amplification_is_one_step_on_a_parabola(tableau):
    parabola = Quadratic(torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    w, h = torch.ones(1, dtype=torch.float64), 1.7
    rate = {"step": h} if tableau.stages > 1 else {"inner_lr": 1.0}
    field = theory.direction(parabola, w, tableau=tableau, order="first", **rate)
    found = theory.descend(field, w, h, 1)
    torch.testing.assert_close(theory.amplification(tableau, torch.tensor([h]).double()), found)


@pytest.mark.parametrize("order", ["first", "second"])
def test_a2_and_alpha_enter_by_their_product(order):
    """The remainder of the expansion falls like alpha^2, and two pairs of equal product differ only by that."""
    family = tasks(4)
    remainders = []
    for alpha in (1e-2, 5e-3):
        expansion = theory.expanded_direction(family, W0, alpha, order)
        found = [-theory.direction(family, W0, tableau=rk2(a), inner_lr=alpha / a, order=order)(W0) for a in (0.5, 1.0)]
        remainders.append(max(float((d - expansion).norm()) for d in found))
    assert remainders[0] / remainders[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("a2", [0.3, 1.0])
def test_optimum_is_where_descent_ends(order, a2):
    family, alpha = Quadratic.draw(5, 4, generator(0, "q")), 0.1
    w = torch.zeros(4, dtype=torch.float64)
    field = theory.direction(family, w, tableau=rk2(a2), inner_lr=alpha, order=order)
    end = theory.descend(field, w, 0.3, 400)
    torch.testing.assert_close(theory.optimum(family, a2, alpha, order), end, rtol=0, atol=1e-8)


def test_optimum_without_adaptation_is_that_of_joint_training():
    family = Quadratic.draw(5, 4, generator(0, "q"))
    found = theory.optimum(family, 0.0, 0.1)
    assert float(joint_field(family)(found).norm()) < 1e-12


def test_costs_are_those_counted_by_hand():
    assert theory.gradient_units(EULER, "first") == 1
    assert [theory.gradient_units(chain(k), "first") for k in (1, 5)] == [2, 6]  # MAML, K + 1
    assert [theory.gradient_units(chain(k), "second") for k in (1, 5)] == [4, 16]  # 3 K + 1
    assert [theory.gradient_units(t, "first") for t in (MIDPOINT, HEUN, RK4)] == [2, 3, 7]
    assert [theory.gradient_units(t, "second") for t in (MIDPOINT, HEUN)] == [4, 5]


def test_a_walk_is_the_scheme_written_out():
    """Heun's method by hand, on one task; and with a rate of its own the second stage stands elsewhere."""
    task, h = tasks(1), 0.3
    gradient = torch.func.grad(lambda v: task.query(v[None]).sum())
    for rate in (None, 0.7):
        expected = W0
        for _ in range(3):
            k = gradient(expected)
            expected = expected - h / 2 * (k + gradient(expected - (rate or h) * k))
        torch.testing.assert_close(theory.walk(task, W0, HEUN, h, 3, inner_lr=rate), expected)


def test_convergence_names_steps_errors_and_the_order_between_them():
    rows = theory.convergence(tasks(1), W0, 4.0, 20, RK4)
    assert [row["h"] for row in rows] == [1.0, 0.5, 0.25]
    errors = theory.errors(tasks(1), W0, 4.0, (4, 8, 16), RK4)
    assert [row["error"] for row in rows] == pytest.approx(errors.tolist())
    assert math.isnan(rows[0]["slope"])
    assert rows[2]["slope"] == pytest.approx(math.log2(errors[1] / errors[2]))
    with pytest.raises(ValueError, match="finest=3"):
        theory.convergence(tasks(1), W0, 4.0, 3, RK4)


def test_the_error_on_cosh_is_that_of_the_flow_and_of_one_step():
    w, h = torch.tensor(1.0, dtype=torch.float64), 0.3
    q = torch.tensor([0.5, 1.0], dtype=torch.float64)  # midpoint and Heun
    slope = lambda _, v: -torch.sinh(v)  # noqa: E731
    exact = odeint(slope, w, torch.tensor([0.0, h], dtype=torch.float64), rtol=1e-12, atol=1e-13)[-1]
    k = torch.sinh(w)
    midpoint, heun = w - h * torch.sinh(w - h / 2 * k), w - h / 2 * (k + torch.sinh(w - h * k))
    torch.testing.assert_close(theory.error_on_cosh(w, q, h), exact - torch.stack([midpoint, heun]))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("a2", [0.5, 1.0])
def test_what_is_beyond_a2_alpha_falls_like_its_square(a2, order):
    rest = theory.remainder(tasks(3), W0, a2, torch.tensor([0.02, 0.01, 0.005]), order)
    assert theory.halving_slopes(rest).tolist() == pytest.approx([2, 2], abs=0.1)


def test_the_two_flows_end_at_the_minima_of_their_losses():
    """With equal Hessians the modified loss only adds a constant; with others its minimum lies elsewhere."""
    family = Quadratic.draw(3, 2, generator(0, "q"))
    times, start = torch.tensor([0.0, 40.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    joint, modified = (path[-1] for path in theory.flows(family, start, times, 0.05))
    torch.testing.assert_close(joint, theory.optimum(family, 0.0, 0.1), rtol=1e-5, atol=1e-6)
    at = modified.clone().requires_grad_()
    (slope,) = torch.autograd.grad(theory.modified_loss(family, 0.05, at), at)
    assert float(slope.norm()) < 1e-5
    assert float((joint - modified).norm()) > 1e-2
