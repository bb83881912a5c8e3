r"""MNIST-1D: ten digit shapes as signals of length 40, by the recipe of Greydanus and Kobak (ICML 2024).

A signal is made from its class's 12-point template in this order: pad with zeros on the right, stretch to 72 points,
scale, shift cyclically, put correlated noise where the signal is zero, add white noise everywhere, shear, sample 40
points. All signals together are then centred and divided by their standard deviation.

The code and the random stream are ours (batched over all signals), so the numbers differ from the released pickle while
their distribution is the same. `split="train"` and `"test"` are the 4,000/1,000 of the paper: the same ten classes on
both sides, so few-shot tasks drawn from them differ in their examples, not in their classes. For tasks over unseen
classes pass `classes=`, say (0, 1, 2, 3, 4, 5) to train and (6, 7, 8, 9) to test.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctml.rng import generator
from ctml.types import ClassPool

# Heights of the ten digits at 12 equal steps, as in the paper's first figure.
TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
HEIGHT = 6.0  # the whitened templates are divided by it
PADDING = (36, 60)  # zeros appended, drawn from this closed range
SCALE = 0.4  # width of the range of factors around 1
MAX_TRANSLATION = 48  # shifts are drawn from 0 .. 47
CORRELATED_NOISE = 0.25  # standard deviation before smoothing
SMOOTHING = 2.0  # of the correlated noise, points
WHITE_NOISE = 0.02
SHEAR = 0.75  # width of the range of slopes around 0
LENGTH = 40
TRAIN_SHARE = 0.8


def load(
    split: str,
    *,
    home: Path,
    download: bool = True,
    n_samples: int = 5000,
    seed: int = 42,
    classes: Sequence[int] = tuple(range(10)),
) -> ClassPool:
    """Make one split; examples are float32 `(n, 40)`.

    Args:
        split: "train" (four fifths of the signals) or "test" (the rest).
        home: ignored, nothing is stored.
        download: ignored.
        n_samples: signals of both splits together, a tenth for each digit.
        seed: of the whole dataset.
        classes: digits to keep.
    """
    digits = len(TEMPLATES)
    if n_samples < digits:
        raise ValueError(f"n_samples={n_samples}: needs at least one signal for each of the {digits} digits")
    if not classes or not set(classes) <= set(range(digits)):
        raise ValueError(f"classes={tuple(classes)}: must be digits from 0 to {digits - 1}")
    labels = torch.arange(digits).repeat_interleave(n_samples // digits)
    stream = generator(seed, "mnist1d")
    signals = _signals(_templates()[labels], stream)
    signals = (signals - signals.mean()) / signals.std(correction=0)
    order = torch.randperm(len(labels), generator=stream)
    cut = int(len(labels) * TRAIN_SHARE)
    mine = order[:cut] if split == "train" else order[cut:]
    rows = [mine[labels[mine] == digit] for digit in classes]
    counts = torch.tensor([len(row) for row in rows])
    return ClassPool(signals[torch.cat(rows)].float(), counts, tuple(str(d) for d in classes), f"mnist1d/{split}")


def _templates() -> Float[Tensor, "digits points"]:
    """Whiten each template, let it start at zero, and shrink it."""
    x = torch.tensor(TEMPLATES, dtype=torch.float64)
    x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    return (x - x[:, :1]) / HEIGHT


def _signals(templates: Float[Tensor, "n points"], stream: torch.Generator) -> Float[Tensor, "n length"]:
    """Turn one template per row into one signal per row; every row draws its own distortions."""
    from scipy.ndimage import gaussian_filter1d

    n, points = templates.shape
    width = points + PADDING[1]

    def uniform() -> Tensor:
        return torch.rand(n, 1, generator=stream, dtype=torch.float64)

    pad = PADDING[0] + torch.floor(uniform() * (PADDING[1] - PADDING[0] + 1))
    # Sampling the padded signal at `width` equal steps: beyond the template's last point it is zero.
    position = torch.arange(width, dtype=torch.float64) / (width - 1) * (points + pad - 1)
    padded = torch.nn.functional.pad(templates, (0, PADDING[1]))
    signal = _interpolate(padded, position)
    ink = position < points  # the template's own stretch, also where it crosses zero

    signal = signal * (1 + SCALE * (uniform() - 0.5))
    shift = torch.floor(uniform() * MAX_TRANSLATION)
    column = (torch.arange(width) - shift.long()) % width
    signal, ink = signal.gather(1, column), ink.gather(1, column)

    noise = CORRELATED_NOISE * torch.randn(n, width, generator=stream, dtype=torch.float64)
    smooth = torch.from_numpy(gaussian_filter1d(noise.numpy(), SMOOTHING, axis=1))
    signal = torch.where(ink, signal, smooth)
    signal = signal + WHITE_NOISE * torch.randn(n, width, generator=stream, dtype=torch.float64)

    slope = SHEAR * (uniform() - 0.5)
    signal = signal - slope * torch.from_numpy(np.linspace(-0.5, 0.5, width))
    return _interpolate(signal, torch.linspace(0, width - 1, LENGTH, dtype=torch.float64).expand(n, -1))


def _interpolate(signal: Float[Tensor, "n width"], position: Float[Tensor, "n samples"]) -> Float[Tensor, "n samples"]:
    """Read each row at fractional positions, linearly between neighbours."""
    left = position.floor().long().clamp(0, signal.shape[1] - 2)
    fraction = position - left
    return (1 - fraction) * signal.gather(1, left) + fraction * signal.gather(1, left + 1)
