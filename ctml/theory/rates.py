"""Rates read off measured curves by least squares, with the standard error of the slope.

power law     y = C x^p          p = slope of log y against log x
exponential   y = C e^(-r t)     r = -slope of log y against t
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rate:
    """A fitted exponent, the standard error of the fit and the number of points behind it."""

    value: float
    standard_error: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.1g}"


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
    slope = _slope(torch.as_tensor(t, dtype=torch.float64), _log("y", y))
    return Rate(-slope.value, slope.standard_error, slope.n)


def _log(name: str, values: Tensor) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float64)
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
    return Rate(float(slope), float((residual.square().sum() / (n - 2) / variance).sqrt()), n)
