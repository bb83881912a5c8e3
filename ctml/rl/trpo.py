"""The trust-region step (Schulman et al. 2015), for any surrogate and divergence of one parameter vector.

    minimise J(theta)   subject to   D(theta) <= delta,        D(theta_old) = 0 = grad D(theta_old)
    F x = grad J by conjugate gradients, F = hess D;   theta = theta_old - beta^k sqrt(2 delta / x'F x) x

k is the least for which the surrogate falls and the constraint holds; if none does, nothing moves.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive
from ctml.conjugate_gradients import conjugate_gradients

Vector = Float[Tensor, " d"]
Objective = Callable[[Tensor], Iterable[tuple[Tensor, Tensor]]]
"""Maps parameters to the surrogate J and the divergence D, in parts to be summed; one part's graph lives at a time."""
Product = Callable[[Vector], Vector]


def gradient_of_surrogate(objective: Objective, theta: Vector) -> tuple[float, Vector]:
    """Return J and grad J."""
    leaf, total, slope = theta.detach().requires_grad_(), 0.0, torch.zeros_like(theta)
    for surrogate, _ in objective(leaf):
        slope += torch.autograd.grad(surrogate, leaf)[0]
        total += float(surrogate.detach())
    return total, slope


@dataclass(frozen=True)
class Taken:
    """What a trust-region step did.

    Attributes:
        point: the new parameters, the old ones if no step was good.
        surrogate_before, surrogate_after: J.
        divergence: D at the new parameters, at most delta.
        shortened: k, or None if nothing moved.
    """

    point: Vector
    surrogate_before: float
    surrogate_after: float
    divergence: float
    shortened: int | None


@dataclass(frozen=True)
class TRPO:
    """Settings of the step.

    Args:
        delta: greatest divergence of the new policy from the old.
        iterations: of conjugate gradients.
        damping: added to F's diagonal.
        shrink: beta, by which the line search shortens the step.
        tries: how often at most.
    """

    delta: float = 0.01
    iterations: int = 10
    damping: float = 1e-5
    shrink: float = 0.8
    tries: int = 15

    def __post_init__(self) -> None:
        positive("delta", self.delta)
        at_least("iterations", self.iterations, 1)
        at_least("damping", self.damping, 0)
        at_least("tries", self.tries, 1)
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink={self.shrink}: must lie in (0, 1)")

    def step(self, theta: Vector, objective: Objective, fisher: Product) -> Taken:
        """Take one step from theta.

        Args:
            objective: J and D.
            fisher: v -> F v at theta, on all of the samples or on a part of them.
        """
        before, slope = gradient_of_surrogate(objective, theta)
        x = conjugate_gradients(
            lambda v: fisher(v[0])[None] + self.damping * v,
            slope[None],
            steps=self.iterations,
            tolerance=1e-5,
            truncate=True,
        )[0]
        scale = x @ slope  # x'F x: the residual of conjugate gradients is orthogonal to x
        if not torch.isfinite(scale) or scale <= 0:
            return Taken(theta, before, before, 0.0, None)
        full = (2 * self.delta / scale).sqrt() * x
        with torch.no_grad():
            for k in range(self.tries):
                point = theta - self.shrink**k * full
                after, moved = (float(sum(part)) for part in zip(*objective(point), strict=True))
                if after < before and moved <= self.delta:
                    return Taken(point, before, after, moved, k)
        return Taken(theta, before, before, 0.0, None)
