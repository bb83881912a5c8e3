"""The small fully connected network of the regression tasks."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.layers import Linear


class MLP(nn.Module):
    """Stack linear layers with an activation between them; the last layer is called `head`.

    h_{l+1} = φ(W_l h_l + b_l)

    Finn et al. 2017 (section 5.1) use ``MLP([1, 40, 40, 1])`` for sinusoids.

    Args:
        sizes: features of the input, of each hidden layer and of the output.
        activation: φ.
        generator: source of the initial weights.

    Raises:
        ValueError: fewer than two sizes or a size below 1; inputs of another number of features (when called).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] = torch.relu,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes={list(sizes)}: give at least an input and an output size, each 1 or more")
        *hidden, outputs = sizes
        self.activation = activation
        self.body = nn.ModuleList(Linear(a, b, generator) for a, b in pairwise(hidden))
        self.head = Linear(hidden[-1], outputs, generator)
        self.inputs = sizes[0]

    def features(self, x: Float[Tensor, "tasks n inputs"], context: Tensor | None = None):
        """Map inputs to what the head reads; `context` is accepted as in every model and not needed here."""
        if x.dim() != 3 or x.shape[-1] != self.inputs:
            raise ValueError(f"x has shape {tuple(x.shape)}: this MLP reads (tasks, n, {self.inputs})")
        for layer in self.body:
            x = self.activation(layer(x))
        return x

    def forward(self, x: Float[Tensor, "tasks n inputs"], context: Tensor | None = None):
        return self.head(self.features(x, context))
