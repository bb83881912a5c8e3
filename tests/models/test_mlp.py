"""The fully connected network against the same in ordinary torch functions."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from ctml.models import MLP
from ctml.rng import generator

TASKS = 3


@pytest.fixture
def x():
    return torch.randn(TASKS, 5, 2, dtype=torch.float64, generator=generator(0, "x"))


def plain(params, x, activation):
    for i in range(2):
        x = activation(F.linear(x, params[f"body.{i}.weight"], params[f"body.{i}.bias"]))
    return F.linear(x, params["head.weight"], params["head.bias"])


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
def test_shared_expanded_and_own_parameters(x, activation):
    model = MLP([2, 7, 6, 3], activation, generator=generator(0, "w")).double()
    shared = dict(model.named_parameters())
    expanded = {k: p.expand(TASKS, *p.shape) for k, p in shared.items()}
    own = {k: p + torch.arange(TASKS).view(-1, *[1] * (p.dim() - 1)) for k, p in expanded.items()}
    for params in (shared, expanded):
        torch.testing.assert_close(functional_call(model, params, (x,)), plain(shared, x, activation))
    for t, outputs in enumerate(functional_call(model, own, (x,))):
        torch.testing.assert_close(outputs, plain({k: p[t] for k, p in own.items()}, x[t], activation))


def test_without_hidden_layers_it_is_linear(x):
    model = MLP([2, 3], generator=generator(0, "w")).double()
    torch.testing.assert_close(model.features(x), x)
    torch.testing.assert_close(model(x), F.linear(x, model.head.weight, model.head.bias))


@pytest.mark.parametrize("sizes", [[], [3], [2, 0, 1]])
def test_senseless_sizes_are_named(sizes):
    with pytest.raises(ValueError, match=r"sizes=.*at least an input and an output size"):
        MLP(sizes)


def test_inputs_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\): this MLP reads \(tasks, n, 1\)"):
        MLP([1, 4, 1])(torch.zeros(2, 5, 3))
