"""The four-block convolutional network of few-shot learning (Vinyals et al. 2016; Finn et al. 2017)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ctml.models.image_model import ImageModel
from ctml.models.layers import BatchNorm, Conv2d, NormMode

BLOCKS = 4


class Block(nn.Module):
    """Convolve, normalise, rectify, and halve the side: by 2x2 max-pooling or by stride 2."""

    def __init__(self, inputs: int, outputs: int, pool: bool, generator: torch.Generator | None):
        super().__init__()
        self.conv = Conv2d(inputs, outputs, stride=1 if pool else 2, generator=generator)
        self.norm = BatchNorm(outputs)
        self.pool = pool

    def forward(self, x: Float[Tensor, "tasks n inputs height width"], n_context: int | None):
        h = F.relu(self.norm(self.conv(x), n_context))
        return F.max_pool2d(h.flatten(0, 1), 2).unflatten(0, h.shape[:2]) if self.pool else h


class Conv4(ImageModel):
    """Four blocks of 3x3 convolution, batch norm, ReLU and halving, then a linear head.

    With ``pool=True`` the features are the flattened last block (64 for 28x28, 1600 for 84x84 at width 64); with
    ``pool=False`` the convolutions have stride 2 and the features are the mean over the image, as in the Omniglot
    network of Finn et al. 2017 (whose padding "same" differs from this symmetric one by half a pixel).

    Args:
        channels: channels of an image.
        ways: outputs of the head.
        width: channels of each block.
        side: height and width of an image in pixels.
        norm: "transductive" or "support", see `ImageModel`.
        pool: max-pooling (True) or strides (False).
        generator: source of the initial weights.

    Raises:
        ValueError: an argument out of its range; images of another shape (when called).
    """

    def __init__(
        self,
        channels: int,
        ways: int,
        *,
        width: int = 64,
        side: int = 28,
        norm: NormMode = "transductive",
        pool: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__(
            lambda inputs, outputs: Block(inputs, outputs, pool, generator),
            channels=channels,
            widths=[width] * BLOCKS,
            ways=ways,
            side=side,
            norm=norm,
            average=not pool,
            smallest=2**BLOCKS if pool else 1,
            generator=generator,
        )
