"""A pool of smaller images: means of squares, a few images at a time, and nothing else of the pool changes."""

import numpy as np
import pytest
import torch

from ctml.data.images import shrunk
from ctml.types import ClassPool


def pool(n: int = 1030, side: int = 12) -> ClassPool:
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ClassPool(images, torch.tensor([n - 3, 3]), ("a", "b"), "noise/train")


def test_each_pixel_is_the_mean_of_a_square() -> None:
    small = shrunk(pool(), 4)
    squares = pool().examples.numpy().reshape(-1, 3, 4, 3, 4, 3).astype(float).mean((3, 5))
    assert np.abs(small.examples.numpy() - squares).max() <= 0.5 + 1e-6
    assert small.examples.dtype == torch.uint8 and small.examples.shape == (1030, 3, 4, 4)
    assert small.names == ("a", "b") and small.counts.tolist() == [1027, 3]
    assert small.source == "noise/train at 4x4"


def test_what_cannot_be_shrunk_so_is_refused() -> None:
    with pytest.raises(ValueError, match="side=5: noise/train holds uint8"):
        shrunk(pool(), 5)
    floats = ClassPool(pool().examples.float(), pool().counts, pool().names, "floats")
    with pytest.raises(ValueError, match="side=4: floats holds float32"):
        shrunk(floats, 4)
