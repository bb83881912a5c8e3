"""Layers over a batch of tasks.

Invariants: an input is ``(tasks, n, *features)``; a parameter has either its own shape (shared by all tasks) or one
more leading axis ``tasks`` (each task its own); an output keeps the leading ``(tasks, n)``. No layer keeps state
between calls, so a call is a function of its input and its parameters, differentiable twice.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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
    """Convolve square kernels over images, zero-padded by half a kernel, without bias (a norm follows and would undo it).

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
        self.stride, self.padding = stride, kernel // 2
        bound = math.sqrt(6 / ((inputs + outputs) * kernel**2))
        weight = torch.empty(outputs, inputs, kernel, kernel).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight)

    def forward(self, x: Float[Tensor, "tasks n inputs height width"]) -> Float[Tensor, "tasks n outputs _ _"]:
        if self.weight.dim() == 4:
            return F.conv2d(x.flatten(0, 1), self.weight, None, self.stride, self.padding).unflatten(0, x.shape[:2])
        tasks = len(x)
        folded = x.transpose(0, 1).flatten(1, 2)
        z = F.conv2d(folded, self.weight.flatten(0, 1), None, self.stride, self.padding, groups=tasks)
        return z.unflatten(1, (tasks, -1)).transpose(0, 1)


class BatchNorm(nn.Module):
    """Normalise each channel by the statistics of the batch at hand; no running statistics exist.

    y = γ (z - mean z) / √(var z + ε) + β

    Args:
        channels: channels of z.
        eps: ε.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, z: Float[Tensor, "tasks n channels height width"], context: int | None = None):
        """Normalise z by the mean and variance over its first `context` examples (over all when None)."""
        var, mean = torch.var_mean(z[:, :context], dim=(1, 3, 4), correction=0)
        scale = self.weight / (var + self.eps).sqrt()
        shift = self.bias - mean * scale
        return z * scale[:, None, :, None, None] + shift[:, None, :, None, None]
