"""ResNet12 against the same network in ordinary torch functions, task by task, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from ctml.models import ResNet12
from ctml.models.resnet12 import ResidualBlock
from ctml.rng import generator

TASKS, N = 2, 3


def norm(z, gamma, beta, n_context):
    var, mean = torch.var_mean(z[:n_context], (0, 2, 3), correction=0, keepdim=True)
    return (z - mean) / (var + 1e-5).sqrt() * gamma[:, None, None] + beta[:, None, None]


def plain_block(params, x, n_context=None):
    """One task through one residual block."""

    def layer(x, conv, norm_name, padding):
        z = F.conv2d(x, params[f"{conv}.weight"], padding=padding)
        return norm(z, params[f"{norm_name}.weight"], params[f"{norm_name}.bias"], n_context)

    h = F.leaky_relu(layer(x, "convs.0", "norms.0", 1), 0.1)
    h = F.leaky_relu(layer(h, "convs.1", "norms.1", 1), 0.1)
    h = layer(h, "convs.2", "norms.2", 1) + layer(x, "shortcut_conv", "shortcut_norm", 0)
    return F.max_pool2d(F.leaky_relu(h, 0.1), 2)


@pytest.mark.parametrize("n_context", [None, 2])
def test_block_and_its_second_derivative(n_context):
    block = ResidualBlock(2, 3, generator(0, "w")).double()
    own = {
        k: (p + 0.1 * torch.randn(TASKS, *p.shape, dtype=p.dtype, generator=generator(0, k))).detach().requires_grad_()
        for k, p in block.named_parameters()
    }
    x = torch.randn(TASKS, N, 2, 5, 5, dtype=torch.float64, generator=generator(0, "x"))
    ours = functional_call(block, own, (x, n_context))
    expected = torch.stack([plain_block({k: p[t] for k, p in own.items()}, x[t], n_context) for t in range(TASKS)])
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)

    def second(outputs):
        first = torch.autograd.grad(outputs.square().sum(), list(own.values()), create_graph=True)
        return torch.autograd.grad(sum(g.sin().sum() for g in first), list(own.values()))

    torch.testing.assert_close(second(ours), second(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("average", [False, True])
def test_network(average):
    model = ResNet12(3, 5, side=32, average=average, generator=generator(0, "w")).double()
    x = torch.rand(TASKS, N, 3, 32, 32, dtype=torch.float64, generator=generator(0, "x"))
    expected = []
    for h in x:
        for block in model.blocks:
            h = plain_block(dict(block.named_parameters()), h)
        features = h.mean((2, 3)) if average else h.flatten(1)
        expected.append(F.linear(features, model.head.weight, model.head.bias))
    torch.testing.assert_close(model(x), torch.stack(expected), rtol=1e-9, atol=1e-10)


def test_features_of_the_published_size():
    assert ResNet12(3, 5).head.weight.shape == (5, 16_000)
    assert ResNet12(3, 5, average=True).head.weight.shape == (5, 640)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="side=12: 4 halvings need 16 pixels"):
        ResNet12(3, 5, side=12)
