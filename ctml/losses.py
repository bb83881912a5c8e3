"""Losses and metrics, one number per task: inputs keep their leading task axis, outputs are `(tasks,)`."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def mse(outputs: Float[Tensor, "tasks n out"], targets: Float[Tensor, "tasks n out"]) -> Float[Tensor, " tasks"]:
    """Return the mean squared error of each task."""
    return (outputs - targets).square().flatten(1).mean(1)


def cross_entropy(
    logits: Float[Tensor, "tasks n ways"], labels: Int[Tensor, "tasks n"], label_smoothing: float = 0.0
) -> Float[Tensor, " tasks"]:
    """Return the mean cross-entropy of each task."""
    n_tasks, n, ways = logits.shape
    losses = F.cross_entropy(
        logits.reshape(-1, ways), labels.reshape(-1), reduction="none", label_smoothing=label_smoothing
    )
    return losses.view(n_tasks, n).mean(1)


def accuracy(logits: Float[Tensor, "tasks n ways"], labels: Int[Tensor, "tasks n"]) -> Float[Tensor, " tasks"]:
    """Return the fraction of right predictions of each task."""
    return (logits.argmax(-1) == labels).to(logits.dtype).mean(1)
