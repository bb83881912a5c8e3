"""The models over signals, Conv1D and Transformer: per-task weights against a loop over tasks, shapes, refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from ctml import trees
from ctml.models.conv1d import Conv1D
from ctml.models.transformer import Transformer
from ctml.rng import generator

TASKS, N, POINTS = 3, 4, 40

MODELS = {
    "conv": lambda: Conv1D(5, channels=6, generator=generator(0, "w")),
    "deep conv": lambda: Conv1D(5, channels=4, depth=5, generator=generator(0, "w")),
    "transformer": lambda: Transformer(5, width=8, generator=generator(0, "w")),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]().double()


@pytest.fixture
def x():
    return torch.randn(TASKS, N, POINTS, generator=generator(0, "x"), dtype=torch.float64)


def test_each_task_sees_its_own_weights(model, x):
    shared = dict(model.named_parameters())
    own = {
        k: v.detach() + 0.1 * torch.randn(TASKS, *v.shape, generator=generator(0, k), dtype=v.dtype)
        for k, v in shared.items()
    }
    together = functional_call(model, own, (x,))
    for i in range(TASKS):
        alone = functional_call(model, {k: v[i] for k, v in own.items()}, (x[i : i + 1],))
        torch.testing.assert_close(together[i], alone[0], rtol=1e-10, atol=1e-12)


def test_expanded_weights_are_shared_weights(model, x):
    expanded = trees.expand(dict(model.named_parameters()), TASKS)
    torch.testing.assert_close(functional_call(model, expanded, (x,)), model(x), rtol=1e-10, atol=1e-12)


def test_second_derivatives_exist(model, x):
    y = torch.arange(N).expand(TASKS, N) % 5
    params = list(model.parameters())
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    gradients = torch.autograd.grad(loss, params, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), params)
    assert all(torch.isfinite(s).all() for s in second)
    assert sum(s.abs().sum() for s in second) > 0


def test_convolution_equals_ordinary_torch(x):
    model = MODELS["conv"]().double()
    h = x.flatten(0, 1).unsqueeze(1)
    for layer, padding in zip(model.layers, (1, 1, 1), strict=True):
        h = F.relu(F.conv1d(h, layer.weight, layer.bias, stride=2, padding=padding))
    expected = F.linear(h.flatten(1), model.head.weight, model.head.bias).view(TASKS, N, 5)
    assert h.shape[1:] == (6, 5)  # the five points per channel of the data set's own model
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-12)


def test_attention_equals_torch(x):
    model = MODELS["transformer"]().double()
    block = model.blocks[0]
    tokens = torch.randn(1, 6, 8, generator=generator(0, "tokens"), dtype=torch.float64)
    normed = F.layer_norm(tokens, (8,))
    attended, _ = F.multi_head_attention_forward(
        normed.transpose(0, 1), normed.transpose(0, 1), normed.transpose(0, 1), 8, 2, block.to_qkv.weight,
        block.to_qkv.bias, None, None, False, 0.0, block.from_heads.weight, block.from_heads.bias, need_weights=False,
    )  # fmt: skip
    h = tokens + attended.transpose(0, 1)
    expected = h + block.narrow(F.relu(block.widen(F.layer_norm(h, (8,)))))
    torch.testing.assert_close(block(tokens, 6), expected, rtol=1e-10, atol=1e-12)


def test_position_matters_to_the_transformer(x):
    model = MODELS["transformer"]().double()
    assert (model(x) - model(x.roll(7, dims=-1))).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv1D(5, channels=0), "channels=0: must be 1 or more"),
        (lambda: Conv1D(5, depth=2), "depth=2: must be 3 or more"),
        (lambda: Transformer(5, width=9, heads=2), "width=9: must be a multiple of heads=2"),
        (lambda: Conv1D(5)(torch.zeros(1, 2, 28)), "x has shape .*this Conv1D reads"),
        (lambda: Transformer(5)(torch.zeros(1, 2, 28)), "x has shape .*this Transformer reads"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
