"""RK-MAML: its members are MAML and FO-MAML to the last bit, its direction is the one written out, float64."""

from fractions import Fraction

import pytest
import torch

import ctml
from ctml import trees
from ctml.flows.tableaus import EULER, KUTTA3, MIDPOINT, RALSTON, RK4, TABLEAUS, Tableau, rk2
from ctml.learners.rk_maml import RKMAML, chain
from ctml.learners.stacked import stack
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid

TASKS, ALPHA = 4, 0.05


@pytest.fixture
def batch():
    return Sinusoid(shots=6, queries=5).sample(TASKS, generator(0, "t")).to(dtype=torch.float64)


def network(seed=0):
    return MLP([1, 8, 8, 1], activation=torch.tanh, generator=generator(seed, "w")).double()


def rk_maml(tableau, seed=0, **options):
    return RKMAML(network(seed), ctml.mse, tableau=tableau, **{"inner_lr": ALPHA, **options})


def gradient(learner, batch):
    learner.meta_gradient(batch)
    return trees.flatten({k: p.grad for k, p in learner.model.named_parameters()})


@pytest.mark.parametrize("tasks_at_once", [None, 3])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", ["first", "second"])
def test_a2_equal_one_is_maml_to_the_last_bit(batch, order, steps, tasks_at_once):
    options = {"inner_lr": ALPHA, "inner_steps": steps, "order": order, "tasks_at_once": tasks_at_once}
    maml = ctml.MAML(network(), ctml.mse, **options)
    member = RKMAML(network(), ctml.mse, tableau=chain(steps), **options)
    assert torch.equal(member.meta_gradient(batch), maml.meta_gradient(batch))
    assert torch.equal(gradient(member, batch), gradient(maml, batch))
    for name, adapted in maml.adapt(batch.support).items():
        assert torch.equal(member.adapt(batch.support)[name], adapted)


def test_euler_is_joint_training(batch):
    joint = ctml.MAML(network(), ctml.mse, inner_lr=ALPHA, inner_steps=0)
    assert torch.equal(gradient(rk_maml(EULER), batch), gradient(joint, batch))


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda t: t.name)
def test_first_order_direction_is_the_weighted_sum_of_query_gradients(batch, tableau):
    """V1 task by task, as written: d = mean_i sum_j a_j grad L_Q(theta - s sum_l q_jl k_l)."""
    learner = rk_maml(tableau)
    model, scale = learner.model, ALPHA / float(tableau.a[1][0]) if tableau.stages > 1 else 0.0

    def slope(vector, x, y):
        vector = vector.detach().requires_grad_()
        out = torch.func.functional_call(model, trees.unflatten(vector, learner.shared()), (x,))
        return torch.autograd.grad((out - y).square().mean(), vector)[0]

    theta, expected = trees.flatten(learner.shared()).detach(), 0.0
    for i in range(TASKS):
        one = batch.map(lambda t, i=i: t[i : i + 1])
        slopes = []
        for row, a in zip(tableau.a, tableau.b, strict=True):
            point = theta - scale * sum(float(q) * k for q, k in zip(row, slopes, strict=False))
            slopes.append(slope(point, *one.support))
            expected = expected + float(a) * slope(point, *one.query) / TASKS
    torch.testing.assert_close(gradient(rk_maml(tableau, order="first"), batch), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tableau", [RALSTON, KUTTA3, RK4, chain(3, Fraction(1, 2))], ids=lambda t: t.name)
def test_second_order_direction_is_the_derivative_of_the_meta_loss(batch, tableau):
    learner = rk_maml(tableau)
    found = gradient(learner, batch)
    theta, like = trees.flatten(learner.shared()).detach(), learner.shared()
    across = torch.randn(len(theta), dtype=torch.float64, generator=generator(0, "d"))
    eps, values = 1e-6, []
    for sign in (1, -1):
        for name, value in trees.unflatten(theta + sign * eps * across, like).items():
            like[name].data.copy_(value)
        values.append(float(learner.meta_loss(batch).mean()))
    assert float(found @ across) == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-7)


def test_tied_inner_rate_is_q21_times_the_step():
    assert RKMAML(network(), ctml.mse, tableau=RALSTON, step=0.3).inner_lr == pytest.approx(0.2)
    assert RKMAML(network(), ctml.mse, tableau=MIDPOINT, step=0.3).inner_lr == 0.15


def test_mean_stages_stand_at_one_point_for_all_tasks(batch):
    learner = rk_maml(RALSTON, stages="mean", order="first")
    _, moved = learner.stage_points(batch.support)
    own = trees.flatten(rk_maml(RALSTON, order="first").stage_points(batch.support)[1], batched=True)
    points = trees.flatten(moved, batched=True)
    torch.testing.assert_close(points, own.mean(0).expand_as(points), rtol=1e-13, atol=1e-13)
    assert (own - own.mean(0)).abs().max() > 1e-3


@pytest.mark.parametrize("stages", ["task", "mean"])
def test_stacked_runs_stay_apart(stages):
    """Two seeds in one batched program give each its own direction, mean stages included."""
    parts = [Sinusoid(shots=6).sample(TASKS, generator(s, "t")).to(dtype=torch.float64) for s in (0, 1)]
    both = ctml.TaskBatch(*(ctml.Examples(*map(torch.cat, zip(*e, strict=True))) for e in (
        [p.support for p in parts], [p.query for p in parts])))  # fmt: skip
    stacked = stack([rk_maml(RALSTON, seed, stages=stages) for seed in (0, 1)])
    stacked.meta_gradient(both)
    for run, part in enumerate(parts):
        alone = gradient(rk_maml(RALSTON, run, stages=stages), part)
        found = torch.cat([p.grad[run].flatten() for p in stacked.model.parameters()])
        torch.testing.assert_close(found, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "hessian-free"}, "order='hessian-free': must be one of second, first"),
        ({"stages": "all"}, "stages='all': must be one of task, mean"),
        ({"inner_lr": None}, "inner_lr=None, step=None: give one"),
        ({"step": 0.1}, "inner_lr=0.05, step=0.1: give one"),
        ({"inner_lr": -1.0}, "inner_lr=-1.0: must be a positive"),
        ({"inner_lr": None, "step": 0.0}, "step=0.0: must be a positive"),
        ({"tableau": EULER, "inner_lr": None, "step": 0.1}, "tableau='Euler' has no q_21"),
        (
            {"tableau": Tableau("lazy", ((), (Fraction(0),)), (Fraction(0), Fraction(1)), order=1)},
            "tableau='lazy' has no q_21",
        ),
        ({"stages": "mean", "tasks_at_once": 2}, "tasks_at_once=2: mean stages need the whole"),
        ({"inner_steps": -1}, "inner_steps=-1: must be at least 0"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_senseless_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RKMAML(network(), ctml.mse, **{"tableau": rk2(0.5), "inner_lr": ALPHA, **options})


def test_a_chain_needs_steps_and_weight():
    with pytest.raises(ValueError, match="inner_steps=0: must be at least 1"):
        chain(0)
    with pytest.raises(ValueError, match="a2=0: a chain without weight"):
        chain(2, 0)
