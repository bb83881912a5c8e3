"""Features that were computed before, each times a factor that is learned, and a linear head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.checks import at_least
from ctml.models.layers import Linear


class ScaledFeatures(nn.Module):
    """The smallest network whose features can be learned: f(x) = e^g x, g = 0 at first; its head starts at zero.

    Args:
        inputs: features of x.
        ways: outputs of the head.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, inputs: int, ways: int):
        super().__init__()
        at_least("inputs", inputs, 1)
        at_least("ways", ways, 1)
        self.log_scale = nn.Parameter(torch.zeros(inputs))
        self.head = Linear(inputs, ways)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def features(self, x: Float[Tensor, "tasks n inputs"], context: Tensor | None = None):
        """Scale the inputs; `context` is accepted as in every model and not needed here."""
        return x * self.log_scale.exp()

    def forward(self, x: Float[Tensor, "tasks n inputs"], context: Tensor | None = None):
        return self.head(self.features(x, context))
