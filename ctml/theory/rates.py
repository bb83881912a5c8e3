"""Rates read off measured curves by least squares, with the standard error of the slope and R^2.

line          y = C + s x        s = slope of y against x
power law     y = C x^p          p = slope of log y against log x
exponential   y = C e^(-r t)     r = -slope of log y against t

`envelope` gives the largest y in each of equal bins of x; `steps_to_settle` when a curve stays below a threshold,
`time_to_fall` when curves first come down to one.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rate:
    """A fitted slope, its standard error, the number of points behind it and the share of variance it explains."""

    value: float
    standard_error: float
    n: int
    r_squared: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.1g}"


def linear(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Rate:
    """Fit y = C + s x and return s.

    Raises:
        ValueError: if there are fewer than three points, or all x are equal.
    """
    return _slope(_double(x), _double(y))


def power(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Rate:
    """Fit y = C x^p and return p: the order of convergence when x is a step size and y an error.

    Raises:
        ValueError: if there are fewer than three points, or a value is not positive and finite.
    """
    return _slope(_log("x", x), _log("y", y))


def exponential(t: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Rate:
    """Fit y = C e^(-r t) and return r, positive for decay.

    Raises:
        ValueError: if there are fewer than three points, or a y is not positive and finite.
    """
    slope = _slope(_double(t), _log("y", y))
    return replace(slope, value=-slope.value)


def envelope(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], bins: int
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"]]:
    """Return the middles of equal bins of [0, max x] and the largest y in each.

    Raises:
        ValueError: if a bin is empty.
    """
    edges = torch.linspace(0, float(x.max()), bins + 1, dtype=x.dtype)
    which = torch.bucketize(x, edges[1:-1])
    if len(empty := set(range(bins)) - set(which.tolist())):
        raise ValueError(f"bins={bins}: no x in bin {min(empty)}; take fewer bins or more points")
    largest = torch.stack([y[which == b].max() for b in range(bins)])
    return (edges[1:] + edges[:-1]) / 2, largest


def steps_to_settle(curve: Float[Tensor, " points"], threshold: float) -> float:
    """Return the first index from which on the curve stays at or below the threshold, NaN if its end is not."""
    above = (~(curve <= threshold)).nonzero()  # NaN is not below
    first = int(above.max()) + 1 if len(above) else 0
    return first if first < len(curve) else float("nan")


def time_to_fall(
    t: Float[Tensor, " times"], y: Float[Tensor, "times *curves"], threshold: float
) -> Float[Tensor, "*curves"]:
    """Return when each curve first comes down to the threshold, log-linear between marks, NaN if it never does.

    Raises:
        ValueError: if a y is not positive.
    """
    if not (y > 0).all():
        raise ValueError(f"y={float(y.min())}: must be positive, since its logarithm is interpolated")
    below, height = y <= threshold, y.log() - torch.tensor(threshold, dtype=y.dtype).log()
    after = below.int().argmax(0, keepdim=True)  # the first mark below
    before = (after - 1).clamp_min(0)
    left, right = height.gather(0, before)[0], height.gather(0, after)[0]
    share = torch.where(after[0] > 0, left / (left - right), 0.0)
    at = t[before[0]] + share * (t[after[0]] - t[before[0]])
    return torch.where(below.any(0), at, torch.nan)


def _double(values: Tensor) -> Float[Tensor, " n"]:
    """Return what a figure or a table holds: an array of pandas is read-only, which torch may not share."""
    return values.double() if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64)


def _log(name: str, values: Tensor) -> Tensor:
    values = _double(values)
    bad = ~(torch.isfinite(values) & (values > 0))
    if bad.any():
        index = int(bad.nonzero()[0])
        raise ValueError(f"{name}[{index}]={float(values[index])}: its logarithm does not exist; cut the curve there")
    return values.log()


def _slope(x: Tensor, y: Tensor) -> Rate:
    n = len(x)
    if n < 3:
        raise ValueError(f"{n} points: a slope with its error needs at least three")
    spread = x - x.mean()
    variance = spread.square().sum()
    if variance == 0:
        raise ValueError("all x are equal: a slope needs different ones")
    slope = (spread * y).sum() / variance
    residual = y - y.mean() - slope * spread
    unexplained = residual.square().sum()
    total = (y - y.mean()).square().sum()
    r_squared = float(1 - unexplained / total) if total > 0 else 1.0
    return Rate(float(slope), float((unexplained / (n - 2) / variance).sqrt()), n, r_squared)
