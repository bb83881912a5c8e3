r"""The link of an inner loss: the gradient of the loss with respect to the logits is link(z) - y (see `losses`).

    cross-entropy:        link = softmax,   dlink/dz = diag(p) - p p^T
    half squared error:   link = identity,  dlink/dz = 1

Arrays are `(tasks, ways, support)`: with the examples on the last axis a softmax over the ways is a few long vector
operations instead of many short ones (seven times faster at 5 ways).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

ByClass = Float[Tensor, "*batch ways support"]

FUSED = getattr(torch.ops.aten, "_softmax_backward_data", None)
"""Torch's own derivative of softmax, one pass over memory; a private name, so a release may come without it."""


@runtime_checkable
class Link(Protocol):
    """Maps logits to predictions, with its derivative; `out` receives the result."""

    def predict(self, logits: ByClass, out: ByClass | None = None) -> ByClass:
        """Return link(z)."""
        ...

    def pull_back(self, cotangent: ByClass, predicted: ByClass, out: ByClass | None = None) -> ByClass:
        """Return (dlink/dz) v, which is symmetric, where predicted = link(z)."""
        ...


class Softmax:
    """Cross-entropy: predictions are class probabilities."""

    def predict(self, logits: ByClass, out: ByClass | None = None) -> ByClass:
        """Return softmax over the ways."""
        return torch.softmax(logits, -2, out=out)

    def pull_back(self, cotangent: ByClass, predicted: ByClass, out: ByClass | None = None) -> ByClass:
        """Return p * (v - <p, v>)."""
        if FUSED is None:
            product = predicted * cotangent
            return torch.sub(product, predicted * product.sum(-2, keepdim=True), out=out)
        if out is None:
            return FUSED(cotangent, predicted, -2, predicted.dtype)
        return FUSED.out(cotangent, predicted, -2, predicted.dtype, grad_input=out)


class Identity:
    """Half the squared error: predictions are the logits themselves."""

    def predict(self, logits: ByClass, out: ByClass | None = None) -> ByClass:
        """Return the logits."""
        return logits if out is None else out.copy_(logits)

    def pull_back(self, cotangent: ByClass, predicted: ByClass, out: ByClass | None = None) -> ByClass:
        """Return v."""
        return cotangent if out is None else out.copy_(cotangent)
