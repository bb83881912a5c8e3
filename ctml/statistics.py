"""Means with their 95% intervals; every result says over what (tasks or seeds)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# 97.5% quantiles of Student's t for 1 .. 30 degrees of freedom; beyond, the normal one is within 2%.
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A mean with half the width of its 95% interval and the number of samples behind it."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half_width:.2g} (n={self.n})"


def interval(samples: Float[Tensor, " n"]) -> Interval:
    """Return the mean and Student's 95% interval: mean +- t(n-1) s / sqrt(n).

    Raises:
        ValueError: if there are no samples; one sample has an infinite interval.
    """
    samples = torch.as_tensor(samples, dtype=torch.float64).flatten()
    n = len(samples)
    if n == 0:
        raise ValueError("samples is empty: an interval needs at least one")
    if n == 1:
        return Interval(float(samples), math.inf, 1)
    t = _T975[n - 2] if n - 2 < len(_T975) else 1.96
    return Interval(float(samples.mean()), t * float(samples.std()) / math.sqrt(n), n)
