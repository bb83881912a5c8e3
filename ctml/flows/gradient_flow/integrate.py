r"""Explicit Runge-Kutta integration of a batch of tasks over tau in [0, 1]: equal steps, or a step size per task.

Near rest the error of a step is small however large the step, and a controller that sees the error alone walks beyond
the method's stable interval. The path survives that, since steps that begin to err are rejected; its derivative does
not: each such step multiplies it by |R(-h lambda)| > 1. So adaptive steps are also bounded by h lambda <= reach, where
lambda, the fastest rate of contraction, is followed by one step of the power method per accepted step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.coefficients import stable_reach
from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.losses import InnerLoss
from ctml.flows.gradient_flow.stepper import Slope, Stepper
from ctml.flows.gradient_flow.trajectory import Trajectory
from ctml.flows.tableaus import DORMAND_PRINCE, RK4, Tableau

Jacobian = Callable[[Tensor, Tensor, Tensor], Tensor]
"""jacobian(y, slope, v) returns the derivative of the slope in direction v, up to its sign, given both at y."""


@dataclass(frozen=True)
class Path:
    """What integration leaves behind.

    Args:
        final: y at tau = 1.
        sizes: step sizes of every step and task; zero where the task did not move.
        states: y before the steps 0, stride, 2 stride, ...; None when nothing was recorded.
        stride: distance between recorded states.
        evaluations: slopes computed per task.
    """

    final: Float[Tensor, "tasks *state"]
    sizes: Float[Tensor, "steps tasks"]
    states: Float[Tensor, "kept tasks *state"] | None
    stride: int
    evaluations: int


@runtime_checkable
class Watched(Protocol):
    """What adaptive steps may ask of the system that they integrate."""

    @property
    def jacobian(self) -> Jacobian | None:
        """Keeps the steps of a contracting flow where the method is stable; None: there is nothing to keep."""
        ...

    def tolerance(self, atol: float) -> Float[Tensor, "tasks *state"]:
        """Return the absolute tolerance of each number of y; infinite: not watched at all."""
        ...

    def safe_step(self) -> Float[Tensor, " tasks"]:
        """Return the first step size of each task."""
        ...


class Unwatched:
    """A system of which only the slope is known.

    Args:
        start: y at tau = 0.
    """

    jacobian: Jacobian | None = None

    def __init__(self, start: Float[Tensor, "tasks *state"]):
        self.start = start

    def tolerance(self, atol: float) -> Float[Tensor, "tasks *state"]:
        """Return the same tolerance for every number."""
        return torch.full_like(self.start, atol)

    def safe_step(self) -> Float[Tensor, " tasks"]:
        """Return a hundredth of the interval."""
        return self.start.new_full((len(self.start),), 1e-2)


@runtime_checkable
class MetaGradient(Protocol):
    """How meta-gradients go through the steps to W(T)."""

    def through(self, flow: HeadFlow, steps: "Steps") -> Float[Tensor, "tasks ways d"]:
        """Return W(T), differentiable through the steps."""
        ...


class Steps:
    """A solver that takes Runge-Kutta steps; subclasses say how large."""

    tableau: Tableau

    def check(self, loss: InnerLoss, gradient: MetaGradient) -> None:
        """Accept every loss and every gradient."""

    def adapt(self, flow: HeadFlow, gradient: MetaGradient) -> Float[Tensor, "tasks ways d"]:
        """Return W(T); how the steps are differentiated is the gradient's matter."""
        return gradient.through(flow, self)

    def integrate(
        self,
        slope: Slope,
        start: Float[Tensor, "tasks *state"],
        *,
        record: str = "none",
        watched: Watched | None = None,
    ) -> Path:
        """Integrate dy/dtau = slope(y) from tau = 0 to 1.

        Args:
            slope: writes the derivative.
            start: y at tau = 0.
            record: "all" states before each step, "sqrt" of them (about the square root of their number), or "none".
            watched: the system, for what adaptive steps ask beyond its slope.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FixedSteps(Steps):
    """`steps` equal steps of a tableau (Euler with steps = K is ANIL's inner loop at rate T / K)."""

    steps: int
    tableau: Tableau = RK4

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be at least 1 (for no adaptation use horizon=0)")

    def integrate(
        self,
        slope: Slope,
        start: Float[Tensor, "tasks *state"],
        *,
        record: str = "none",
        watched: Watched | None = None,
    ) -> Path:
        """Integrate dy/dtau = slope(y) from tau = 0 to 1; see `Steps`."""
        stepper, trajectory = Stepper(slope, start, self.tableau), Trajectory(start, record, self.steps)
        sizes = start.new_full((1, 1), 1 / self.steps).expand(self.steps, len(start))
        stepper.resize(sizes[0])
        for _ in range(self.steps):
            trajectory.append(stepper.y)
            stepper.attempt()
            stepper.accept()
        return Path(stepper.y.clone(), sizes, trajectory.states(), trajectory.stride, stepper.evaluations)


@dataclass(frozen=True)
class Adaptive(Steps):
    """Steps as large as the tolerances allow, each task with its own.

    Args:
        rtol, atol: a step is accepted when the root mean square of error / (atol + rtol |y|) is at most 1.
        tableau: needs embedded weights.
        max_steps: attempts before giving up.
    """

    rtol: float = 1e-5
    atol: float = 1e-7
    tableau: Tableau = DORMAND_PRINCE
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        if not self.rtol >= 0 or not self.atol > 0:
            raise ValueError(f"rtol={self.rtol}, atol={self.atol}: need rtol >= 0 and atol > 0")
        if self.tableau.b_embedded is None or not self.tableau.first_same_as_last:
            raise ValueError(f"tableau={self.tableau.name}: adaptive steps need embedded weights; use DORMAND_PRINCE")

    def integrate(
        self,
        slope: Slope,
        start: Float[Tensor, "tasks *state"],
        *,
        record: str = "none",
        watched: Watched | None = None,
    ) -> Path:
        """Integrate dy/dtau = slope(y) from tau = 0 to 1; see `Steps`.

        Raises:
            RuntimeError: if the steps give up (`max_steps`).
        """
        stepper, trajectory = Stepper(slope, start, self.tableau), Trajectory(start, record, expected=16)
        sizes = _adapt(stepper, self, trajectory, watched or Unwatched(start))
        return Path(stepper.y.clone(), sizes, trajectory.states(), trajectory.stride, stepper.evaluations)


SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
"""Limits on how a step size changes (Hairer, Norsett, Wanner, Solving ODEs I, section II.4)."""
SLIVER = 1e-6
"""A rest of the horizon, relative to the step, that is not worth a step of its own."""
WITHIN = 0.9
"""Part of the stable interval that steps use: the power method comes to lambda from below."""


def _adapt(
    stepper: Stepper,
    solver: Adaptive,
    trajectory: Trajectory,
    watched: Watched,
) -> Float[Tensor, "steps tasks"]:
    """Step to tau = 1 with a step size per task; return the accepted sizes."""
    y, new = stepper.y, stepper.new
    atol, size, jacobian = watched.tolerance(solver.atol), watched.safe_step(), watched.jacobian
    tau = torch.zeros_like(size)
    as_state = (-1, *[1] * (y.dim() - 1))
    root_watched = torch.isfinite(atol).flatten(1).sum(1).clamp(min=1).to(y.dtype).sqrt()
    order = solver.tableau.embedded_order
    assert order is not None, "Adaptive takes no tableau without embedded weights"
    exponent = -1 / (order + 1)
    sizes = []
    reach, largest, direction = WITHIN * stable_reach(solver.tableau), torch.full_like(size, torch.inf), None
    for _ in range(solver.max_steps):
        left = 1 - tau
        size = torch.where(size * (1 + SLIVER) >= left, left, size)
        stepper.resize(size)
        stepper.attempt()
        scale = torch.maximum(y.abs(), new.abs()).mul_(solver.rtol).add_(atol)
        scaled = torch.div(stepper.estimate(), scale, out=scale).flatten(1)
        error = torch.linalg.vector_norm(scaled, dim=1).div_(root_watched)
        error.nan_to_num_(nan=torch.inf).clamp_(min=1e-10)
        accepted = error <= 1
        if accepted.any():
            taken = torch.where(accepted, size, 0)
            trajectory.append(y)
            sizes.append(taken)
            stepper.accept_where(accepted.view(as_state))
            tau = tau + taken
            if tau.min() > 1 - SLIVER:
                return torch.stack(sizes)
            if jacobian is not None:
                direction = _unit(stepper.first)[0] if direction is None else direction
                direction, rate = _unit(jacobian(y, stepper.first, direction))
                largest = reach / rate
        size = torch.minimum(size * (SAFETY * error**exponent).clamp_(SHRINK, GROW), largest)
    raise RuntimeError(
        f"max_steps={solver.max_steps}: the flow is at {float(tau.min()):.3g} of its horizon; shorten the horizon, "
        f"scale the features down, loosen rtol={solver.rtol}, or raise max_steps"
    )


def _unit(v: Float[Tensor, "tasks *state"]) -> tuple[Float[Tensor, "tasks *state"], Float[Tensor, " tasks"]]:
    """Return each task's v scaled to length 1 (or zero), and its length."""
    length = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return v / length.clamp(min=torch.finfo(v.dtype).tiny).view(-1, *[1] * (v.dim() - 1)), length
