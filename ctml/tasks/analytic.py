"""Tasks without examples: a support and a query loss of each task, functions of its own point alone.

    f^_i, f_i     support and query loss, L_S and L_Q with other authors; f_i alone where one function is both

All problems of the theory are such tasks, and so is a model on a fixed meta-batch (`ctml.flows.maml_field.on_batch`).

Invariants:
    * A point is a vector a task, `(*points, tasks, d)`; its loss is one number a task, `(*points, tasks)`.
    * Neither points nor tasks see each other, so the gradient of a sum is the batch of the gradients.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ctml.types import brief

Losses = Callable[[Tensor], Tensor]
"""Maps each task's own point (*points, tasks, d) to its loss (*points, tasks)."""


@runtime_checkable
class TaskLosses(Protocol):
    """A finite set of tasks as two functions of their points."""

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        ...

    def support(self, points: Tensor, /) -> Tensor:
        """Return f^_i(w_i), what a task adapts to."""
        ...

    def query(self, points: Tensor, /) -> Tensor:
        """Return f_i(w_i), what it is judged by; the same function in the oracle setting."""
        ...


@dataclass(frozen=True)
class LossFunctions:
    """Task losses made of two functions."""

    support: Losses
    query: Losses
    n_tasks: int


@dataclass(frozen=True, repr=False)
class TaskTable:
    """Tasks laid out in tensors, one row a task; what else a subclass has belongs to all tasks."""

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(getattr(self, fields(self)[0].name))

    def take(self, index: Int[Tensor, " chosen"]):
        """Return the tasks with these indices, repeated where an index is."""
        values = (getattr(self, f.name) for f in fields(self))
        return type(self)(*(v[index] if isinstance(v, Tensor) else v for v in values))

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        rows = (f"{k}={brief(v) if isinstance(v, Tensor) else v}" for k, v in values.items())
        return f"{type(self).__name__}({', '.join(rows)})"


def side_by_side(families: Sequence[TaskTable]) -> LossFunctions:
    """Put families of equally many tasks beside each other, so that one flow carries a point of each.

    A point is then `(*points, families, d)`, and its losses are those of its own family.

    >>> from ctml.tasks import CurvatureJump
    >>> both = side_by_side([CurvatureJump.one(), CurvatureJump.of((1.0, 2.0, 3.0, 0.05, 0.0, 1.0))])
    >>> both.query(torch.ones(7, 2, both.n_tasks, 1, dtype=torch.float64)).shape  # seven points of each
    torch.Size([7, 2, 1])

    Raises:
        ValueError: if they are of different kinds or differ in what belongs to all tasks.
    """
    first = families[0]
    if {type(table) for table in families} != {type(first)}:
        raise ValueError(f"families={sorted({type(table).__name__ for table in families})}: must be of one kind")
    columns = [[getattr(table, f.name) for table in families] for f in fields(first)]
    for f, column in zip(fields(first), columns, strict=True):
        if not isinstance(column[0], Tensor) and len(set(column)) > 1:
            raise ValueError(f"{f.name}={column}: must be the same for all families, since it is no tensor")
    together: Any = type(first)(*(torch.stack(c) if isinstance(c[0], Tensor) else c[0] for c in columns))
    return LossFunctions(together.support, together.query, first.n_tasks)


def expand(w: Float[Tensor, "*points d"], n_tasks: int) -> Float[Tensor, "*points tasks d"]:
    """Give every task its own view of shared points (no copy)."""
    return w[..., None, :].expand(*w.shape[:-1], n_tasks, w.shape[-1])


def quadratic(
    H: Float[Tensor, "*families tasks d d"], r: Float[Tensor, "*points tasks d"]
) -> Float[Tensor, "*points tasks"]:
    """Return 1/2 r' H r."""
    return 0.5 * torch.einsum("...td,...tde,...te->...t", r, H, r)


def log_cosh(r: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return log cosh r without overflow; |(log cosh)''| <= 1 and |(log cosh)'''| <= 4 / (3 sqrt 3)."""
    return torch.logaddexp(r, -r) - math.log(2)
