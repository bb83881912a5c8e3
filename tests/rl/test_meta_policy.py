"""The RK-weighted surrogate: its gradient, its members joint training and MAML, the constraint, and resuming."""

from fractions import Fraction

import pytest
import torch

from ctml import trees
from ctml.flows.tableaus import EULER, RK4, Tableau, rk2
from ctml.rl import TRPO, GaussianPolicy, MetaPolicy, Navigation, fisher, meta_train_policy, objective, policy_gradient
from ctml.rl.policy_gradient import inner_gradient, surrogate_and_divergence
from ctml.rl.trpo import gradient_of_surrogate
from ctml.rng import generator

TASKS = 3


def method(tableau, dtype=torch.float64, **options):
    policy = GaussianPolicy(2, 2, hidden=(6, 6), std=0.3, generator=generator(0, "w")).to(dtype)
    options = {"trajectories": 4, "curvature_every": 1, "inner_lr": 0.05} | options
    return MetaPolicy(policy, Navigation(horizon=15), tableau, **options)


def collected(method):
    return method.collect(method.environment.sample(TASKS, generator(0, "goals")).double(), generator(0, "act"))


def gradient(method, stages):
    return gradient_of_surrogate(objective(method, stages), method.theta)[1]


def totals(method, stages, theta):
    """J and D."""
    return [sum(part) for part in zip(*objective(method, stages)(theta), strict=True)]


@pytest.mark.parametrize("order", ["first", "second"])
def test_before_the_step_stages_stand_where_their_trajectories_were_made(order):
    m = method(RK4, order=order)
    stages = collected(m)
    for point, seen in zip(m.stage_points(m.theta, stages), stages.experience, strict=True):
        _, divergence = surrogate_and_divergence(m.policy, point, seen)
        assert float(divergence.abs().max()) < 1e-12


def test_second_order_gradient_goes_through_the_stages():
    m = method(rk2(Fraction(1, 2)), order="second")
    stages = collected(m)
    found = gradient(m, stages)
    across = torch.randn(len(found), generator=generator(0, "d"), dtype=torch.float64)
    eps = 1e-6
    ahead, behind = (totals(m, stages, m.theta + s * eps * across)[0] for s in (1, -1))
    numeric = (ahead - behind) / (2 * eps)
    assert float(found @ across) == pytest.approx(float(numeric), rel=1e-5)


def test_first_order_gradient_is_the_weighted_mean_of_policy_gradients():
    m = method(rk2(Fraction(3, 4)), order="first")
    stages = collected(m)
    at_stages = [
        trees.flatten(inner_gradient(m.policy, point, seen), batched=True).mean(0)
        for point, seen in zip(m.stage_points(m.theta, stages), stages.experience, strict=True)
    ]
    torch.testing.assert_close(gradient(m, stages), 0.25 * at_stages[0] + 0.75 * at_stages[1], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("a2", [Fraction(1, 2), Fraction(1)])
def test_curvature_is_the_hessian_of_the_divergence(a2, order):
    m = method(rk2(a2), order=order)
    stages = collected(m)
    theta = m.theta.requires_grad_()
    (slope,) = torch.autograd.grad(totals(m, stages, theta)[1], theta, create_graph=True)
    v = torch.randn(len(theta), generator=generator(0, "v"), dtype=torch.float64)
    (expected,) = torch.autograd.grad(slope @ v, theta)
    torch.testing.assert_close(fisher(m, stages)(v), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", ["first", "second"])
def test_cutting_the_tasks_into_chunks_changes_nothing(order, monkeypatch):
    m = method(rk2(Fraction(1, 2)), order=order)
    whole = collected(m)
    assert len(whole.experience[0].chunks()) == 1
    expected, before = gradient(m, whole), totals(m, whole, 1.01 * m.theta)
    monkeypatch.setattr(policy_gradient, "IN_CACHE", 70)
    cut = collected(m)
    assert len(cut.experience[0].chunks()) == TASKS
    torch.testing.assert_close(gradient(m, cut), expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(totals(m, cut, 1.01 * m.theta), before, rtol=1e-10, atol=1e-13)


def test_euler_needs_one_batch_of_trajectories_and_is_joint_training():
    m = method(EULER)
    stages = collected(m)
    assert len(stages.experience) == 1
    theta = trees.expand(dict(m.policy.named_parameters()), TASKS)
    joint = trees.flatten(inner_gradient(m.policy, theta, stages.experience[0]), batched=True).mean(0)
    torch.testing.assert_close(gradient(m, stages), joint, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("a2", [Fraction(1, 2), Fraction(1)])
def test_outer_steps_satisfy_the_constraint(a2, order):
    m = method(rk2(a2), torch.float32, order=order)
    history = meta_train_policy(m, iterations=3, meta_batch=TASKS, seed=0, outer=TRPO(delta=0.005), progress=False)
    assert any(history.moved)
    assert all(0 < d <= 0.005 for d, moved in zip(history.divergence, history.moved, strict=True) if moved)


def test_adaptation_improves_the_return_after_meta_training():
    m = method(rk2(1), torch.float32, trajectories=10, inner_lr=0.1)
    m.environment.horizon = 30
    goals = m.environment.sample(20, generator(0, "test"))
    start = m.returns(goals, [0.1], generator(1, "act")).mean(1)
    meta_train_policy(m, iterations=25, meta_batch=10, seed=0, progress=False)
    end = m.returns(goals, [0.1], generator(1, "act")).mean(1)
    assert end[1] > end[0] > start[0]


def test_a_resumed_run_ends_with_the_same_numbers(tmp_path):
    def train(iterations, checkpoint):
        m, options = method(rk2(1), torch.float32), {"checkpoint": checkpoint, "checkpoint_every": 1}
        history = meta_train_policy(m, iterations=iterations, meta_batch=TASKS, seed=0, progress=False, **options)
        return m.theta, history

    whole, history = train(4, None)
    train(2, tmp_path / "run.pt")
    resumed, again = train(4, tmp_path / "run.pt")
    assert torch.equal(whole, resumed)
    assert again == history
    assert repr(history).startswith("PolicyHistory(4 iterations, 4 moved, returns by stage now [")
    assert len(repr(history)) < 120


@pytest.mark.parametrize(
    ("changed", "option", "message"),
    [
        ({}, {"meta_batch": 2}, "with meta_batch=3, this run has meta_batch=2"),
        ({}, {"outer": TRPO(0.02)}, "with outer.delta=0.01, this run has outer.delta=0.02"),
        ({"inner_lr": 0.06}, {}, "with learner.inner_lr=0.05, this run has learner.inner_lr=0.06"),
        ({"order": "second"}, {}, "with learner.order='first', this run has learner.order='second'"),
        ({}, {"iterations": 1}, "has taken 2 steps already, this run asks for 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, option, message):
    settings = {"iterations": 2, "meta_batch": TASKS, "seed": 0, "checkpoint": tmp_path / "run.pt", "progress": False}
    meta_train_policy(method(rk2(1), torch.float32), **settings)
    with pytest.raises(ValueError, match=message):
        meta_train_policy(method(rk2(1), torch.float32, **changed), **settings | option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "third"}, "order='third': must be one of first, second"),
        ({"trajectories": 1}, "trajectories=1: must be at least 2"),
        ({"inner_lr": 0.0}, "inner_lr=0.0: must be a positive"),
    ],
)
def test_senseless_options_are_named(options, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        method(rk2(1), **options)


def test_negative_weights_are_refused():
    negative = Tableau("odd", ((), (Fraction(1),)), (Fraction(2), Fraction(-1)), order=1)
    with pytest.raises(ValueError, match="tableau='odd' has a negative weight"):
        method(negative)
