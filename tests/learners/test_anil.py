"""ANIL for any choice of adapted parameters: its ways to the meta-gradient, against each other and the theory."""

from functools import partial

import pytest
import torch
from torch import nn

import ctml
from ctml import Examples, TaskBatch
from ctml.flows import CrossEntropy, SquaredError
from ctml.learners.anil_backward import Autograd, EulerAdjoint, Reverse
from ctml.models import MLP, Conv4, DeepHead, PerTask
from ctml.rng import generator
from ctml.tasks import Sinusoid
from ctml.theory import anil as theory
from ctml.theory.anil_instances import LogCoshTasks, QuadraticTasks, TwoBlocks

TASKS, WAYS, LR = 4, 3, 0.3


@pytest.fixture
def images():
    x = torch.rand(TASKS, 4 * WAYS, 1, 16, 16, generator=generator(0, "x"), dtype=torch.float64)
    y = torch.arange(WAYS).repeat(2).expand(TASKS, -1)
    return TaskBatch(Examples(x[:, : 2 * WAYS], y), Examples(x[:, 2 * WAYS :], y))


def conv4(norm="transductive"):
    return Conv4(1, WAYS, width=3, side=16, norm=norm, generator=generator(0, "w")).double()


def meta_gradient(model, batch, loss=ctml.cross_entropy, **options):
    learner = ctml.ANIL(model, loss, **{"inner_lr": LR, "inner_steps": 3, **options})
    losses = learner.meta_gradient(batch)
    return losses, torch.cat([p.grad.flatten() for p in model.parameters()]), learner


def assert_same(one, other, rtol=1e-9):
    torch.testing.assert_close(one[0], other[0], rtol=rtol, atol=0)
    assert float((one[1] - other[1]).norm() / other[1].norm()) < rtol


@pytest.mark.parametrize("backward", [Autograd(), Reverse()], ids=repr)
@pytest.mark.parametrize("steps", [0, 1, 3, 7])
@pytest.mark.parametrize("kind", [QuadraticTasks, LogCoshTasks])
def test_meta_gradient_equals_the_theorys(kind, steps, backward):
    """The learner in the paper's letters against torch.func through the instance's own formulas."""
    instance, stream = kind.draw(generator(1, "instance")), generator(1, "point")
    w, phi = (torch.randn(1, n, generator=stream, dtype=torch.float64) for n in (6, 4))
    options = {"adapts": "w", "inner_lr": 0.5, "inner_steps": steps, "ridge": instance.ridge, "backward": backward}
    seen = meta_gradient(TwoBlocks(w[0], phi[0]), instance.batch(), instance.loss, **options)
    expected = torch.cat(theory.meta_gradient(instance, w, phi, 0.5, steps), 1)[0]
    assert float((seen[1] - expected).norm() / expected.norm()) < 1e-12


CHOICES = {
    "head": {},
    "head with a ridge": {"ridge": 0.2},
    "one tensor": {"adapts": "head.bias"},
    "last block and head": {"adapts": ("blocks.3", "head")},
    "a predicate": {"adapts": lambda name: "norm" in name, "ridge": 0.2},
    "first order": {"order": "first", "ridge": 0.2},
}


@pytest.mark.parametrize("options", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("tasks_at_once", [None, 3])
@pytest.mark.parametrize("norm", ["transductive", "support"])
def test_reverse_loop_equals_autograd(images, options, tasks_at_once, norm):
    reverse = meta_gradient(conv4(norm), images, backward=Reverse(), tasks_at_once=tasks_at_once, **options)
    assert_same(reverse, meta_gradient(conv4(norm), images, **options))


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize("tasks_at_once", [None, 3])
def test_adjoint_of_the_euler_flow_equals_autograd(images, steps, tasks_at_once):
    adjoint = meta_gradient(conv4(), images, inner_steps=steps, backward=EulerAdjoint(), tasks_at_once=tasks_at_once)
    assert_same(adjoint, meta_gradient(conv4(), images, inner_steps=steps))


@pytest.mark.parametrize("backward", [Autograd(), Reverse()], ids=repr)
@pytest.mark.parametrize("adapts", ["head", ("blocks.2", "blocks.3", "head")])
def test_kept_features_equal_the_whole_network_at_each_step(images, adapts, backward):
    """A cut network computes its features once; its numbers are those of running everything at every step."""
    blocks = sum(name.startswith("blocks") for name in adapts) if isinstance(adapts, tuple) else 0
    model = conv4()
    kept = meta_gradient(DeepHead(model, blocks) if blocks else model, images, ridge=0.1, backward=backward)
    whole = conv4()
    learner = ctml.ANIL(
        whole, ctml.cross_entropy, inner_lr=LR, inner_steps=3, adapts=adapts, ridge=0.1, backward=backward
    )
    learner.keeps_features = False
    losses = learner.meta_gradient(images)
    assert kept[2].keeps_features
    by_name = dict(model.named_parameters())
    torch.testing.assert_close(kept[0], losses, rtol=1e-10, atol=0)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(by_name[name].grad, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backward", [Autograd(), Reverse()], ids=repr)
def test_adapting_everything_is_maml(images, backward):
    maml = ctml.MAML(conv4(), ctml.cross_entropy, inner_lr=LR, inner_steps=3)
    losses = maml.meta_gradient(images)
    expected = torch.cat([p.grad.flatten() for p in maml.model.parameters()])
    assert_same(meta_gradient(conv4(), images, adapts=lambda name: True, backward=backward), (losses, expected))


@pytest.mark.parametrize("backward", [Autograd(), Reverse()], ids=repr)
def test_any_ordinary_module_can_be_split_by_name(backward):
    batch = Sinusoid(shots=5, queries=5).sample(TASKS, generator(0, "t")).to(dtype=torch.float64)
    layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    mlp = MLP([1, 8, 1], activation=torch.tanh).double()
    with torch.no_grad():
        for mine, theirs in zip(mlp.parameters(), layers.parameters(), strict=True):
            mine.copy_(theirs)
    wrapped = meta_gradient(PerTask(layers), batch, ctml.mse, adapts="module.2", backward=backward)
    assert_same(wrapped, meta_gradient(mlp, batch, ctml.mse))


def test_ridge_pulls_the_head_towards_zero(images):
    """With a loss that is flat, each step multiplies w by 1 - alpha mu."""
    learner = ctml.ANIL(conv4(), lambda out, y: 0 * out.sum((1, 2)), inner_lr=0.5, inner_steps=4, ridge=0.2)
    adapted, start = learner.adapt(images.support), learner.shared()
    for name, w in adapted.items():
        torch.testing.assert_close(w, (0.9**4 * start[name]).expand_as(w))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapts": "tail"}, "adapts='tail' is none of blocks.0.conv.weight"),
        ({"adapts": ("head", "tail")}, "adapts='tail' is none of"),
        ({"adapts": "hea"}, "adapts='hea' is none of"),
        ({"adapts": lambda name: False}, "nothing would adapt"),
        ({"adapts": ()}, "nothing would adapt"),
        ({"backward": EulerAdjoint(), "ridge": 0.1}, "backward=EulerAdjoint.*: fits adapts='head'"),
        ({"backward": EulerAdjoint(), "adapts": "head.bias"}, "backward=EulerAdjoint.*: fits adapts='head'"),
        ({"backward": EulerAdjoint(), "order": "first"}, "backward=EulerAdjoint.*: fits adapts='head'"),
        ({"ridge": -1.0}, "ridge=-1.0: must be at least 0"),
        ({"order": "hessian-free"}, "order='hessian-free': must be one of second, first"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_senseless_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ctml.ANIL(conv4(), ctml.cross_entropy, inner_lr=LR, **options)


@pytest.mark.usefixtures("without_shape_checks")
def test_backward_is_an_object():
    with pytest.raises(
        TypeError, match=r"backward='reverse': must be one of Autograd\(\), Reverse\(\), EulerAdjoint\(\)"
    ):
        ctml.ANIL(conv4(), ctml.cross_entropy, inner_lr=LR, backward="reverse")


def half_squared_error(outputs, targets):
    return (outputs - targets).square().sum(-1).mean(1) / 2


smoothed = partial(ctml.cross_entropy, label_smoothing=0.1)
TWINS = {
    "another name": (lambda z, y: ctml.cross_entropy(z, y), CrossEntropy()),
    "smoothed": (smoothed, CrossEntropy(smoothing=0.1)),
    "squared": (half_squared_error, SquaredError()),
}


@pytest.mark.parametrize("loss, inner_loss", TWINS.values(), ids=TWINS)
def test_the_euler_adjoint_asks_what_a_loss_is_not_what_it_is_called(images, loss, inner_loss):
    if inner_loss == SquaredError():
        one_hot = [Examples(x, nn.functional.one_hot(y, WAYS).double()) for x, y in (images.support, images.query)]
        images = TaskBatch(*one_hot)
    adjoint = meta_gradient(conv4(), images, loss, backward=EulerAdjoint(inner_loss))
    assert_same(adjoint, meta_gradient(conv4(), images, loss))


@pytest.mark.parametrize(
    "loss, inner_loss",
    [
        (smoothed, CrossEntropy()),
        (ctml.cross_entropy, CrossEntropy(smoothing=0.01)),
        (ctml.cross_entropy, SquaredError()),
    ],
    ids=["smoothing missed", "smoothing too much", "squared"],
)
def test_another_inner_loss_is_refused_by_name(images, loss, inner_loss):
    learner = ctml.ANIL(conv4(), loss, inner_lr=LR, inner_steps=3, backward=EulerAdjoint(inner_loss))
    with pytest.raises(ValueError, match=r"backward=EulerAdjoint.*: another inner loss than loss=.*cross_entropy"):
        learner.meta_gradient(images)
