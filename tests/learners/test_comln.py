"""COMLN: ANIL as its Euler case, its learned time, and what training changes."""

import math
from functools import partial

import pytest
import torch

import ctml
from ctml.flows import Adjoint, ClosedForm, CrossEntropy, FixedSteps, ForwardMode, SquaredError, Unrolled
from ctml.flows.tableaus import EULER
from ctml.learners.comln import COMLN
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Logistic, Sinusoid

TASKS, WAYS = 4, 3


@pytest.fixture
def batch():
    x = torch.randn(TASKS, 15, 6, generator=generator(0, "x"), dtype=torch.float64)
    y = torch.arange(WAYS).repeat(5).expand(TASKS, -1)
    return ctml.TaskBatch(ctml.Examples(x[:, :9], y[:, :9]), ctml.Examples(x[:, 9:], y[:, 9:]))


def mlp(sizes=(6, 10, 8, WAYS), dtype=torch.float64):
    return MLP(sizes, torch.tanh, generator=generator(1, "weights")).to(dtype)


def gradients(learner, batch):
    losses = learner.meta_gradient(batch)
    return losses, {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}


def test_euler_is_anil(batch):
    """Same adapted head and same meta-gradients as ANIL's plain autograd, all parameters of the body included."""
    rate, steps = 0.3, 7
    flow = COMLN(mlp(), ctml.cross_entropy, horizon=rate * steps, solver=FixedSteps(steps, EULER), learn_horizon=False)
    model = mlp()
    model.head.bias.data.zero_()
    model.head.bias.requires_grad_(False)
    anil = ctml.ANIL(model, ctml.cross_entropy, inner_lr=rate, inner_steps=steps, adapts="head.weight")
    torch.testing.assert_close(
        flow.adapt(batch.support)["weight"], anil.adapt(batch.support)["weight"], rtol=1e-12, atol=1e-13
    )
    (loss, found), (anil_loss, expected) = gradients(flow, batch), gradients(anil, batch)
    torch.testing.assert_close(loss, anil_loss, rtol=1e-12, atol=0)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gradient", [Adjoint(), ForwardMode(), Unrolled()], ids=repr)
def test_derivative_in_log_horizon(batch, gradient):
    solver = ctml.flows.Adaptive(1e-11, 1e-12)
    learner = COMLN(mlp(), ctml.cross_entropy, horizon=2.0, gradient=gradient, solver=solver)
    learner.meta_gradient(batch)
    derivative, at, eps = float(learner.log_horizon.grad), float(learner.log_horizon.detach()), 1e-4

    def loss(log_horizon: float) -> float:
        learner.log_horizon.data.fill_(log_horizon)
        return float(learner.meta_loss(batch).mean().detach())

    assert derivative == pytest.approx((loss(at + eps) - loss(at - eps)) / (2 * eps), rel=1e-6)


def test_chunks_of_tasks_give_the_same_meta_gradient(batch):
    whole = COMLN(mlp(), ctml.cross_entropy)
    chunked = COMLN(mlp(), ctml.cross_entropy, tasks_at_once=3)
    for one, other in zip(gradients(whole, batch)[1].values(), gradients(chunked, batch)[1].values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_inner_smoothing_is_for_training_only(batch):
    learner = COMLN(mlp(), ctml.cross_entropy, inner_loss=CrossEntropy(smoothing=0.2))
    plain = COMLN(mlp(), ctml.cross_entropy)
    assert not torch.allclose(learner.adapt(batch.support)["weight"], plain.adapt(batch.support)["weight"])
    assert torch.equal(learner.eval().adapt(batch.support)["weight"], plain.adapt(batch.support)["weight"])


def test_the_query_loss_is_the_one_given_whatever_it_is_called(batch):
    """The same loss under three names gives the same numbers, smoothed or not, in training and out of it."""
    names = [ctml.cross_entropy, partial(ctml.cross_entropy), lambda logits, labels: ctml.cross_entropy(logits, labels)]
    options = {"inner_loss": CrossEntropy(smoothing=0.2)}
    learners = [COMLN(mlp(), loss, **options) for loss in names]
    smoothed = COMLN(mlp(), partial(ctml.cross_entropy, label_smoothing=0.2), **options)
    for training in (True, False):
        outputs = learners[0].train(training).predict(learners[0].adapt(batch.support), batch.query.x, batch.support.x)
        for learner in learners:
            found = learner.train(training).meta_loss(batch)
            assert torch.equal(found, ctml.cross_entropy(outputs, batch.query.y))
        found = smoothed.train(training).meta_loss(batch)
        assert torch.equal(found, ctml.cross_entropy(outputs, batch.query.y, 0.2))


@pytest.mark.parametrize("learn_horizon", [True, False])
def test_the_model_is_left_as_it_is(batch, learn_horizon):
    """Neither making the learner nor using it zeroes or freezes anything; the bias of the head takes no part."""
    model = mlp()
    before = {k: (p.detach().clone(), p.requires_grad) for k, p in model.named_parameters()}
    assert before["head.bias"][0].abs().max() > 0
    learner = COMLN(model, ctml.cross_entropy, learn_horizon=learn_horizon)
    learner.meta_gradient(batch)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name][0]) and p.requires_grad == before[name][1]
    outputs = learner.predict(learner.adapt(batch.support), batch.query.x, batch.support.x)
    model.head.bias.data.add_(1.0)
    assert torch.equal(outputs, learner.predict(learner.adapt(batch.support), batch.query.x, batch.support.x))


def test_meta_test_evaluates():
    tasks = Logistic(dim=6, shots=9, queries=9)
    model = mlp((6, 10, 8, 2), torch.float32)
    learner, plain = COMLN(model, ctml.cross_entropy, inner_loss=CrossEntropy(0.5)), COMLN(model, ctml.cross_entropy)
    scores, expected = (ctml.meta_test(one, tasks, n_tasks=20).scores for one in (learner, plain))
    assert torch.equal(scores, expected) and learner.training


def test_horizon_is_learned_and_not_decayed():
    """On tasks whose features need longer adaptation T grows, and meta-training lowers the loss."""
    learner = COMLN(mlp((6, 10, 8, 2), torch.float32), ctml.cross_entropy, horizon=0.1)
    bias = learner.model.head.bias.detach().clone()
    groups = learner.parameter_groups(weight_decay=5e-4)
    assert groups[1]["params"] == [learner.log_horizon] and groups[1]["weight_decay"] == 0
    optimizer = torch.optim.Adam(groups, lr=0.02)
    tasks = Logistic(dim=6, spread=2.0)
    history = ctml.meta_train(learner, tasks, optimizer=optimizer, steps=150, meta_batch=8, seed=0, progress=False)
    assert float(learner.horizon.detach()) > 0.2
    assert sum(history.loss[-10:]) < 0.95 * sum(history.loss[:10])
    assert torch.equal(learner.model.head.bias, bias), "the bias takes no part"


def test_squared_loss_is_a_learner_for_regression():
    """The closed form and small steps agree, on targets that are real numbers."""
    batch = Sinusoid().sample(3, generator(0, "tasks")).to(dtype=torch.float64)
    exact = COMLN(mlp((1, 10, 8, 1)), ctml.mse, inner_loss=SquaredError(), solver=ClosedForm())
    steps = COMLN(mlp((1, 10, 8, 1)), ctml.mse, inner_loss=SquaredError(), solver=FixedSteps(200))
    (loss, found), (other_loss, expected) = gradients(exact, batch), gradients(steps, batch)
    torch.testing.assert_close(loss, other_loss, rtol=1e-8, atol=0)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("without_shape_checks")
def test_refusals():
    with pytest.raises(ValueError, match="Tanh"):
        COMLN(torch.nn.Tanh(), ctml.cross_entropy)
    with pytest.raises(ValueError, match=r"horizon=0"):
        COMLN(mlp(), ctml.cross_entropy, horizon=0.0)
    with pytest.raises(ValueError, match="only SquaredError"):
        COMLN(mlp(), ctml.cross_entropy, solver=ClosedForm())
    with pytest.raises(TypeError, match="gradient='adjoint': must be one of"):
        COMLN(mlp(), ctml.cross_entropy, gradient="adjoint")
    with pytest.raises(ValueError, match="inner_steps=5: COMLN takes no inner steps"):
        COMLN(mlp(), ctml.cross_entropy).with_inner_steps(5)
    assert math.isclose(float(COMLN(mlp(), ctml.cross_entropy, horizon=3.0).horizon.detach()), 3.0)
