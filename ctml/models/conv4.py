"""The four-block convolutional network of few-shot learning (Vinyals et al. 2016; Finn et al. 2017)."""

import torch

from ctml.models.image_model import ImageModel
from ctml.models.layers import ConvBlock

BLOCKS = 4


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
        norm: str = "transductive",
        pool: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__(
            lambda inputs, outputs: ConvBlock(inputs, outputs, pool, generator),
            channels=channels,
            widths=[width] * BLOCKS,
            ways=ways,
            side=side,
            norm=norm,
            average=not pool,
            smallest=2**BLOCKS if pool else 1,
            generator=generator,
        )
