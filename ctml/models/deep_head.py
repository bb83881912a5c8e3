"""The last blocks of a network as its head: a learner that adapts them then recomputes only them."""

from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.image_model import ImageModel


class DeepHead(nn.Module):
    """Cut a convolutional network so that its last blocks belong to the head.

    model(x) = head(features(x)),   features = blocks below the cut,   head = blocks above it, then the linear layer

    The parameters are the model's own; those above the cut are called "head.*". `ctml.ANIL` computes the features once,
    as it does for a linear head. (ANIL on the uncut model, told to adapt the same blocks by their names, gives the same
    numbers, but runs the whole network at each inner step.)

    Args:
        model: the network to cut (`Conv4`, `ResNet12`); it shares its parameters with the result.
        blocks: how many of the last blocks go into the head.

    Raises:
        ValueError: the model has fewer blocks, or normalises a query by the support's statistics.
    """

    def __init__(self, model: ImageModel, blocks: int = 1):
        super().__init__()
        depth = len(model.blocks)
        if not 1 <= blocks <= depth:
            raise ValueError(f"blocks={blocks}: must be between 1 and {depth}, the blocks of {type(model).__name__}")
        if model.norm == "support":
            raise ValueError(
                "model.norm='support': a deep head would need the support features beside each query; use "
                "norm='transductive', or let ANIL adapt the last blocks of the uncut model by their names"
            )
        self.norm = model.norm
        self.body = model.blocks[: depth - blocks]
        self.head = _Head(model.blocks[depth - blocks :], model.head, model.average)

    def features(self, x: Float[Tensor, "tasks n channels side side"], context: Tensor | None = None) -> Tensor:
        """Return the images `(tasks, n, channels, height, width)` below the cut; `context` is not needed here."""
        for block in self.body:
            x = block(x, None)
        return x

    def forward(
        self, x: Float[Tensor, "tasks n channels side side"], context: Tensor | None = None
    ) -> Float[Tensor, "tasks n ways"]:
        return self.head(self.features(x))


class _Head(nn.Module):
    def __init__(self, blocks: nn.ModuleList, linear: nn.Module, average: bool):
        super().__init__()
        self.blocks, self.linear, self.average = blocks, linear, average

    def forward(self, x: Float[Tensor, "tasks n channels height width"]) -> Float[Tensor, "tasks n ways"]:
        for block in self.blocks:
            x = block(x, None)
        return self.linear(x.mean(dim=(3, 4)) if self.average else x.flatten(2))
