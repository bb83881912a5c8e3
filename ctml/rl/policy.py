"""The Gaussian policy, batched over tasks.

pi(a | o) = N(mu(o), diag(sigma^2)),   mu a multilayer perceptron, sigma the same for all observations
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.checks import positive
from ctml.models import MLP


class Gaussian(NamedTuple):
    """A diagonal normal distribution over actions for each of `(tasks, n)` observations."""

    mean: Float[Tensor, "tasks n action"]
    log_std: Float[Tensor, "*tasks 1 action"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "tasks n action"]:
        """Draw one action per observation."""
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device, dtype=self.mean.dtype)
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, actions: Float[Tensor, "tasks n action"]) -> Float[Tensor, "tasks n"]:
        """Return log pi(a | o) = -sum [ ((a - mu) / sigma)^2 / 2 + log sigma + log(2 pi) / 2 ]."""
        standard = (actions - self.mean) * (-self.log_std).exp()
        return -(0.5 * standard.square() + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def divergence_from(self, old: "Gaussian") -> Float[Tensor, "tasks n"]:
        """Return KL(old || self) = sum [ log sigma/sigma' + (sigma'^2 + (mu' - mu)^2) / 2 sigma^2 - 1/2 ], ' = old."""
        precision = (-2 * self.log_std).exp()
        spread = (2 * old.log_std).exp() + (old.mean - self.mean).square()
        return (self.log_std - old.log_std + 0.5 * spread * precision - 0.5).sum(-1)

    def fisher(self) -> "Gaussian":
        """Return the diagonal of the Hessian of KL(self || .) in (mu, log sigma): 1 / sigma^2 and 2."""
        return Gaussian((-2 * self.log_std).exp().expand_as(self.mean), 2 * torch.ones_like(self.log_std))


class GaussianPolicy(nn.Module):
    """Map observations `(tasks, n, observation)` to a `Gaussian`; parameters shared or per task, as in `ctml.models`.

    Args:
        observations, actions: their sizes.
        hidden: widths of the hidden layers; two of 100, ReLU, in Finn et al. 2017.
        std: initial standard deviation of every action.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        *,
        hidden: Sequence[int] = (100, 100),
        std: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        positive("std", std)
        self.mean = MLP([observations, *hidden, actions], activation=torch.relu_, generator=generator)
        self.log_std = nn.Parameter(torch.full((actions,), math.log(std)))

    def forward(self, x: Float[Tensor, "tasks n observation"]) -> Gaussian:
        return Gaussian(self.mean(x), self.log_std.unsqueeze(-2))
