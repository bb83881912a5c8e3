"""A small Transformer encoder over signals; each task may have its own weights (Vaswani et al. 2017)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.layers import Linear


class LayerNorm(nn.Module):
    """Normalise features of every token: y = γ (x - mean x) / √(var x + ε) + β.

    Args:
        features: width of a token.
    """

    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Float[Tensor, "tasks tokens features"]) -> Float[Tensor, "tasks tokens features"]:
        return F.layer_norm(x, x.shape[-1:]) * self.weight.unsqueeze(-2) + self.bias.unsqueeze(-2)


class EncoderBlock(nn.Module):
    """Attend, then transform each token, both as residuals of normalised inputs.

    x ← x + W_o softmax(q kᵀ / √d) v,   x ← x + W_2 relu(W_1 x)

    Args:
        width: features of a token.
        heads: attention heads, a divisor of the width.
        generator: source of the initial weights.
    """

    def __init__(self, width: int, heads: int, generator: torch.Generator | None = None):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = LayerNorm(width), LayerNorm(width)
        self.to_qkv, self.from_heads = Linear(width, 3 * width, generator), Linear(width, width, generator)
        self.widen, self.narrow = Linear(width, 4 * width, generator), Linear(4 * width, width, generator)

    def forward(self, x: Float[Tensor, "tasks tokens width"], length: int) -> Float[Tensor, "tasks tokens width"]:
        """Apply the block to tokens that come in sequences of `length`."""
        tasks, tokens, width = x.shape
        qkv = self.to_qkv(self.before_attention(x)).view(tasks, tokens // length, length, 3, self.heads, -1)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (tasks, n, heads, length, width / heads)
        # Written out: torch's fused attention has no second derivative, which MAML asks for.
        weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
        x = x + self.from_heads((weights @ v).transpose(2, 3).reshape(tasks, tokens, width))
        return x + self.narrow(F.relu(self.widen(self.before_mlp(x))))


class Transformer(nn.Module):
    """Embed each point of a signal with its position, apply encoder blocks, average, and classify.

    Args:
        ways: outputs of the head.
        points: length of a signal, which is the number of tokens.
        width, heads, depth: features of a token, attention heads, encoder blocks.
        generator: source of the initial weights.

    Raises:
        ValueError: a width that the heads do not divide; signals of another length (when called).
    """

    def __init__(
        self,
        ways: int,
        *,
        points: int = 40,
        width: int = 32,
        heads: int = 2,
        depth: int = 2,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width}: must be a multiple of heads={heads}")
        self.points = points
        self.embed = Linear(1, width, generator)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, generator) for _ in range(depth))
        self.norm_out = LayerNorm(width)
        self.head = Linear(width, ways, generator)
        angle = torch.arange(points)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
        position = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
        self.register_buffer("position", position, persistent=False)

    def features(
        self, x: Float[Tensor, "tasks n points"], context: Tensor | None = None
    ) -> Float[Tensor, "tasks n width"]:
        """Map signals to what the head reads; `context` is accepted as in every model and not needed here."""
        if x.dim() != 3 or x.shape[-1] != self.points:
            raise ValueError(f"x has shape {tuple(x.shape)}: this Transformer reads (tasks, n, {self.points})")
        tokens = self.embed(x.flatten(1).unsqueeze(-1)).unflatten(1, x.shape[1:]) + self.position
        h = tokens.flatten(1, 2)
        for block in self.blocks:
            h = block(h, self.points)
        return self.norm_out(h).unflatten(1, x.shape[1:]).mean(2)

    def forward(
        self, x: Float[Tensor, "tasks n points"], context: Tensor | None = None
    ) -> Float[Tensor, "tasks n ways"]:
        return self.head(self.features(x, context))
