"""Outer optimisers for objectives whose curvature grows with their gradient.

A step of plain gradient descent (`torch.optim.SGD`) is as long as the gradient; those here bound it. The norm is that
of all parameters of all groups together: the meta-parameters are one vector.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ctml.checks import positive

TINY = 1e-12  # keeps 0 / 0 out of a step at a stationary point


class _BoundedStep(torch.optim.Optimizer):
    """Step theta <- theta - lr * length(|v|) v with one length for all parameters."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step; return the closure's loss, if one was given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moves = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not moves:
            return loss
        directions = [self.direction(p, group) for p, group in moves]
        norm = torch.stack([v.norm() for v in directions]).norm()
        for (p, group), v in zip(moves, directions, strict=True):
            p.sub_(group["lr"] * self.length(norm, group) * v)
        return loss

    def direction(self, p: Tensor, group: dict) -> Tensor:
        """Return the part of v that belongs to p: the gradient, unless a subclass smooths it."""
        assert p.grad is not None, "step asks for no other"
        return p.grad

    def length(self, norm: Tensor, group: dict) -> Tensor:
        """Return the factor of v."""
        return 1 / (norm + TINY)


class NormalizedGD(_BoundedStep):
    """Step by `lr` along the gradient, whatever its length: theta <- theta - lr g / |g|.

    Args:
        params: parameters or groups of them.
        lr: length of every step.
    """

    def __init__(self, params: Iterable, lr: float):
        positive("lr", lr)
        super().__init__(params, {"lr": lr})


class ClippedGD(_BoundedStep):
    """Step theta <- theta - lr min(1, clip / |g|) g: gradient descent below `clip`, normalised above.

    Args:
        params: parameters or groups of them.
        lr: rate.
        clip: gradient norm from which the step stops growing.
    """

    def __init__(self, params: Iterable, lr: float, clip: float = 1.0):
        positive("lr", lr)
        positive("clip", clip)
        super().__init__(params, {"lr": lr, "clip": clip})

    def length(self, norm: Tensor, group: dict) -> Tensor:
        """Return min(1, clip / |g|)."""
        return (group["clip"] / (norm + TINY)).clamp_max(1)


class SNGDM(_BoundedStep):
    """Step along the normalised running mean of stochastic gradients (Cutkosky and Mehta 2020).

    v_0 = g_0,   v_t = (1 - a) v_{t-1} + a g_t,   theta <- theta - lr v_t / |v_t|

    Not to be confused with momentum in `torch.optim.SGD`, which adds gradients up: here a is the weight of the new one.

    Args:
        params: parameters or groups of them.
        lr: length of every step.
        weight: a in (0, 1]; 1 is `NormalizedGD`.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, params: Iterable, lr: float, weight: float = 0.1):
        positive("lr", lr)
        if not 0 < weight <= 1:
            raise ValueError(f"weight={weight}: must lie in (0, 1]; it is the share of the new gradient in the mean")
        super().__init__(params, {"lr": lr, "weight": weight})

    def direction(self, p: Tensor, group: dict) -> Tensor:
        """Return the running mean after taking in this step's gradient."""
        assert p.grad is not None, "step asks for no other"
        state = self.state[p]
        if "mean" not in state:
            state["mean"] = p.grad.clone()
        else:
            state["mean"].lerp_(p.grad, group["weight"])
        return state["mean"]
