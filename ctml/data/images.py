"""Decode one image file, whatever is wrong with it ends as one line; shrink the images of a pool."""

import io
import warnings

import numpy as np
import torch
from jaxtyping import UInt8

from ctml.data.errors import DataError
from ctml.types import ClassPool, brief

MOST_PIXELS = 50_000_000
"""A picture that says to be larger is a decompression bomb, or at least nothing to learn on at this package's sizes."""

FORMATS = ("PNG", "JPEG", "MPO", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What a picture may be, whatever its name says: Pillow would hand an EPS to Ghostscript, which runs it."""


def picture(
    data: bytes, where: str, mode: str = "RGB", side: int | None = None, size: int | None = None
) -> UInt8[np.ndarray, "height width ..."]:
    """Decode an image.

    Args:
        data: the file's contents.
        where: what to call it in an error, file and all.
        mode: "RGB", or "L" for grey.
        side: what height and width must be; None: anything.
        size: height and width to shrink or enlarge it to; None: as it is.

    Raises:
        DataError: not an image, damaged, of another size, or larger than MOST_PIXELS. Size is read from the file's
            head, before memory is taken.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is lower
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _bound(image.size, where, side)
                image = image.convert(mode)
                if size is not None and image.size != (size, size):
                    image = image.resize((size, size), Image.Resampling.LANCZOS)
                return np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # the readers of Pillow's many formats raise anything at all
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{where} cannot be read ({reason}); remove or replace it") from error


def shrunk(pool: ClassPool, side: int) -> ClassPool:
    """Return the pool with each image shrunk to side x side: the mean of squares of pixels, rounded to uint8.

    Raises:
        ValueError: if the images are no uint8, or their side is no multiple of the new one.
    """
    images = pool.examples
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[-1] % side or images.shape[-2] % side:
        raise ValueError(
            f"side={side}: {pool.source} holds {brief(images)}; uint8 images whose side is a multiple are shrunk"
        )
    factor, parts = images.shape[-1] // side, images.split(1024)  # float32 takes four times the room: a few at a time
    small = [torch.nn.functional.avg_pool2d(part.float(), factor).round_().to(torch.uint8) for part in parts]
    return ClassPool(torch.cat(small), pool.counts, pool.names, f"{pool.source} at {side}x{side}")


def _bound(found: tuple[int, int], where: str, side: int | None) -> None:
    width, height = found
    if side is not None and found != (side, side):
        raise DataError(f"{where} is {width}x{height}, not {side}x{side}; place the published file again")
    if width * height > MOST_PIXELS:
        raise DataError(f"{where} is {width}x{height}, more than {MOST_PIXELS:,} pixels; remove it or make it smaller")
