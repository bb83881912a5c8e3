r"""One explicit Runge-Kutta step of a batch of tasks, outside autograd.

    x_j = y + h sum_{l<j} a_jl k_l,    k_j = f(x_j),    y <- y + h sum_j b_j k_j

Every task has its own step size. A step size of zero leaves a task where it is: that is what a rejected step and a
finished task are, so a recorded path is a plain list of steps that replays and differentiates without special cases.

Speed: a stage is the combination above, one small product over the tasks, and the slope, written in place; there is no
autograd, no allocation and no Python loop over tasks.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ctml.flows.gradient_flow.coefficients import stages_in_step, step_matrix
from ctml.flows.tableaus import Tableau

Slope = Callable[[Tensor, Tensor], None]
"""slope(y, out) writes dy/dtau of `(tasks, ...)` into out."""


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
