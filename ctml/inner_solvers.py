"""Solvers of the inner problem min_phi h(phi), for all tasks at once, with a stated accuracy.

Invariants:
    * phi is `(tasks, d)`, one vector per task; a task's iterates do not depend on its neighbours in the batch.
    * Memory is a few copies of phi, whatever the number of steps: nothing is kept for differentiation.
    * With `tolerance`, every task ends with |grad h| <= tolerance, so |phi - argmin h| <= tolerance / m where h is
      m-strongly convex; tasks that got there stand still. Without it, exactly `steps` steps are taken.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ctml.checks import at_least, positive


class InnerSolveError(ArithmeticError):
    """An inner solver stopped short of its accuracy; says how far it got."""


@runtime_checkable
class Objective(Protocol):
    """An inner problem: one function per task."""

    def value(self, phi: Float[Tensor, "tasks d"], step: int = 0) -> Float[Tensor, " tasks"]:
        """Return h(phi); `step` picks the mini-batch where the objective is stochastic."""
        ...

    def gradient(self, phi: Float[Tensor, "tasks d"], step: int = 0) -> Float[Tensor, "tasks d"]:
        """Return grad h(phi)."""
        ...

    def closed_form(self) -> Float[Tensor, "tasks d"]:
        """Return argmin h, where it is known."""
        ...


@dataclass(frozen=True)
class Solution:
    """Where a solver ended.

    Attributes:
        phi: the solution.
        first_norm, last_norm: |grad h| at the start and at the last point where it was computed: at phi itself with a
            tolerance, one step before it without.
        evaluations: gradients that each task needed.
    """

    phi: Float[Tensor, "tasks d"]
    first_norm: Float[Tensor, " tasks"]
    last_norm: Float[Tensor, " tasks"]
    evaluations: Int[Tensor, " tasks"]


@runtime_checkable
class InnerSolver(Protocol):
    """Anything that solves inner problems."""

    def solve(self, objective: Objective, start: Float[Tensor, "tasks d"]) -> Solution:
        """Return argmin h of every task, searched from `start`."""
        ...


@dataclass(frozen=True)
class Iteration:
    """Iterate phi <- step(phi, grad h(phi)).

    Args:
        steps: number of steps; with a tolerance, the most it may take.
        tolerance: |grad h| to reach, or None for a fixed number of steps.
    """

    steps: int = 10
    tolerance: float | None = None

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 0)
        if self.tolerance is not None:
            positive("tolerance", self.tolerance)

    def step(self, objective: Objective, phi: Tensor, gradient: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the next point and what the step after it needs to know."""
        raise NotImplementedError

    @torch.no_grad()
    def solve(self, objective: Objective, start: Float[Tensor, "tasks d"]) -> Solution:
        """Solve from `start`.

        Raises:
            InnerSolveError: if a tolerance is set and some task is still above it after `steps` steps.
        """
        phi, state = start, None
        evaluations = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        first = last = start.new_full((len(start),), math.nan)
        active = torch.ones(len(start), dtype=torch.bool, device=start.device)
        for step in range(self.steps + (self.tolerance is not None)):
            gradient = objective.gradient(phi, step)
            norm = gradient.norm(dim=1)
            first = norm if step == 0 else first
            evaluations += active
            last = norm
            if self.tolerance is not None:
                active = ~(norm <= self.tolerance)
            if not active.any():
                break
            if step == self.steps:
                raise InnerSolveError(self._shortfall(norm, first))
            ahead, state = self.step(objective, phi, gradient, state)
            phi = ahead if self.tolerance is None else torch.where(active[:, None], ahead, phi)
            del gradient, ahead  # one copy of phi less while the next gradient is computed
        return Solution(phi, first, last, evaluations)

    def _shortfall(self, norm: Tensor, first: Tensor) -> str:
        worst = int(norm.nan_to_num(math.inf).argmax())
        advice = "take more steps" if norm[worst] < first[worst] else "it diverges: take a smaller rate or a larger lam"
        return (
            f"{type(self).__name__} reached |grad h| = {norm[worst]:.2e} in {self.steps} steps on task {worst} "
            f"(from {first[worst]:.2e}), tolerance={self.tolerance:.0e} was asked: {advice}"
        )


@dataclass(frozen=True)
class GradientDescent(Iteration):
    """Take steps phi <- phi - alpha grad h(phi); error (1 - alpha m)^k for alpha <= 1 / (L + lam).

    Args:
        rate: step size alpha.
        steps, tolerance: see `Iteration`.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("rate", self.rate)

    def step(self, objective: Objective, phi: Tensor, gradient: Tensor, state: None) -> tuple[Tensor, None]:
        """Take one step."""
        return phi.sub(gradient, alpha=self.rate), None


@dataclass(frozen=True)
class Nesterov(GradientDescent):
    """Accelerate gradient descent on a strongly convex problem: error (1 - sqrt(alpha m))^k.

    x_{k+1} = phi_k - alpha grad h(phi_k),   phi_{k+1} = x_{k+1} + beta (x_{k+1} - x_k),
    beta = (1 - sqrt(alpha m)) / (1 + sqrt(alpha m))

    Args:
        convexity: strong convexity m of the inner problem; lam is a safe choice where the support loss is convex.
        rate, steps, tolerance: see `GradientDescent`.
    """

    convexity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("convexity", self.convexity)
        if self.rate * self.convexity > 1:
            raise ValueError(
                f"rate={self.rate}: convexity={self.convexity} allows at most 1 / convexity = {1 / self.convexity:.3g}"
            )

    def step(self, objective: Objective, phi: Tensor, gradient: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take one step and look ahead."""
        q = math.sqrt(self.rate * self.convexity)
        x = phi.sub(gradient, alpha=self.rate)
        return x + (1 - q) / (1 + q) * (x - (phi if state is None else state)), x


@dataclass(frozen=True)
class LBFGS(Iteration):
    """Step along the limited-memory quasi-Newton direction, halved until the objective falls enough (Nocedal 1980).

    Args:
        memory: pairs (s, y) kept.
        steps, tolerance: see `Iteration`; `evaluations` leaves out the line search's values of h.
    """

    memory: int = 10

    HALVINGS = 30
    SUFFICIENT = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("memory", self.memory, 1)

    def step(self, objective: Objective, phi: Tensor, gradient: Tensor, state: list | None) -> tuple[Tensor, list]:
        """Take one step; the state is the last point with its gradient, then the pairs, oldest first."""
        pairs = []
        if state is not None:
            old_phi, old_gradient, pairs = state
            pairs = [*pairs, (phi - old_phi, gradient - old_gradient)][-self.memory :]
        direction = -self._inverse_hessian_times(gradient, pairs)
        slope = _dot(direction, gradient)
        uphill = ~(slope < 0)  # a pair without curvature can spoil a task's direction: that task starts over
        direction = torch.where(uphill[:, None], -gradient, direction)
        slope = torch.where(uphill, -_dot(gradient, gradient), slope)
        if not pairs:  # nothing is known of the curvature yet: a step of length one at most
            long = gradient.norm(dim=1).clamp_min(1)
            direction, slope = direction / long[:, None], slope / long
        return phi + self._length(objective, phi, direction, slope)[:, None] * direction, [phi, gradient, pairs]

    def _length(self, objective: Objective, phi: Tensor, direction: Tensor, slope: Tensor) -> Tensor:
        here = objective.value(phi)
        rounding = 10 * torch.finfo(phi.dtype).eps * here.abs()  # near the solution h no longer tells points apart
        length = torch.ones_like(slope)
        for _ in range(self.HALVINGS):
            there = objective.value(phi + length[:, None] * direction)
            short = ~(there <= here + self.SUFFICIENT * length * slope + rounding)
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        return length

    @staticmethod
    def _inverse_hessian_times(v: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        coefficients = []
        for s, y in reversed(pairs):
            rho = torch.where(_dot(s, y) > 0, 1 / _dot(s, y), 0.0)
            a = rho * _dot(s, v)
            v = v - a[:, None] * y
            coefficients.append((rho, a))
        if pairs:
            s, y = pairs[-1]
            v = v * torch.where(_dot(s, y) > 0, _dot(s, y) / _dot(y, y), 1.0)[:, None]
        for (s, y), (rho, a) in zip(pairs, reversed(coefficients), strict=True):
            v = v + (a - rho * _dot(y, v))[:, None] * s
        return v


@dataclass(frozen=True)
class Newton(Iteration):
    """Step phi <- phi - (hess h)^{-1} grad h with the full Hessian: the exact reference where d is small."""

    def step(self, objective: Objective, phi: Tensor, gradient: Tensor, state: None) -> tuple[Tensor, None]:
        """Take one full step."""
        return phi - torch.linalg.solve(hessian(objective.value, phi), gradient), None


@dataclass(frozen=True)
class ClosedForm:
    """Ask the problem for its solution, which quadratic tasks know."""

    def solve(self, objective: Objective, start: Float[Tensor, "tasks d"]) -> Solution:
        """Return argmin h; `start` is not needed."""
        phi = objective.closed_form()
        zero = phi.new_zeros(len(phi))
        return Solution(phi, zero, zero, torch.zeros(len(phi), dtype=torch.int64, device=phi.device))


@torch.enable_grad()
def hessian(value, phi: Float[Tensor, "tasks d"]) -> Float[Tensor, "tasks d d"]:
    """Return each task's Hessian of `value`, `(tasks, d) -> (tasks,)`, by d second derivatives."""
    phi = phi.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(value(phi).sum(), phi, create_graph=True)
    gradient = gradient + 0 * phi  # keeps the gradient of a linear function differentiable
    rows = [torch.autograd.grad(row, phi, retain_graph=True)[0] for row in gradient.sum(0)]
    return torch.stack(rows, dim=1)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1)
