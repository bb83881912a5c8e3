"""The convolutional network of MNIST-1D, with as many channels and layers as one likes (Greydanus and Kobak 2024)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.layers import Linear


class Conv1d(nn.Module):
    """Convolve kernels of odd width over signals.

    z[o, p] = Σ_{i, d} W[o, i, d] x[i, stride·p + d] + b[o]

    Args:
        inputs: channels of x.
        outputs: channels of z.
        kernel: width of the kernel.
        stride: step between outputs.
        padding: zeros added on both sides.
        generator: source of the initial weights, uniform on ±1/√(inputs · kernel) (biases too).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        padding: int,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.stride, self.padding = stride, padding
        bound = 1 / math.sqrt(inputs * kernel)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Float[Tensor, "tasks n inputs points"]) -> Float[Tensor, "tasks n outputs _"]:
        if self.weight.dim() == 3:
            z = F.conv1d(x.flatten(0, 1), self.weight, None, self.stride, self.padding).unflatten(0, x.shape[:2])
        else:
            tasks = len(x)
            folded = x.transpose(0, 1).flatten(1, 2)
            z = F.conv1d(folded, self.weight.flatten(0, 1), None, self.stride, self.padding, groups=tasks)
            z = z.unflatten(1, (tasks, -1)).transpose(0, 1)
        return z + self.bias[..., None, :, None]


class Conv1D(nn.Module):
    """Three strided convolutions and a linear head; further layers keep the length.

    Width 5 and then 3, stride 2, padding 1: a signal of 40 points becomes 5 · channels features.

    Args:
        ways: outputs of the head.
        channels: channels of every layer; 25 in the data set's own comparison.
        depth: layers, 3 or more; those beyond the third have stride 1.
        points: length of a signal.
        generator: source of the initial weights.

    Raises:
        ValueError: an argument out of its range; signals of another length (when called).
    """

    def __init__(
        self,
        ways: int,
        *,
        channels: int = 25,
        depth: int = 3,
        points: int = 40,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for name, value, least in (
            ("ways", ways, 2),
            ("channels", channels, 1),
            ("depth", depth, 3),
            ("points", points, 8),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: must be {least} or more")
        self.points = points
        layers = [Conv1d(1, channels, 5, 2, 1, generator)]
        layers += [Conv1d(channels, channels, 3, 2, 1, generator) for _ in range(2)]
        layers += [Conv1d(channels, channels, 3, 1, 1, generator) for _ in range(depth - 3)]
        self.layers = nn.ModuleList(layers)
        length = (points - 3) // 2 + 1
        for _ in range(2):
            length = (length - 1) // 2 + 1
        self.head = Linear(channels * length, ways, generator)

    def features(
        self, x: Float[Tensor, "tasks n points"], context: Tensor | None = None
    ) -> Float[Tensor, "tasks n features"]:
        """Map signals to what the head reads; `context` is accepted as in every model and not needed here."""
        if x.dim() != 3 or x.shape[-1] != self.points:
            raise ValueError(f"x has shape {tuple(x.shape)}: this Conv1D reads (tasks, n, {self.points})")
        h = x.unsqueeze(2)
        for layer in self.layers:
            h = F.relu(layer(h))
        return h.flatten(2)

    def forward(
        self, x: Float[Tensor, "tasks n points"], context: Tensor | None = None
    ) -> Float[Tensor, "tasks n ways"]:
        return self.head(self.features(x, context))
