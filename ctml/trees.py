"""Dictionaries of parameters as vectors of one linear space.

`dot` and `norm` sum over everything but a leading task axis when `batched=True`, so that the same words serve one
parameter vector and a batch of them.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.types import Params


def add(x: Params, y: Params) -> Params:
    """Return x + y."""
    return {k: x[k] + y[k] for k in x}


def sub(x: Params, y: Params) -> Params:
    """Return x - y."""
    return {k: x[k] - y[k] for k in x}


def scale(a: float | Tensor, x: Params) -> Params:
    """Return a x."""
    return {k: a * v for k, v in x.items()}


def axpy(a: float | Tensor, x: Params, y: Params) -> Params:
    """Return a x + y."""
    return {k: a * x[k] + y[k] for k in y}


def zeros_like(x: Params) -> Params:
    """Return the zero vector of x's space."""
    return {k: torch.zeros_like(v) for k, v in x.items()}


def dot(x: Params, y: Params, batched: bool = False) -> Float[Tensor, "..."]:
    """Return <x, y>, a scalar, or one per task when `batched`."""
    return sum_of((x[k] * y[k]).flatten(1).sum(1) if batched else (x[k] * y[k]).sum() for k in x)


def norm(x: Params, batched: bool = False) -> Float[Tensor, "..."]:
    """Return the Euclidean norm |x|, a scalar, or one per task when `batched`."""
    return dot(x, x, batched).sqrt()


def expand(x: Params, n_tasks: int) -> Params:
    """Give every task its own view of shared parameters: `(tasks, *shape)` with stride 0, no copy."""
    return {k: v.expand(n_tasks, *v.shape) for k, v in x.items()}


def flatten(x: Params, batched: bool = False) -> Float[Tensor, "..."]:
    """Concatenate into one vector `(d,)`, or `(tasks, d)` when `batched`, in the dictionary's order."""
    return torch.cat([v.flatten(1) if batched else v.flatten() for v in x.values()], dim=-1)


def unflatten(vector: Float[Tensor, "... d"], like: Params) -> Params:
    """Cut a vector `(d,)` or a batch `(tasks, d)` back into the shapes of `like` (shared shapes)."""
    pieces = vector.split([v.numel() for v in like.values()], dim=-1)
    return {k: p.reshape(*vector.shape[:-1], *v.shape) for (k, v), p in zip(like.items(), pieces, strict=True)}


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Add up tensors (a `sum` that returns a tensor for the type checker's sake)."""
    first, *rest = terms
    return sum(rest, start=first)
