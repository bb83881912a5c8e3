"""MAML in its three orders, ANIL and Reptile, against a plain loop over tasks with ordinary torch, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

import ctml
from ctml.agreement import relative_error
from ctml.learners.maml import NoDifference
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid

TASKS, LR = 4, 0.05


@pytest.fixture
def batch():
    return Sinusoid(shots=6, queries=5).sample(TASKS, generator(0, "t")).to(dtype=torch.float64)


def network(activation=torch.tanh):
    return MLP([1, 8, 8, 1], activation=activation, generator=generator(0, "w")).double()


def plain_meta_gradient(model, batch, steps, second_order, adapted=lambda name: True):
    """The loop everybody writes: one task after another, autograd through the steps."""
    theta = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    total = 0.0
    losses = []
    for i in range(batch.n_tasks):
        params = dict(theta)
        for _ in range(steps):
            loss = F.mse_loss(functional_call(model, params, (batch.support.x[i : i + 1],)), batch.support.y[i : i + 1])
            moving = {k: v for k, v in params.items() if adapted(k)}
            grads = torch.autograd.grad(loss, list(moving.values()), create_graph=second_order)
            params |= {
                k: v - LR * (g if second_order else g.detach()) for (k, v), g in zip(moving.items(), grads, strict=True)
            }
        losses.append(F.mse_loss(functional_call(model, params, (batch.query.x[i : i + 1],)), batch.query.y[i : i + 1]))
        total = total + losses[-1] / batch.n_tasks
    return torch.stack(losses).detach(), dict(zip(theta, torch.autograd.grad(total, list(theta.values())), strict=True))


def assert_same(learner, expected, rtol=1e-10, atol=1e-12):
    for name, parameter in learner.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("tasks_at_once", [None, 1, 3])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("order", ["second", "first"])
def test_meta_gradient_equals_the_plain_loop(batch, order, steps, tasks_at_once):
    learner = ctml.MAML(network(), ctml.mse, inner_lr=LR, inner_steps=steps, order=order, tasks_at_once=tasks_at_once)
    losses = learner.meta_gradient(batch)
    expected_losses, expected = plain_meta_gradient(learner.model, batch, steps, order == "second")
    torch.testing.assert_close(losses, expected_losses, rtol=1e-12, atol=0)
    assert_same(learner, expected)


def test_second_order_is_the_derivative_of_the_meta_loss(batch):
    learner = ctml.MAML(network(), ctml.mse, inner_lr=LR, inner_steps=2)
    learner.meta_gradient(batch)
    weight = learner.model.get_parameter("head.weight")
    eps, direction = 1e-6, torch.randn(weight.shape, dtype=torch.float64, generator=generator(0, "d"))
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight.add_(sign * eps * direction)
            values.append(learner.meta_loss(batch).mean())
            weight.sub_(sign * eps * direction)
    assert float((weight.grad * direction).sum()) == pytest.approx(float(values[0] - values[1]) / (2 * eps), rel=1e-7)


def test_hessian_free_approaches_second_order_quadratically(batch):
    exact = ctml.MAML(network(), ctml.mse, inner_lr=LR, inner_steps=3)
    exact.meta_gradient(batch)
    target = ctml.trees.flatten({k: p.grad for k, p in exact.model.named_parameters()})
    errors = []
    for difference in (2e-3, 1e-3):
        free = ctml.MAML(
            network(),
            ctml.mse,
            inner_lr=LR,
            inner_steps=3,
            order="hessian-free",
            difference=difference,
            tasks_at_once=3,
        )
        free.meta_gradient(batch)
        errors.append(
            float((ctml.trees.flatten({k: p.grad for k, p in free.model.named_parameters()}) - target).norm())
        )
    assert errors[1] / float(target.norm()) < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def kinked(kind, dtype):
    """Return a network with ReLU, a batch and its loss, on which a difference of fixed length meets kinks."""
    stream = generator(0, "kinks")
    if kind == "relu":
        model, batch = ctml.models.MLP([1, 40, 40, 1], generator=stream), ctml.tasks.Sinusoid().sample(4, stream)
        return model.to(dtype), batch.to(dtype=dtype), ctml.mse, 0.01
    model = ctml.models.Conv4(1, 5, width=4, side=14, pool=False, generator=stream)
    batch = ctml.tasks.Noise(5, 1, 3, (1, 14, 14)).sample(2, stream)
    return model.to(dtype), batch.to(dtype=dtype), ctml.cross_entropy, 0.4


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        ("relu", torch.float64, 1e-7),
        ("relu", torch.float32, 1e-2),
        ("conv", torch.float64, 1e-5),
        ("conv", torch.float32, 0.1),
    ],
)
def test_hessian_free_finds_its_difference_among_kinks(kind, dtype, tolerance):
    def gradient(order, dtype=torch.float64, **options):
        model, batch, loss, rate = kinked(kind, dtype)
        ctml.MAML(model, loss, inner_lr=rate, inner_steps=3, order=order, **options).meta_gradient(batch)
        return torch.cat([p.grad.double().flatten() for p in model.parameters()])

    exact = gradient("second")
    assert relative_error(gradient("hessian-free", dtype), exact) < tolerance
    assert relative_error(gradient("first"), exact) > 0.3
    assert relative_error(gradient("hessian-free", dtype, difference=1e-3), exact) > 0.05, (
        "what the search is there for"
    )


class Waves(torch.nn.Module):
    """A function whose slope turns faster than differences of its parameter can follow."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, context=None):
        return torch.sin(1e9 * self.w[..., None]) / 1e9 + x


def test_hessian_free_refuses_where_no_difference_tells_the_curvature():
    batch = ctml.tasks.Sinusoid().sample(2, generator(0, "t"))
    learner = ctml.MAML(Waves(), ctml.mse, inner_lr=0.5, order="hessian-free")
    with pytest.raises(
        NoDifference, match=r"kinks nearer .* than differences of torch.float32 resolve: .*order='second'"
    ):
        learner.meta_gradient(batch)


def test_hessian_free_follows_plain_steps_alone(batch):
    class Halved(ctml.MAML):
        def inner_step(self, params, embedded, step):
            return ctml.trees.axpy(-self.inner_lr / 2, self.gradient(params, embedded), params)

    with pytest.raises(TypeError, match="Halved has order='hessian-free' and steps of its own"):
        Halved(network(), ctml.mse, inner_lr=LR, order="hessian-free").meta_gradient(batch)


@pytest.mark.parametrize("order", ["second", "first"])
def test_anil_equals_maml_restricted_to_the_head(batch, order):
    learner = ctml.ANIL(network(), ctml.mse, inner_lr=LR, inner_steps=3, order=order)
    losses = learner.meta_gradient(batch)
    expected_losses, expected = plain_meta_gradient(
        learner.model, batch, 3, order == "second", adapted=lambda name: name.startswith("head.")
    )
    torch.testing.assert_close(losses, expected_losses, rtol=1e-12, atol=0)
    assert_same(learner, expected)


def test_reptile_is_start_minus_end_of_each_tasks_own_training(batch):
    learner = ctml.Reptile(network(), ctml.mse, inner_lr=LR, inner_steps=2)
    learner.meta_gradient(batch)
    moved = []
    for i in range(TASKS):
        model = copy.deepcopy(learner.model)
        x = torch.cat([batch.support.x[i], batch.query.x[i]])[None]
        y = torch.cat([batch.support.y[i], batch.query.y[i]])[None]
        for step in range(2):
            optimizer = torch.optim.SGD(model.parameters(), lr=LR)
            optimizer.zero_grad()
            F.mse_loss(model(x[:, step::2]), y[:, step::2]).backward()
            optimizer.step()
        moved.append(dict(model.named_parameters()))
    for name, p in learner.model.named_parameters():
        torch.testing.assert_close(p.grad, p - torch.stack([m[name] for m in moved]).mean(0), rtol=1e-10, atol=1e-13)


def test_meta_testing_builds_no_graph(batch):
    learner = ctml.MAML(network(), ctml.mse, inner_lr=LR, inner_steps=2)
    with torch.no_grad():
        adapted = learner.adapt(batch.support)
    assert not any(v.requires_grad for v in adapted.values())
    with_graph = learner.adapt(batch.support)
    for name in adapted:
        torch.testing.assert_close(adapted[name], with_graph[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": -0.1}, "inner_lr=-0.1: must be a positive"),
        ({"inner_lr": float("nan")}, "inner_lr=nan"),
        ({"inner_steps": -1}, "inner_steps=-1: must be at least 0"),
        ({"order": "third"}, "order='third': must be one of second, first, hessian-free"),
        ({"tasks_at_once": 0}, "tasks_at_once=0"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_senseless_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ctml.MAML(network(), ctml.mse, **{"inner_lr": 0.1, **options})


def test_reptile_with_one_step_is_refused():
    with pytest.raises(ValueError, match="inner_steps=1: Reptile with one step is joint training"):
        ctml.Reptile(network(), ctml.mse, inner_lr=LR, inner_steps=1)


def test_anil_needs_features_and_head():
    with pytest.raises(ValueError, match="model=Linear: ANIL needs its features"):
        ctml.ANIL(torch.nn.Linear(1, 1), ctml.mse, inner_lr=LR)
