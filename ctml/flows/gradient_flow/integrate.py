r"""Explicit Runge-Kutta integration of a batch of tasks over tau in [0, 1], outside autograd.

    x_j = y + h sum_{l<j} a_jl k_l,    k_j = f(x_j),    y <- y + h sum_j b_j k_j

Every task has its own step size. A step size of zero leaves a task where it is: that is what a rejected step and a
finished task are, so a recorded path is a plain list of steps that replays and differentiates without special cases.

Near rest the error of a step is small however large the step, and a controller that sees the error alone walks beyond
the method's stable interval. The path survives that, since steps that begin to err are rejected; its derivative does
not: each such step multiplies it by |R(-h lambda)| > 1. So adaptive steps are also bounded by h lambda <= reach, where
lambda, the fastest rate of contraction, is followed by one step of the power method per accepted step.

Speed: a stage is the combination above, one small product over the tasks, and the slope, written in place; there is no
autograd, no allocation and no Python loop over tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ctml.flows.gradient_flow.coefficients import stable_reach, stages_in_step, step_matrix
from ctml.flows.gradient_flow.trajectory import Trajectory
from ctml.flows.tableaus import DORMAND_PRINCE, RK4, Tableau

Slope = Callable[[Tensor, Tensor], None]
"""slope(y, out) writes dy/dtau of `(tasks, ...)` into out."""
Jacobian = Callable[[Tensor, Tensor, Tensor], Tensor]
"""jacobian(y, slope, v) returns the derivative of the slope in direction v, up to its sign, given both at y."""


@dataclass(frozen=True)
class FixedSteps:
    """`steps` equal steps of a tableau (Euler with steps = K is ANIL's inner loop at rate T / K)."""

    steps: int
    tableau: Tableau = RK4

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be at least 1 (for no adaptation use horizon=0)")


@dataclass(frozen=True)
class Adaptive:
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


Solver = FixedSteps | Adaptive


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


class Stepper:
    """One Runge-Kutta step at a time, in buffers that are allocated once.

    `rows` holds y, k_1 .. k_S; stage points and the new y are products of a small coefficient matrix per task with it.
    The views that those products work on are made once too: at these sizes a view costs as much as a product.
    """

    def __init__(self, slope: Slope, start: Float[Tensor, "tasks *state"], tableau: Tableau):
        self.slope, stages, n_tasks = slope, tableau.stages, len(start)
        self.last_is_new = stages_in_step(tableau) < stages
        rows = start.new_empty(1 + stages, *start.shape)
        self.y, *slopes = rows.unbind(0)
        self.first, self.last = slopes[0], slopes[-1]
        self.y.copy_(start)
        self.new, self.error = torch.empty_like(self.y), torch.empty_like(self.y)
        self.moves = step_matrix(tableau, start.dtype, start.device)
        self.stays = torch.zeros_like(self.moves)
        self.stays[:-1, 0] = 1
        self.coefficients = start.new_empty(n_tasks, stages + 2, 1 + stages)
        by_task = rows.view(1 + stages, n_tasks, -1).transpose(0, 1)
        self._stages = [
            (self.coefficients[:, j : j + 1, : 1 + j], by_task[:, : 1 + j], slopes[j]) for j in range(1, stages)
        ]
        self._step = self.coefficients[:, stages : stages + 1], by_task
        self._estimate = self.coefficients[:, stages + 1 :], by_task
        self._new, self._error = self.new.view(n_tasks, 1, -1), self.error.view(n_tasks, 1, -1)
        self._first_is_known = False
        self.evaluations = 0

    def resize(self, sizes: Float[Tensor, " tasks"]) -> None:
        """Set the step size of every task."""
        torch.addcmul(self.stays, sizes[:, None, None], self.moves, out=self.coefficients)

    def attempt(self) -> None:
        """Compute the stages and the new y."""
        if not self._first_is_known:
            self.slope(self.y, self.first)
            self._first_is_known = True
            self.evaluations += 1
        for coefficients, rows, stage in self._stages:
            torch.bmm(coefficients, rows, out=self._new)
            self.slope(self.new, stage)
        self.evaluations += len(self._stages)
        if not self.last_is_new:  # else the last stage point is the new y already
            torch.bmm(*self._step, out=self._new)

    def estimate(self) -> Float[Tensor, "tasks *state"]:
        """Return the embedded error estimate of the attempted step."""
        torch.bmm(*self._estimate, out=self._error)
        return self.error

    def accept(self) -> None:
        """Move all tasks to the new y."""
        self.y.copy_(self.new)
        self._first_is_known = self.last_is_new
        if self.last_is_new:
            self.first.copy_(self.last)

    def accept_where(self, accepted: Bool[Tensor, "tasks *ones"]) -> None:
        """Move only the tasks whose step was accepted (needs a tableau whose last stage is the next first)."""
        torch.where(accepted, self.new, self.y, out=self.y)
        torch.where(accepted, self.last, self.first, out=self.first)


def integrate(
    slope: Slope,
    start: Float[Tensor, "tasks *state"],
    solver: Solver,
    *,
    record: str = "none",
    atol: Float[Tensor, "tasks *state"] | float | None = None,
    first_step: Float[Tensor, " tasks"] | None = None,
    jacobian: Jacobian | None = None,
) -> Path:
    """Integrate dy/dtau = slope(y) from tau = 0 to 1.

    Args:
        slope: writes the derivative.
        start: y at tau = 0.
        solver: fixed or adaptive steps.
        record: "all" states before each step, "sqrt" of them (about the square root of their number), or "none".
        atol: absolute tolerance of each number of y instead of `solver.atol`; infinite: not watched at all.
        first_step: first adaptive step size of each task.
        jacobian: of a contracting flow: keeps adaptive steps where the method is stable.

    Raises:
        RuntimeError: if adaptive steps give up (`max_steps`).
    """
    stepper = Stepper(slope, start, solver.tableau)
    trajectory = Trajectory(start, record, solver.steps if isinstance(solver, FixedSteps) else 16)
    if isinstance(solver, FixedSteps):
        sizes = start.new_full((1, 1), 1 / solver.steps).expand(solver.steps, len(start))
        stepper.resize(sizes[0])
        for _ in range(solver.steps):
            trajectory.append(stepper.y)
            stepper.attempt()
            stepper.accept()
    else:
        atol = solver.atol if atol is None else atol
        first_step = start.new_full((len(start),), 1e-2) if first_step is None else first_step
        sizes = _adapt(stepper, solver, trajectory, atol, first_step, jacobian)
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
    atol: Float[Tensor, "tasks *state"] | float,
    size: Float[Tensor, " tasks"],
    jacobian: Jacobian | None,
) -> Float[Tensor, "steps tasks"]:
    """Step to tau = 1 with a step size per task; return the accepted sizes."""
    y, new = stepper.y, stepper.new
    tau = torch.zeros_like(size)
    as_state = (-1, *[1] * (y.dim() - 1))
    root_watched = torch.isfinite(torch.as_tensor(atol)).expand_as(y).flatten(1).sum(1).clamp(min=1).to(y.dtype).sqrt()
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


def replay(
    slope: Slope, start: Float[Tensor, "tasks *state"], sizes: Float[Tensor, "steps tasks"], tableau: Tableau
) -> Float[Tensor, "steps tasks *state"]:
    """Return the states before each of the given steps."""
    states = start.new_empty(len(sizes), *start.shape)
    states[0].copy_(start)
    stepper = Stepper(slope, start, tableau)
    for n, size in enumerate(sizes[:-1]):
        stepper.resize(size)
        stepper.attempt()
        stepper.accept()
        states[n + 1].copy_(stepper.y)
    return states
