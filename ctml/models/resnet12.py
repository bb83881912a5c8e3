"""The twelve-layer residual network of few-shot learning (Lee et al. 2019, MetaOptNet)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.image_model import ImageModel
from ctml.models.layers import BatchNorm, Conv2d
from ctml.models.operations import stack, unstack

WIDTHS = (64, 160, 320, 640)
LEAK = 0.1


class ResidualBlock(nn.Module):
    """Add three convolutions to a 1x1 shortcut, rectify, and halve the side by 2x2 max-pooling."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None):
        super().__init__()
        widths = [inputs, outputs, outputs, outputs]
        self.convs = nn.ModuleList(Conv2d(a, b, generator=generator) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm(outputs) for _ in self.convs)
        self.shortcut_conv = Conv2d(inputs, outputs, kernel=1, generator=generator)
        self.shortcut_norm = BatchNorm(outputs)

    def forward(
        self, x: Float[Tensor, "tasks n inputs height width"], n_context: int | None = None
    ) -> Float[Tensor, "tasks n outputs _ _"]:
        """Map images, normalised by the statistics of each task's first `n_context` examples (of all when None)."""
        shortcut = self.shortcut_norm(self.shortcut_conv(x), n_context)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x), n_context)
            x = F.leaky_relu(x + shortcut if conv is self.convs[-1] else x, LEAK)
        return unstack(F.max_pool2d(stack(x), 2), len(x))


class ResNet12(ImageModel):
    """Four residual blocks of widths 64, 160, 320, 640 with leaky ReLU 0.1, then a linear head.

    The flattened last block has 640 (side/16)² features, 16,000 at 84x84, as in Lee et al. 2019; with
    ``average=True`` they are averaged over the image to 640. The DropBlock of that paper is left out.

    Args:
        channels: channels of an image.
        ways: outputs of the head.
        side: height and width of an image in pixels.
        norm: "transductive" or "support", see `ImageModel`.
        average: average the features over the image.
        generator: source of the initial weights.

    Raises:
        ValueError: an argument out of its range; images of another shape (when called).
    """

    def __init__(
        self,
        channels: int,
        ways: int,
        *,
        side: int = 84,
        norm: str = "transductive",
        average: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__(
            lambda inputs, outputs: ResidualBlock(inputs, outputs, generator),
            channels=channels,
            widths=WIDTHS,
            ways=ways,
            side=side,
            norm=norm,
            average=average,
            smallest=2 ** len(WIDTHS),
            generator=generator,
        )
