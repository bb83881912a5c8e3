"""What Conv4 and ResNet12 share: blocks of convolutions, whose statistics they take, a linear head."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.layers import Linear, NormMode


class ImageModel(nn.Module):
    """Run blocks, each of which halves the side of the image, then a linear head.

    Args:
        block: makes one block from (channels in, channels out); called as ``block(x, n_context)``.
        channels: channels of an image.
        widths: channels of each block.
        ways: outputs of the head.
        side: height and width of an image in pixels.
        norm: "transductive" (statistics of the very batch, so a query sees the other queries: Finn et al. 2017) or
            "support" (statistics of the task's support set, given as `context`; each query stands alone).
        average: average the features over the image (True) or flatten them (False).
        smallest: the least side that the blocks can halve.
        generator: source of the initial weights.

    Raises:
        ValueError: an argument out of its range; images of another shape (when called).
    """

    def __init__(
        self,
        block: Callable[[int, int], nn.Module],
        *,
        channels: int,
        widths: Sequence[int],
        ways: int,
        side: int,
        norm: str,
        average: bool,
        smallest: int,
        generator: torch.Generator | None,
    ):
        super().__init__()
        for name, value in dict(channels=channels, width=min(widths), ways=ways).items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more")
        if side < smallest:
            raise ValueError(f"side={side}: {len(widths)} halvings need {smallest} pixels or more; enlarge the images")
        if norm not in get_args(NormMode):
            raise ValueError(f"norm={norm!r}: choose one of {', '.join(get_args(NormMode))}")
        self.image = (channels, side, side)
        self.norm, self.average = norm, average
        self.blocks = nn.ModuleList(block(a, b) for a, b in pairwise((channels, *widths)))
        pixels = 1 if average else (side // 2 ** len(widths)) ** 2
        self.head = Linear(widths[-1] * pixels, ways, generator)

    def features(
        self,
        x: Float[Tensor, "tasks n channels side side"],
        context: Float[Tensor, "tasks m channels side side"] | None = None,
    ) -> Float[Tensor, "tasks n features"]:
        """Map images to what the head reads, with the statistics that `norm` names.

        Args:
            x: images.
            context: the support images; in mode "support" the statistics are theirs (x's own when None).
        """
        for name, images in dict(x=x, context=context).items():
            if images is not None and (images.dim() != 5 or images.shape[2:] != self.image):
                expected = ", ".join(map(str, self.image))
                raise ValueError(f"{name} has shape {tuple(images.shape)}: this model reads (tasks, n, {expected})")
        n_context = None
        if self.norm == "support" and context is not None:
            n_context = context.shape[1]
            x = torch.cat([context, x], dim=1)
        for block in self.blocks:
            x = block(x, n_context)
        x = x[:, n_context:]
        return x.mean(dim=(3, 4)) if self.average else x.flatten(2)

    def forward(
        self,
        x: Float[Tensor, "tasks n channels side side"],
        context: Float[Tensor, "tasks m channels side side"] | None = None,
    ) -> Float[Tensor, "tasks n ways"]:
        return self.head(self.features(x, context))
