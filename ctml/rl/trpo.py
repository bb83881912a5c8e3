"""The trust-region step (Schulman et al. 2015), for any surrogate and divergence of one parameter vector.

    minimise J(theta)   subject to   D(theta) <= delta,        D(theta_old) = 0 = grad D(theta_old)
    F x = grad J by conjugate gradients, F = hess D;   theta = theta_old - beta^k sqrt(2 delta / x'F x) x

k is the least for which the surrogate falls and the constraint holds; if none does, nothing moves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import at_least, positive

Vector = Float[Tensor, " d"]
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps a parameter vector to the surrogate J and the divergence D, two numbers, differentiable twice."""


def conjugate_gradient(
    product: Callable[[Vector], Vector], b: Vector, iterations: int, tolerance: float = 1e-10
) -> Vector:
    """Return x with A x ~ b for symmetric positive definite A, given as v -> A v (Hestenes and Stiefel 1952).

    Stops early once |A x - b|^2 < tolerance.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), r @ r
    for _ in range(iterations):
        if rr < tolerance:
            break
        ap = product(p)
        a = rr / (p @ ap)
        x, r = x + a * p, r - a * ap
        rr, last = r @ r, rr
        p = r + (rr / last) * p
    return x


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

    def step(self, theta: Vector, objective: Objective, sampled: Objective | None = None) -> Taken:
        """Take one step from theta.

        Args:
            objective: J and D.
            sampled: the same on a part of the samples; F is the Hessian of its D. None takes `objective`.
        """
        leaf = theta.detach().requires_grad_()
        surrogate = objective(leaf)[0]
        (gradient,) = torch.autograd.grad(surrogate, leaf)
        before = float(surrogate.detach())
        (slope,) = torch.autograd.grad((sampled or objective)(leaf)[1], leaf, create_graph=True)

        def fisher(v: Vector) -> Vector:
            return torch.autograd.grad(slope @ v, leaf, retain_graph=True)[0] + self.damping * v

        x = conjugate_gradient(fisher, gradient, self.iterations)
        scale = x @ fisher(x)
        if not torch.isfinite(scale) or scale <= 0:
            return Taken(theta, before, before, 0.0, None)
        full = (2 * self.delta / scale).sqrt() * x
        with torch.no_grad():
            for k in range(self.tries):
                point = theta - self.shrink**k * full
                after, moved = map(float, objective(point))
                if after < before and moved <= self.delta:
                    return Taken(point, before, after, moved, k)
        return Taken(theta, before, before, 0.0, None)
