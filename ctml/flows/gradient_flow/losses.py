r"""The losses that the head can flow down: each has a link, targets, and its own smoothing of labels.

dL/dz_m = w_m (link(z_m) - y_m)        L = -sum_m w_m <y_m, log softmax(z_m)>   or   sum_m w_m |z_m - y_m|^2 / 2
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ctml.flows.gradient_flow.links import Identity, Link, Softmax

Labels = Int[Tensor, "tasks support"] | Float[Tensor, "tasks support ways"]
"""Class labels, or soft targets / regression targets."""
ByExample = Float[Tensor, "*batch support ways"]


@runtime_checkable
class InnerLoss(Protocol):
    """A loss whose gradient in the logits is link(z) - y."""

    link: ClassVar[Link]
    """By class, with its derivative: what the fast path computes."""
    linear: ClassVar[bool]
    """Whether the link is the identity, so that the flow is linear and has a closed form."""

    def targets(self, labels: Labels, ways: int, dtype: torch.dtype) -> Float[Tensor, "tasks support ways"]:
        """Return y for a head of so many ways."""
        ...

    def predict(self, logits: ByExample) -> ByExample:
        """Return link(z) in plain torch, for autograd: the reference of the fast path."""
        ...

    def unsmoothed(self) -> "InnerLoss":
        """Return this loss without smoothing of labels: the one to adapt by when nothing is trained."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of softmax(z).

    Args:
        smoothing: share of each label that is spread evenly over the ways, in [0, 1).

    Raises:
        ValueError: if the share is out of range.
    """

    smoothing: float = 0.0
    link: ClassVar[Link] = Softmax()
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing}: must be in [0, 1)")

    def targets(self, labels: Labels, ways: int, dtype: torch.dtype) -> Float[Tensor, "tasks support ways"]:
        """Return one-hot labels, or the given soft ones, smoothed towards the uniform distribution."""
        targets = _real_or_one_hot(labels, ways, dtype)
        return targets if self.smoothing == 0 else (1 - self.smoothing) * targets + self.smoothing / ways

    def predict(self, logits: ByExample) -> ByExample:
        """Return softmax over the ways."""
        return logits.softmax(-1)

    def unsmoothed(self) -> "CrossEntropy":
        """Return the cross-entropy of the labels as they are."""
        return CrossEntropy()


@dataclass(frozen=True)
class SquaredError:
    """Half the squared error, for regression or one-hot labels."""

    link: ClassVar[Link] = Identity()
    linear: ClassVar[bool] = True

    def targets(self, labels: Labels, ways: int, dtype: torch.dtype) -> Float[Tensor, "tasks support ways"]:
        """Return the given targets, or one-hot labels."""
        return _real_or_one_hot(labels, ways, dtype)

    def predict(self, logits: ByExample) -> ByExample:
        """Return the logits."""
        return logits

    def unsmoothed(self) -> "SquaredError":
        """Return itself: it smooths nothing."""
        return self


def _real_or_one_hot(labels: Labels, ways: int, dtype: torch.dtype) -> Float[Tensor, "tasks support ways"]:
    if labels.dim() == 3:
        return labels.to(dtype)
    low, high = labels.aminmax()
    if low < 0 or high >= ways:
        raise ValueError(f"labels lie in [{int(low)}, {int(high)}]: a head of {ways} ways needs 0 .. {ways - 1}")
    return F.one_hot(labels, ways).to(dtype)
