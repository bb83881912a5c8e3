"""The operations against ordinary torch, and their derivatives against finite differences, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from ctml.models import operations
from ctml.models.operations import convolve, convolve_and_pool, moments, moments_after_convolution, stack, unstack
from ctml.rng import generator

TASKS, N, INPUTS, OUTPUTS, SIDE = 2, 2, 2, 3, 5


@pytest.fixture
def images():
    x = torch.randn(TASKS, N, INPUTS, SIDE, SIDE, dtype=torch.float64, generator=generator(0, "x"))
    return stack(x).requires_grad_()


def weights(kernel=3):
    shape = (TASKS, OUTPUTS, INPUTS, kernel, kernel)
    return torch.randn(shape, dtype=torch.float64, generator=generator(0, "w")).requires_grad_()


def loop(x, w, **options):
    """Convolve task by task."""
    return torch.stack([F.conv2d(x_t, w_t, **options) for x_t, w_t in zip(unstack(x, TASKS), w, strict=True)])


@pytest.mark.parametrize(("tasks", "channels"), [(1, 1), (1, 3), (3, 1), (3, 2)])
def test_unstack_undoes_stack_and_stacked_images_have_their_channels_last(tasks, channels):
    x = torch.rand(tasks, 4, channels, 6, 6, generator=generator(0, "x"))
    stacked = stack(x)
    assert stacked.stride(1) == 1
    assert stacked.stride(3) == tasks * channels
    torch.testing.assert_close(unstack(stacked, tasks), x, rtol=0, atol=0)
    assert stack(unstack(stacked, tasks)).data_ptr() == stacked.data_ptr() or tasks * channels == 1


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (5, 1)])
def test_convolution_and_its_derivatives(images, kernel, stride):
    w = weights(kernel)
    expected = loop(images, w, stride=stride, padding=kernel // 2)
    torch.testing.assert_close(unstack(convolve(images, w, stride), TASKS), expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x, w: convolve(x, w, stride), (images, w))
    assert gradgradcheck(lambda x, w: convolve(x, w, stride), (images, w), fast_mode=True)


@pytest.mark.parametrize("numbers_at_once", [1, 2 * SIDE**2 * TASKS * OUTPUTS, 10**6])
def test_pooled_convolution_and_its_derivatives(images, monkeypatch, numbers_at_once):
    monkeypatch.setattr(operations, "CACHE_NUMBERS", numbers_at_once)
    w = weights()
    expected = F.max_pool2d(loop(images, w, padding=1).flatten(0, 1), 2).unflatten(0, (TASKS, N))
    torch.testing.assert_close(unstack(convolve_and_pool(images, w), TASKS), expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(convolve_and_pool, (images, w))
    assert gradgradcheck(convolve_and_pool, (images, w), fast_mode=True)


def test_of_equal_pixels_the_first_is_picked_as_torch_does():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    ours = torch.autograd.grad(convolve_and_pool(x, w).sum(), x)[0]
    torchs = torch.autograd.grad(F.max_pool2d(F.conv2d(x, w[0]), 2).sum(), x)[0]
    torch.testing.assert_close(ours, torchs, rtol=0, atol=0)


def test_moments_and_their_derivatives(images):
    var, mean = torch.var_mean(images, (0, 2, 3), correction=0)
    torch.testing.assert_close(moments(images), (mean, var), rtol=1e-12, atol=1e-12)
    assert gradcheck(moments, (images,))
    assert gradgradcheck(moments, (images,), fast_mode=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_moments_after_a_convolution_without_convolving(images, stride):
    w = weights()
    actual, expected = moments_after_convolution(images, w, stride), moments(convolve(images, w, stride))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda w: moments_after_convolution(images.detach(), w, stride), (w,))
    assert gradgradcheck(lambda w: moments_after_convolution(images.detach(), w, stride), (w,), fast_mode=True)
