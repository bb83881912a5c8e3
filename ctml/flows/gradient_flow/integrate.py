r"""Explicit Runge-Kutta integration of a batch of tasks over tau in [0, 1], outside autograd.

    x_j = y + h sum_{l<j} a_jl k_l,    k_j = f(x_j),    y <- y + h sum_j b_j k_j

Every task has its own step size. A step size of zero leaves a task where it is: that is what a rejected step and a
finished task are, so a recorded path is a plain list of steps that replays and differentiates without special cases.

Speed: a stage is the combination above, one small product over the tasks, and the slope, written in place; there is no
autograd, no allocation and no Python loop over tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ctml.flows.gradient_flow.trajectory import Trajectory
from ctml.flows.tableaus import DORMAND_PRINCE, RK4, Tableau

Slope = Callable[[Tensor, Tensor], None]
"""slope(y, out) writes dy/dtau of `(tasks, numbers)` into out."""


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

    final: Float[Tensor, "tasks numbers"]
    sizes: Float[Tensor, "steps tasks"]
    states: Float[Tensor, "kept tasks numbers"] | None
    stride: int
    evaluations: int


class Stepper:
    """One Runge-Kutta step at a time, in buffers that are allocated once.

    `rows` holds y, k_1 .. k_S; stage points and the new y are products of a small coefficient matrix per task with it.
    """

    def __init__(self, slope: Slope, start: Float[Tensor, "tasks numbers"], tableau: Tableau):
        self.slope, self.tableau, stages = slope, tableau, tableau.stages
        n_tasks, numbers = start.shape
        self.rows = start.new_empty(1 + stages, n_tasks, numbers)
        self.y, self.first, self.last = self.rows[0], self.rows[1], self.rows[stages]
        self.y.copy_(start)
        self.new = torch.empty_like(start)
        self.error = torch.empty_like(start)
        # Rows of the coefficient matrix: stage points x_1 .. x_S, new y, error; columns: y, k_1 .. k_S.
        moves = torch.zeros(stages + 2, 1 + stages, dtype=torch.float64)
        for j, row in enumerate(tableau.a):
            moves[j, 1 : 1 + j] = torch.tensor([float(q) for q in row], dtype=moves.dtype)
        moves[stages, 1:] = torch.tensor([float(w) for w in tableau.b], dtype=moves.dtype)
        if tableau.b_embedded is not None:
            difference = [w - v for w, v in zip(tableau.b, tableau.b_embedded, strict=True)]
            moves[stages + 1, 1:] = torch.tensor([float(w) for w in difference], dtype=moves.dtype)
        stays = torch.zeros_like(moves)
        stays[:-1, 0] = 1
        self.moves, self.stays = moves.to(start), stays.to(start)
        self.coefficients = start.new_empty(n_tasks, stages + 2, 1 + stages)
        by_task = self.rows.transpose(0, 1)
        # The views of all stages are made here once: at these sizes making a view costs as much as a product.
        self._stages = [
            (self.coefficients[:, j : j + 1, : 1 + j], by_task[:, : 1 + j], self.rows[1 + j]) for j in range(1, stages)
        ]
        self._new = (self.coefficients[:, stages : stages + 1], by_task)
        self._error = (self.coefficients[:, stages + 1 :], by_task)
        self._points, self._errors = self.new[:, None], self.error[:, None]
        self._first_is_known = False
        self.evaluations = 0

    def resize(self, sizes: Float[Tensor, " tasks"]) -> None:
        """Set the step size of every task."""
        torch.addcmul(self.stays, sizes.to(self.moves.dtype)[:, None, None], self.moves, out=self.coefficients)

    def attempt(self) -> None:
        """Compute the stages and the new y."""
        if not self._first_is_known:
            self.slope(self.y, self.first)
            self._first_is_known = True
            self.evaluations += 1
        for coefficients, rows, stage in self._stages:
            torch.bmm(coefficients, rows, out=self._points)
            self.slope(self.new, stage)
        self.evaluations += len(self._stages)
        if not self.tableau.first_same_as_last:  # else the last stage point is the new y already
            torch.bmm(*self._new, out=self._points)

    def estimate(self) -> Float[Tensor, "tasks numbers"]:
        """Return the embedded error estimate of the attempted step."""
        torch.bmm(*self._error, out=self._errors)
        return self.error

    def accept(self) -> None:
        """Move all tasks to the new y."""
        self.y.copy_(self.new)
        self._first_is_known = self.tableau.first_same_as_last
        if self._first_is_known:
            self.first.copy_(self.last)

    def accept_where(self, accepted: Bool[Tensor, " tasks"]) -> None:
        """Move only the tasks whose step was accepted (needs a tableau whose last stage is the next first)."""
        torch.where(accepted[:, None], self.new, self.y, out=self.y)
        torch.where(accepted[:, None], self.last, self.first, out=self.first)


def integrate(
    slope: Slope,
    start: Float[Tensor, "tasks numbers"],
    solver: Solver,
    *,
    record: str = "all",
    tolerance: Float[Tensor, "tasks #controlled"] | None = None,
    first_step: Float[Tensor, " tasks"] | None = None,
) -> Path:
    """Integrate dy/dtau = slope(y) from tau = 0 to 1.

    Args:
        slope: writes the derivative.
        start: y at tau = 0.
        solver: fixed or adaptive steps.
        record: "all" states before each step, "sqrt" of them (about the square root of their number), or "none".
        tolerance: absolute tolerance of the leading `controlled` numbers of y, those that adaptive steps watch;
            default: `solver.atol` for all.
        first_step: first adaptive step size of each task.

    Raises:
        RuntimeError: if adaptive steps give up (`max_steps`).
    """
    stepper = Stepper(slope, start, solver.tableau)
    trajectory = Trajectory(start, record, solver.steps if isinstance(solver, FixedSteps) else 16)
    if isinstance(solver, FixedSteps):
        size = start.new_full((1, 1), 1 / solver.steps, dtype=torch.float64)
        sizes = size.expand(solver.steps, len(start))
        stepper.resize(sizes[0])
        for _ in range(solver.steps):
            trajectory.append(stepper.y)
            stepper.attempt()
            stepper.accept()
    else:
        sizes = _adapt(stepper, solver, trajectory, tolerance, first_step)
    return Path(stepper.y.clone(), sizes, trajectory.states(), trajectory.stride, stepper.evaluations)


SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
"""Limits on how a step size changes (Hairer, Norsett, Wanner, Solving ODEs I, section II.4)."""
DAMPING = 0.04
"""Weight of the previous error in the step size: calms the rejections where stability bounds the step (ibid., IV.2)."""


def _adapt(
    stepper: Stepper,
    solver: Adaptive,
    trajectory: Trajectory,
    tolerance: Float[Tensor, "tasks #controlled"] | None,
    first_step: Float[Tensor, " tasks"] | None,
) -> Float[Tensor, "steps tasks"]:
    """Step to tau = 1 with a step size per task; return the accepted sizes."""
    y = stepper.y
    atol = y.new_full((1, 1), solver.atol) if tolerance is None else tolerance
    watched = slice(0, y.shape[1] if tolerance is None else tolerance.shape[1])
    tau = y.new_zeros(len(y), dtype=torch.float64)
    size = torch.full_like(tau, 1e-2) if first_step is None else first_step.to(tau)
    previous = torch.full_like(tau, 1e-4)
    exponent = 1 / (solver.tableau.embedded_order + 1) - 0.75 * DAMPING
    sizes = []
    for _ in range(solver.max_steps):
        left = 1 - tau
        is_last = size * (1 + 1e-6) >= left  # no sliver of a step at the end
        size = torch.where(is_last, left, size)
        stepper.resize(size)
        stepper.attempt()
        largest = torch.maximum(y[:, watched].abs(), stepper.new[:, watched].abs())
        scaled = stepper.estimate()[:, watched] / torch.add(atol, largest, alpha=solver.rtol)
        error = scaled.square_().mean(1).sqrt_().to(tau.dtype).nan_to_num_(nan=torch.inf)
        accepted = error <= 1
        if accepted.any():
            trajectory.append(y)
            sizes.append(torch.where(accepted, size, 0))
            stepper.accept_where(accepted)
            tau = torch.where(accepted, torch.where(is_last, 1, tau + size), tau)
            if (tau == 1).all():
                return torch.stack(sizes)
        error = error.clamp_(min=1e-10)
        factor = SAFETY * error**-exponent * previous**DAMPING
        size = size * torch.where(accepted, factor.clamp(SHRINK, GROW), factor.clamp(SHRINK, 1))
        previous = torch.where(accepted, error.clamp(min=1e-4), previous)
    raise RuntimeError(
        f"max_steps={solver.max_steps}: the flow is at {float(tau.min()):.3g} of its horizon; shorten the horizon, "
        f"scale the features down, loosen rtol={solver.rtol}, or raise max_steps"
    )


def replay(
    slope: Slope, start: Float[Tensor, "tasks numbers"], sizes: Float[Tensor, "steps tasks"], tableau: Tableau
) -> Float[Tensor, "steps tasks numbers"]:
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
