"""Tasks on the line: `CurvatureJump`, strongly convex, and `Cosine`, nonconvex.

CurvatureJump: the smallest strongly convex tasks whose MAML loss is not convex.

    u = s (w - c),   v = u - b,   R = sqrt(v^2 + tau^2)
    f(w)   = mu u^2 / 2 + (L - mu)/2 [v^2 / 2 + (v R + tau^2 asinh(v / tau)) / 2]
    f'(w)  = s [mu u + (L - mu)/2 (v + R)]
    f''(w) = mu + (L - mu)/2 (1 + v / R)                    in (mu, L)

The curvature goes from mu to L around w = c + s b, over a width of tau. This family is ours, not the paper's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.checks import positive
from ctml.tasks.analytic import TaskTable


@dataclass(frozen=True, repr=False)
class CurvatureJump(TaskTable):
    """A finite set of tasks on the line, each a function of w alone (the oracle setting); one number per task each.

    Args:
        mu, smoothness: the least and the greatest curvature, mu and L.
        jump: where the curvature jumps, b, measured from the minimum along the task's orientation.
        width: over what distance, tau.
        centre: the minimiser for b >> tau, c.
        side: s, +1 if the curvature is greater to the right, -1 if to the left.

    Raises:
        ValueError: unless 0 < mu <= L and tau > 0 for every task.
    """

    mu: Float[Tensor, "*families tasks"]
    smoothness: Float[Tensor, "*families tasks"]
    jump: Float[Tensor, "*families tasks"]
    width: Float[Tensor, "*families tasks"]
    centre: Float[Tensor, "*families tasks"]
    side: Float[Tensor, "*families tasks"]

    def __post_init__(self) -> None:
        positive("mu", float(self.mu.min()))
        positive("width", float(self.width.min()))
        if (self.smoothness < self.mu).any():
            raise ValueError(f"smoothness={self.smoothness.tolist()}: must be at least mu={self.mu.tolist()}")

    @classmethod
    def of(cls, *tasks: tuple[float, float, float, float, float, float]) -> "CurvatureJump":
        """Make the set from one (mu, L, b, tau, c, s) per task, in float64."""
        return cls(*torch.tensor(tasks, dtype=torch.float64).T)

    @classmethod
    def one(cls) -> "CurvatureJump":
        """Return instance N1: a single task whose MAML loss is non-convex for alpha = 0.1."""
        return cls.of((1.0, 4.0, 3.0, 0.05, 0.0, 1.0))

    @classmethod
    def two(cls) -> "CurvatureJump":
        """Return instance N2: two tasks whose MAML loss has two minima for alpha = 0.9 / L."""
        return cls.of((0.1, 4.0, 10.0, 0.1, 0.0, 1.0), (0.1, 0.1001, 50.0, 0.1, 15.0, 1.0))

    def support(self, points: Float[Tensor, "... #tasks d"]) -> Float[Tensor, "... tasks"]:
        """Return f_i(w_i), each task's loss at its own point; the sum over coordinates where there are several."""
        mu, smoothness, jump, width, centre, side = (
            p[..., None] for p in (self.mu, self.smoothness, self.jump, self.width, self.centre, self.side)
        )
        u = side * (points - centre)
        v = u - jump
        arch = 0.5 * (v * torch.hypot(v, width) + width.square() * torch.asinh(v / width))
        return (0.5 * mu * u.square() + 0.5 * (smoothness - mu) * (0.5 * v.square() + arch)).sum(-1)

    query = support  # the oracle setting: one function is both


@dataclass(frozen=True, repr=False)
class Cosine(TaskTable):
    """Nonconvex tasks f^ = cos phi, f = 1/2 (phi - c)^2; the derivatives of f^ are at most 1.

    The proximal problem with pull lam > 1 is solved by theta = phi - sin(phi) / lam. With J = 1 / (1 - cos(phi) / lam):
    F' = J (phi - c),   F'' = J^2 - sin(phi) / lam J^2 F'

    Args:
        c: minimiser of the query loss, one per task.
    """

    c: Float[Tensor, "tasks 1"]

    @classmethod
    def of(cls, *c: float) -> "Cosine":
        """Make the set from one minimiser per task, in float64."""
        return cls(torch.tensor(c, dtype=torch.float64)[:, None])

    def given(self, common: Float[Tensor, " none"]) -> "Cosine":
        """Return the tasks themselves: they share no parameters (what `ctml.theory.anil` asks of its instances)."""
        return self

    def support(self, phi: Float[Tensor, "*points tasks 1"]) -> Float[Tensor, "*points tasks"]:
        """Return cos phi."""
        return phi.cos().sum(-1)

    def query(self, phi: Float[Tensor, "*points tasks 1"]) -> Float[Tensor, "*points tasks"]:
        """Return 1/2 (phi - c)^2."""
        return 0.5 * (phi - self.c).square().sum(-1)

    def perturbed_solution(self, theta: Float[Tensor, "*tasks 1"], lam: float, nu: float) -> Float[Tensor, "tasks 1"]:
        """Return phi_nu, by bisection.

        nu (phi - c) - sin phi + lam (phi - theta) = 0, whose left side increases for lam + nu > 1
        """
        if lam + nu <= 1:
            raise ValueError(f"lam={lam}, nu={nu}: cos has curvature -1, so it is not convex; take lam + nu > 1")
        middle = (nu * self.c + lam * theta) / (lam + nu)  # phi - middle = sin(phi) / (lam + nu)
        low, high = middle - 1 / (lam + nu), middle + 1 / (lam + nu)
        for _ in range(torch.finfo(middle.dtype).bits):
            phi = (low + high) / 2
            right = nu * (phi - self.c) - phi.sin() + lam * (phi - theta) < 0
            low, high = torch.where(right, phi, low), torch.where(right, high, phi)
        return (low + high) / 2

    def derivatives(self, phi: Float[Tensor, "tasks 1"], lam: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return (theta, F'(theta), F''(theta)) at the theta whose adapted point is phi."""
        if lam <= 1:
            raise ValueError(f"lam={lam}: cos has curvature -1, so the inner problem is not convex; take lam > 1")
        J = 1 / (1 - phi.cos() / lam)
        first = J * (phi - self.c)
        return phi - phi.sin() / lam, first, J**2 - phi.sin() / lam * J**2 * first
