"""Layers over a batch of tasks.

Invariants: an input is ``(tasks, n, *features)``; a parameter has either its own shape (shared by all tasks) or one
more leading axis ``tasks`` (each task its own); an output keeps the leading ``(tasks, n)``. No layer keeps state
between calls, so a call is a function of its input and its parameters, differentiable to any order.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.operations import convolve, convolve_and_pool, moments, moments_after_convolution, stack, unstack

NormMode = Literal["transductive", "support"]


class Linear(nn.Module):
    """Map features linearly.

    y = x Wᵀ + b

    Args:
        inputs: features of x.
        outputs: features of y.
        generator: source of the initial weights, uniform on ±1/√inputs (biases too).
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None = None):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Float[Tensor, "tasks n inputs"]) -> Float[Tensor, "tasks n outputs"]:
        return x @ self.weight.mT + self.bias.unsqueeze(-2)


class Conv2d(nn.Module):
    """Convolve square kernels over images, zero-padded by half a kernel; no bias, for a norm would undo it.

    z[o, p] = Σ_{i, d} W[o, i, d] x[i, stride·p + d]

    Args:
        inputs: channels of x.
        outputs: channels of z.
        kernel: side of the kernel, odd.
        stride: step between outputs.
        generator: source of the initial weights (Glorot and Bengio 2010, eq. 16).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.stride = stride
        bound = math.sqrt(6 / ((inputs + outputs) * kernel**2))
        weight = torch.empty(outputs, inputs, kernel, kernel).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight)

    def forward(self, x: Float[Tensor, "tasks n inputs height width"]) -> Float[Tensor, "tasks n outputs _ _"]:
        return unstack(convolve(stack(x), per_task(self.weight, len(x), 4), self.stride), len(x))


class BatchNorm(nn.Module):
    """Normalise each task's channels by the statistics of the batch at hand; no running statistics exist.

    y = γ (z - mean) / √(var + ε) + β

    Args:
        channels: channels of z.
        eps: ε.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def line(
        self, mean: Float[Tensor, " stacked"], var: Float[Tensor, " stacked"], tasks: int
    ) -> tuple[Float[Tensor, " stacked"], Float[Tensor, " stacked"]]:
        """Return scale and shift of the norm as a line, y = scale z + shift, for each task's channels."""
        scale = per_task(self.weight, tasks, 1).flatten() * (var + self.eps).rsqrt()
        return scale, torch.addcmul(per_task(self.bias, tasks, 1).flatten(), mean, scale, value=-1)

    def forward(
        self, z: Float[Tensor, "tasks n channels height width"], n_context: int | None = None
    ) -> Float[Tensor, "tasks n channels height width"]:
        """Normalise z by the statistics of each task's first `n_context` examples (of all when None)."""
        tasks, z = len(z), stack(z)
        scale, shift = self.line(*moments(first(z, n_context)), tasks)
        return unstack(torch.addcmul(shift[:, None, None], z, scale[:, None, None]), tasks)


class ConvBlock(nn.Module):
    """Convolve, normalise, rectify, and halve the side: by 2x2 max-pooling or by stride 2.

    h = pool relu norm conv x

    Pooling is done first: it commutes with every rising map, so norm and ReLU work on a quarter of the numbers. Where γ
    is negative the norm falls; there γ and the weights change sign together, which leaves h as it is. A norm after a
    convolution of few channels is put into the weights before.

    Args:
        inputs: channels of x.
        outputs: channels of h.
        pool: max-pooling (True) or stride 2 (False).
        generator: source of the initial weights.
    """

    def __init__(self, inputs: int, outputs: int, pool: bool, generator: torch.Generator | None = None):
        super().__init__()
        self.conv = Conv2d(inputs, outputs, stride=1 if pool else 2, generator=generator)
        self.norm = BatchNorm(outputs)
        self.pool = pool

    def forward(
        self, x: Float[Tensor, "tasks n inputs height width"], n_context: int | None = None
    ) -> Float[Tensor, "tasks n outputs _ _"]:
        """Map images, normalised by the statistics of each task's first `n_context` examples (of all when None)."""
        tasks, stride = len(x), self.conv.stride
        x, w = stack(x), per_task(self.conv.weight, tasks, 4)
        if w[0, 0].numel() < w.shape[1]:
            scale, shift = self.norm.line(*moments_after_convolution(first(x, n_context), w, stride), tasks)
            w = w * scale.view(tasks, -1, 1, 1, 1)
            z = convolve_and_pool(x, w) if self.pool else convolve(x, w, stride)
            return unstack(F.relu(z + shift[:, None, None]), tasks)
        gamma = per_task(self.norm.weight.detach(), tasks, 1)
        sign = torch.where(gamma < 0, -1, 1).to(w.dtype)
        z = convolve(x, w * sign[..., None, None, None], stride)
        mean, var = moments(first(z, n_context))
        sign = sign.flatten()
        scale, shift = self.norm.line(sign * mean, var, tasks)
        return unstack(F.relu(torch.addcmul(shift[:, None, None], self._pool(z), (sign * scale)[:, None, None])), tasks)

    def _pool(self, z: Tensor) -> Tensor:
        return F.max_pool2d(z, 2) if self.pool else z


def per_task(parameter: Tensor, tasks: int, dims: int) -> Tensor:
    """Give a shared parameter of `dims` axes its leading tasks axis; leave each task's own as it is."""
    return parameter if parameter.dim() > dims else parameter.expand(tasks, *parameter.shape)


def first(x: Tensor, n: int | None) -> Tensor:
    """Return the first n examples; x itself when None (a slice of all would be copied in the backward pass)."""
    return x if n is None else x[:n]
