"""Means with their 95% intervals; every result says over what (tasks or seeds).

Invariant: an interval of a mean is calculated here and nowhere else. The file lies in the lowest layer, below training,
figures and the rules of claims, so that all three mean the same by it.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean with half the width of its interval (95% unless asked otherwise) and the number of samples behind it."""

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


def interval(samples: Float[Tensor, " n"], level: float = 0.95) -> Interval:
    """Return the mean and Student's interval: mean +- t(n-1) s / sqrt(n).

    Raises:
        ValueError: if there are no samples; one sample has an infinite interval.
    """
    from scipy.special import stdtrit  # here: `import ctml` stays quick

    samples = torch.as_tensor(samples, dtype=torch.float64).flatten()
    n = len(samples)
    if n == 0:
        raise ValueError("samples is empty: an interval needs at least one")
    if n == 1:
        return Interval(float(samples), math.inf, 1)
    t = float(stdtrit(n - 1, (1 + level) / 2))  # the quantile by which t(n-1) leaves (1 - level)/2 on either side
    return Interval(float(samples.mean()), t * float(samples.std()) / math.sqrt(n), n)
