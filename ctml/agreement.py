"""How far two vectors agree, and the derivative that needs no calculus: what a check of a method compares.

relative error       |found - exact| / |exact|
angle                arccos of <x, y> / |x||y|, in degrees
central difference   (f(x + eps e_j) - f(x - eps e_j)) / 2 eps
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import positive


def relative_error(found: Float[Tensor, "..."], exact: Float[Tensor, "..."]) -> float:
    """Return |found - exact| / |exact| in the Euclidean norm, all axes as one vector.

    Raises:
        ValueError: if the shapes differ (broadcasting would compare what was not meant).
    """
    if found.shape != exact.shape:
        raise ValueError(f"found has shape {tuple(found.shape)}, exact {tuple(exact.shape)}: must be the same")
    return float(((found - exact).norm() / exact.norm()).detach())


def angle(x: Float[Tensor, " d"], y: Float[Tensor, " d"]) -> float:
    """Return the angle between two vectors in degrees."""
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=0)
    return float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))


def central_differences(
    f: Callable[[Float[Tensor, " d"]], Float[Tensor, "*shape"]], x: Float[Tensor, " d"], eps: float = 1e-4
) -> Float[Tensor, "*shape d"]:
    """Return the derivative of f along every coordinate of x, on a new last axis; off by O(eps^2).

    (f(x + eps e_j) - f(x - eps e_j)) / 2 eps
    """
    positive("eps", eps)
    units = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.stack([(f(x + eps * e) - f(x - eps * e)) / (2 * eps) for e in units], dim=-1)
