r"""The exact discrete adjoint of the steps taken: ours, and the default.

Forward keeps sigma_n before each step. Backward never integrates backwards: it transposes each step where it was taken,

    v_j = h (b_j lambda + sum_{l>j} a_lj u_l)      cotangent of k_j          x_j = sigma_n + h sum_{l<j} a_jl k_l
    q_j = dlink(L_0 - H x_j) v_j                   cotangent of the logits   lambda = dLoss / d sigma_{n+1}
    u_j = -H^T q_j                                 cotangent of x_j
    lambda <- lambda + sum_j u_j                   dLoss / d sigma_n

and sums dL_0 = sum q_j, dH = -sum q_j x_j^T, dY = -sum v_j over all stages and steps. So the result is the derivative
of the very numbers that forward returned: as accurate as they are, and as stable as the flow, which contracts (the
textbook adjoint recomputes the state backwards, where the flow expands; see `backward_flow`).

The derivative in T: each h_n is the accepted fraction of the horizon and is held fixed, so T stretches all steps alike.
At fixed steps this is exact (for Euler it is the derivative of ANIL in K alpha). At adaptive steps the fractions depend
on T too, through the controller and its jumps; what is returned differs from the flow's own derivative,
<dLoss/ds(T), ds/dt(T)>, by no more than the solver's error.

Cost: O(M^2 N) a stage, against O(M^3 N^2) forward in time. Memory: M N numbers a step; with checkpoints about twice the
square root of the steps, for one more forward pass.

Speed: given the states, the stages of many steps are recomputed side by side, and their contributions to dL_0 and dH
are summed in a few large products; what is left to do step by step is v_j, q_j, u_j, three operations a stage.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.flows.gradient_flow.coefficients import stage_rows, stages_in_step, transpose_matrix
from ctml.flows.gradient_flow.head_flow import HeadFlow
from ctml.flows.gradient_flow.integrate import Path, Steps
from ctml.flows.gradient_flow.reduced import ReducedFlow
from ctml.flows.gradient_flow.reverse import Cotangents, reverse_mode
from ctml.flows.gradient_flow.stepper import replay
from ctml.flows.tableaus import Tableau

STAGES_AT_ONCE = 192
"""Stages recomputed side by side; bounds the workspace at three times as many states."""


@dataclass(frozen=True)
class Adjoint:
    """The exact discrete adjoint of the steps taken.

    Args:
        checkpoints: keep about the square root of the states, run the rest again.
    """

    checkpoints: bool = False

    def through(self, flow: HeadFlow, steps: Steps) -> Float[Tensor, "tasks ways d"]:
        """Return W(T), differentiable in everything that the flow is given by."""
        return reverse_mode(flow, steps, "sqrt" if self.checkpoints else "all", discrete_adjoint)


def discrete_adjoint(
    flow: ReducedFlow, path: Path, steps: Steps, cotangent: Float[Tensor, "tasks ways support"], with_targets: bool
) -> Cotangents:
    """Return dLoss/dL_0, dLoss/dH and, if asked, dLoss/dY, given dLoss/dsigma(1) and the path."""
    d_targets = torch.zeros_like(flow.targets) if with_targets else None
    total = Cotangents(torch.zeros_like(flow.logits), torch.zeros_like(flow.matrix), d_targets)
    for states, sizes in _last_first(flow, path, steps.tableau):
        cotangent = transpose_steps(flow, steps.tableau, states, sizes, cotangent, total)
    return total


def _last_first(flow: ReducedFlow, path: Path, tableau: Tableau) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the steps in groups, last group first: states before the steps and step sizes."""
    at_once = max(1, STAGES_AT_ONCE // tableau.stages)
    kept = path.states
    assert kept is not None, "the adjoint needs a path that was recorded"
    # A full record is one segment; between checkpoints each segment is run again from its checkpoint.
    length = path.stride if path.stride > 1 else len(path.sizes)
    for begin in reversed(range(0, len(path.sizes), length)):
        sizes = path.sizes[begin : begin + length]
        states = replay(flow.slope, kept[begin // path.stride], sizes, tableau) if path.stride > 1 else kept
        for first in reversed(range(0, len(sizes), at_once)):
            yield states[first : first + at_once], sizes[first : first + at_once]


def transpose_steps(
    flow: ReducedFlow,
    tableau: Tableau,
    states: Float[Tensor, "steps tasks ways support"],
    sizes: Float[Tensor, "steps tasks"],
    cotangent: Float[Tensor, "tasks ways support"],
    total: Cotangents,
) -> Float[Tensor, "tasks ways support"]:
    """Carry a cotangent back over consecutive steps; add their part of dL_0, dH and dY to `total`."""
    n_tasks, _, support = flow.logits.shape
    points, predicted = stages_of(flow, tableau, states, sizes)
    stages = points.shape[1]
    # Stage by stage and step by step from here on, so those axes lead.
    predicted = predicted.permute(1, 2, 0, 3, 4).contiguous()
    pulled = torch.empty_like(predicted)  # q_j
    rows = predicted.new_empty(1 + stages, *cotangent.shape)  # lambda, u_S, ..., u_1
    rows[0].copy_(cotangent)
    by_task = rows.view(1 + stages, n_tasks, -1).transpose(0, 1)
    weights = sizes[:, :, None, None] * transpose_matrix(tableau, rows.dtype, rows.device)
    matrix = flow.matrix.mT.neg()
    v = rows.new_empty(cotangent.shape)
    flat_v = v.view(n_tasks, 1, -1)
    plan = [
        (
            weights[:, :, j : j + 1, : stages - j].unbind(0),
            by_task[:, : stages - j],
            predicted[j].unbind(0),
            pulled[j].unbind(0),
            rows[stages - j],
        )
        for j in reversed(range(stages))
    ]
    for n in reversed(range(len(states))):
        for weight, known, p, q, u in plan:
            torch.bmm(weight[n], known, out=flat_v)
            flow.link.pull_back(v, p[n], out=q[n])
            torch.bmm(q[n], matrix, out=u)
            if total.targets is not None:
                total.targets.sub_(v)
        rows[0] += rows[1:].sum(0)
    pulled = pulled.permute(2, 0, 1, 3, 4)
    total.logits.add_(pulled.sum((1, 2)))
    total.matrix.baddbmm_(
        points.reshape(n_tasks, -1, support).transpose(1, 2), pulled.reshape(n_tasks, -1, support), alpha=-1
    )
    return rows[0]


def stages_of(
    flow: ReducedFlow,
    tableau: Tableau,
    states: Float[Tensor, "steps tasks ways support"],
    sizes: Float[Tensor, "steps tasks"],
) -> tuple[Float[Tensor, "tasks stages steps ways support"], Float[Tensor, "tasks stages steps ways support"]]:
    """Recompute the stage points x_j and the predictions there, for all steps side by side.

    A last stage at the new point has weight zero in its own step and is left out.
    """
    stages = stages_in_step(tableau)
    n_tasks, _, support = flow.logits.shape
    start = states.transpose(0, 1).contiguous()
    h = sizes.t()[:, :, None, None]
    points = start.new_empty(n_tasks, stages, *start.shape[1:])
    predicted = torch.empty_like(points)
    for j, (a, c) in enumerate(stage_rows(tableau, start.dtype, start.device)):
        if j == 0:
            points[:, 0] = start
        else:
            move = a.expand(n_tasks, 1, j) @ predicted[:, :j].flatten(2)
            move = move.view_as(start) - c * flow.targets[:, None]
            torch.addcmul(start, h, move, out=points[:, j])
        shifted = points[:, j].reshape(n_tasks, -1, support) @ flow.matrix
        predicted[:, j] = flow.link.predict(flow.logits[:, None] - shifted.view_as(start))
    return points, predicted
