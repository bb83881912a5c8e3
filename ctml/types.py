"""The words and shapes that every part of ctml shares.

Invariants:
    * The first axis of everything that belongs to a task is `tasks`.
    * Parameters are plain dictionaries name -> tensor. A parameter of shape `p.shape` is shared by all tasks;
      one of shape `(tasks, *p.shape)` belongs to each task.
    * Class labels are int64 in 0 .. ways-1; regression targets are float `(tasks, n, out)`.

Glossary of axis names, as they stand in the shape annotations:
    tasks     tasks of a meta-batch
    ways      classes of a task (N in "N-way K-shot")
    shots     labelled examples per class in the support set (K)
    support   examples of a support set, ways * shots (also called D^train or S)
    query     examples of a query set (also called D^test or Q)
    features  width of an embedding (d)
    steps     inner gradient steps
    stages    stages of a Runge-Kutta method
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

Params = dict[str, Tensor]
"""Named parameters; shared, or with a leading `tasks` axis."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs (tasks, n, ...) and targets (tasks, n, ...) to one loss per task (tasks,)."""


def brief(t: Tensor) -> str:
    """Say type and shape of a tensor instead of its numbers: "float32 (4, 10, 1)"."""
    return f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}"


class Examples(NamedTuple):
    """Inputs with their targets, for a batch of tasks at once."""

    x: Shaped[Tensor, "tasks n *features"]
    y: Shaped[Tensor, "tasks n *out"]

    def __repr__(self) -> str:
        return f"Examples(x={brief(self.x)}, y={brief(self.y)})"


@dataclass(frozen=True)
class TaskBatch:
    """A meta-batch: what each task adapts to (support) and what it is judged on (query)."""

    support: Examples
    query: Examples

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.support.x)

    def map(self, function: Callable[[Tensor], Tensor]) -> "TaskBatch":
        """Apply one function to all four tensors."""
        return TaskBatch(Examples(*map(function, self.support)), Examples(*map(function, self.query)))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "TaskBatch":
        """Move to a device and cast the floating-point tensors (labels keep their type)."""
        return self.map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def split(self, size: int | None) -> list["TaskBatch"]:
        """Cut into meta-batches of at most `size` tasks; None leaves it whole."""
        if size is None or size >= self.n_tasks:
            return [self]
        return [self.map(lambda t, part=slice(i, i + size): t[part]) for i in range(0, self.n_tasks, size)]


@dataclass(frozen=True, repr=False)
class ClassPool:
    """Examples grouped by class: what loaders return and the few-shot sampler draws from.

    Args:
        examples: `(n, *features)`, sorted by class; uint8 images `(n, channels, height, width)` or floats.
        counts: `(classes,)` int64, examples of each class; classes may differ in size.
        names: one name per class.
        source: where they come from ("omniglot/train"); shown in every figure and claim.
    """

    examples: Shaped[Tensor, "n *features"]
    counts: Int[Tensor, " classes"]
    names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.names):
            raise ValueError(
                f"counts={len(self.counts)} classes, but names has {len(self.names)}; give one name per class"
            )
        if int(self.counts.sum()) != len(self.examples):
            raise ValueError(
                f"counts sum to {int(self.counts.sum())}, but there are {len(self.examples)} examples; "
                "give the examples sorted by class and how many each has"
            )

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    def __repr__(self) -> str:
        return f"ClassPool({self.source!r}: {self.n_classes} classes, {brief(self.examples)})"

    def to(self, device: torch.device | str) -> "ClassPool":
        """Move the examples to a device, where the sampler then draws whole meta-batches."""
        return ClassPool(self.examples.to(device), self.counts.to(device), self.names, self.source)


@runtime_checkable
class TaskDistribution(Protocol):
    """Anything that draws meta-batches."""

    def sample(self, n_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draw `n_tasks` tasks from the generator's stream."""
        ...


@runtime_checkable
class Model(Protocol):
    """What every learner asks of its model: a module that takes a batch of tasks at once.

    Each parameter may have its own shape (shared by all tasks) or one more leading axis `tasks` (see `ctml.models`;
    `PerTask` makes such a model of any module).
    """

    def __call__(self, x: Shaped[Tensor, "tasks n *features"], context: Tensor | None = None) -> Tensor:
        """Return outputs `(tasks, n, *out)`; `context` holds the support inputs where statistics are theirs."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters, as an nn.Module does."""
        ...


class HasHead(Model, Protocol):
    """A model that is a head on top of features; what ANIL (to save work) and COMLN ask for.

    model(x, context) = head(features(x, context))
    """

    head: nn.Module

    def features(self, x: Shaped[Tensor, "tasks n *features"], context: Tensor | None = None) -> Float[Tensor, "..."]:
        """Return what the head reads, `(tasks, n, features)`."""
        ...


def has_head(model: Model) -> TypeGuard[HasHead]:
    """Tell whether a model has features and a head.

    `isinstance` with a protocol would not do: from Python 3.12 on it looks past `nn.Module.__getattr__`, by which a
    module finds its submodules.
    """
    return hasattr(model, "features") and hasattr(model, "head")
