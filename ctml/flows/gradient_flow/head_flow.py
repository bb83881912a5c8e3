r"""The flow of a linear head, given as what it starts from and what moves it; checked once.

dW/dt = -sum_m w_m (link(W phi_m) - y_m) phi_m^T,    W(0) = W_0,    0 <= t <= T
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.losses import InnerLoss


@dataclass(frozen=True)
class HeadFlow:
    """What W(T) is a function of.

    Args:
        features: Phi.
        targets: Y.
        head: W_0, one per task.
        horizon: T, one per task.
        weights: w.
        loss: the loss that the flow descends.
    """

    features: Float[Tensor, "tasks support d"]
    targets: Float[Tensor, "tasks support ways"]
    head: Float[Tensor, "tasks ways d"]
    horizon: Float[Tensor, " tasks"]
    weights: Float[Tensor, "tasks support"]
    loss: InnerLoss

    @classmethod
    def of(
        cls,
        features: Tensor,
        labels: Tensor,
        head: Tensor,
        horizon: Tensor,
        weights: Tensor | None,
        loss: InnerLoss,
    ) -> "HeadFlow":
        """Check what `adapt_head` was given, shapes too, and give each task its own head, horizon and weights.

        Raises:
            ValueError: if shapes do not fit, T or a weight is negative, a label is out of range, or anything is not
                finite.
        """
        _check_shapes(features, labels, head, horizon, weights)
        targets = loss.targets(labels, head.shape[-2], features.dtype)
        _check_values(features, head, horizon)
        if weights is None:
            weights = features.new_full(features.shape[:2], 1 / features.shape[1])
        elif (weights < 0).any():
            raise ValueError(f"weights={float(weights.min()):.3g}: must not be negative, or the flow climbs")
        horizon = horizon.to(features.dtype).expand(len(features))
        return cls(features, targets, head.expand(len(features), *head.shape[-2:]), horizon, weights, loss)

    @property
    def scale(self) -> Float[Tensor, "tasks 1 support"]:
        """T w_m."""
        return (self.horizon[:, None] * self.weights)[:, None, :]

    def refuse_gradient(self, name: str, method: object) -> None:
        """Raise ValueError if the "labels" or "weights" require a gradient, which `method` has not."""
        if torch.is_grad_enabled() and {"labels": self.targets, "weights": self.weights}[name].requires_grad:
            raise ValueError(
                f"{name} require a gradient: gradient={method} has none for them; use Adjoint(), or detach them"
            )


def _check_shapes(features: Tensor, labels: Tensor, head: Tensor, horizon: Tensor, weights: Tensor | None) -> None:
    if features.dim() != 3:
        raise ValueError(f"features has shape {tuple(features.shape)}: must be (tasks, support, d)")
    n_tasks, support, d = features.shape
    if head.shape[-1] != d or head.dim() not in (2, 3) or (head.dim() == 3 and len(head) != n_tasks):
        raise ValueError(f"head has shape {tuple(head.shape)}: must be (ways, {d}) or ({n_tasks}, ways, {d})")
    if labels.shape not in ((n_tasks, support), (n_tasks, support, head.shape[-2])):
        soft = (n_tasks, support, head.shape[-2])
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}: must be {soft[:2]}, or {soft} for soft or real targets"
        )
    if horizon.shape not in ((), (1,), (n_tasks,)):
        raise ValueError(f"horizon has shape {tuple(horizon.shape)}: must be a scalar or one per task, ({n_tasks},)")
    if weights is not None and weights.shape != (n_tasks, support):
        raise ValueError(f"weights has shape {tuple(weights.shape)}: must be {(n_tasks, support)}, one per example")


def _check_values(features: Tensor, head: Tensor, horizon: Tensor) -> None:
    if (horizon < 0).any():
        raise ValueError(f"horizon={float(horizon.min()):.3g}: must be at least 0; learn it as exp(log T)")
    # A sum is finite only if all its terms are; it reads the array once and stores nothing.
    for name, value in (("features", features), ("head", head), ("horizon", horizon)):
        if not torch.isfinite(value.detach().sum()):
            raise ValueError(f"{name} holds NaN or infinity: look at the model or lower the outer learning rate")
