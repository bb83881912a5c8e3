r"""The exact discrete adjoint of the steps taken: ours, and the default.

Forward keeps sigma_n before each step. Backward never integrates backwards: it transposes each step where it was taken,

    v_j = h (b_j lambda + sum_{l>j} a_lj u_l)      cotangent of k_j          x_j = sigma_n + h sum_{l<j} a_jl k_l
    q_j = dlink(L_0 - H x_j) v_j                   cotangent of the logits   lambda = dLoss / d sigma_{n+1}
    u_j = -H^T q_j                                 cotangent of x_j
    lambda <- lambda + sum_j u_j                   dLoss / d sigma_n

and sums dL_0 = sum q_j, dH = -sum q_j x_j^T over all stages and steps. So the result is the derivative of the very numbers
that forward returned: it is as accurate as they are and as stable as the flow, which contracts (design note: textbook
adjoints recompute the state backwards, where the flow expands; see `backward_flow`). With adaptive steps each h_n is the
accepted fraction of the horizon, held fixed: the derivative in T is the one of all steps stretching with T. It differs
from the flow's own derivative, <dLoss/ds(T), ds/dt(T)>, by no more than the solver's error.

Cost: O(M^2 N) a stage, against O(M^3 N^2) forward in time. Memory: M N numbers a step; with checkpoints about twice the
square root of the steps, for one more forward pass.

Speed: given the states, the stages of many steps are recomputed side by side, and their contributions to dL_0 and dH are
summed in a few large products; what is left to do step by step is v_j, q_j, u_j, three operations a stage.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctml.flows.gradient_flow.integrate import Solver, replay
from ctml.flows.gradient_flow.links import Link
from ctml.flows.gradient_flow.reduced import ReducedFlow
from ctml.flows.tableaus import Tableau

STAGES_AT_ONCE = 192
"""Stages recomputed side by side; bounds the workspace at three times as many states."""


class DiscreteAdjoint(torch.autograd.Function):
    """sigma(1) as a function of L_0 and H (both transposed, as in `ReducedFlow`)."""

    @staticmethod
    def forward(ctx, logits, matrix, targets, scale, link: Link, solver: Solver, checkpoints: bool):
        """Run the flow; keep the states that the backward pass will need."""
        flow = ReducedFlow(logits, matrix, targets, scale, link)
        needs_gradient = any(ctx.needs_input_grad)
        path = flow.solve(solver, record=("sqrt" if checkpoints else "all") if needs_gradient else "none")
        if needs_gradient:
            ctx.save_for_backward(logits, matrix, targets, scale, path.states, path.sizes)
            ctx.link, ctx.tableau, ctx.stride = link, solver.tableau, path.stride
        return path.final.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        """Transpose the steps, last first."""
        logits, matrix, targets, scale, states, sizes = ctx.saved_tensors
        flow = ReducedFlow(logits, matrix, targets, scale, ctx.link)
        d_logits, d_matrix = torch.zeros_like(logits), torch.zeros_like(matrix)
        for some_states, some_sizes in _last_first(flow, ctx.tableau, states, sizes, ctx.stride):
            cotangent = transpose_steps(flow, ctx.tableau, some_states, some_sizes, cotangent, d_logits, d_matrix)
        return d_logits, d_matrix, None, None, None, None, None


def _last_first(
    flow: ReducedFlow,
    tableau: Tableau,
    states: Float[Tensor, "kept tasks numbers"],
    sizes: Float[Tensor, "steps tasks"],
    stride: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the steps in groups, last group first: states before the steps and step sizes."""
    at_once = max(1, STAGES_AT_ONCE // tableau.stages)
    # Recorded states are one segment; between checkpoints each segment is run again from its checkpoint.
    length = stride if stride > 1 else len(sizes)
    for begin in reversed(range(0, len(sizes), length)):
        segment_sizes = sizes[begin : begin + length]
        segment = states if stride == 1 else replay(flow.slope, states[begin // stride], segment_sizes, tableau)
        for first in reversed(range(0, len(segment), at_once)):
            yield segment[first : first + at_once], segment_sizes[first : first + at_once]


def transpose_steps(
    flow: ReducedFlow,
    tableau: Tableau,
    states: Float[Tensor, "steps tasks numbers"],
    sizes: Float[Tensor, "steps tasks"],
    cotangent: Float[Tensor, "tasks ways support"],
    d_logits: Float[Tensor, "tasks ways support"],
    d_matrix: Float[Tensor, "tasks support support"],
) -> Float[Tensor, "tasks ways support"]:
    """Carry a cotangent back over consecutive steps; add their part of dL_0 and dH to `d_logits` and `d_matrix`."""
    n_tasks, ways, support = flow.logits.shape
    points, predicted = stages_of(flow, tableau, states, sizes)
    stages = points.shape[1]
    # Stage by stage and step by step from here on, so those axes lead.
    predicted = predicted.permute(1, 2, 0, 3, 4).contiguous()
    pulled = torch.empty_like(predicted)  # q_j
    rows = predicted.new_empty(1 + stages, n_tasks, ways * support)  # lambda, u_S, ..., u_1
    rows[0].copy_(cotangent.flatten(1))
    weights = torch.zeros(stages, 1 + stages, dtype=torch.float64)  # of stage j on the rows above it
    for j in range(stages):
        weights[j, 0] = float(tableau.b[j])
        for later in range(j + 1, stages):
            weights[j, stages - later] = float(tableau.a[later][j])
    weights = sizes.to(rows.dtype)[:, :, None, None] * weights.to(rows)
    by_task = rows.transpose(0, 1)
    matrix = flow.matrix.transpose(1, 2).neg()
    v = torch.empty_like(cotangent, memory_format=torch.contiguous_format)
    plan = [(j, by_task[:, : stages - j], rows[stages - j].view_as(v)) for j in reversed(range(stages))]
    flat_v = v.view(n_tasks, 1, -1)
    for n in reversed(range(len(states))):
        for j, known, moved in plan:
            torch.bmm(weights[n, :, j : j + 1, : stages - j], known, out=flat_v)
            q = pulled[j, n]
            flow.link.pull_back(v, predicted[j, n], out=q)
            torch.bmm(q, matrix, out=moved)
        rows[0] += rows[1:].sum(0)
    pulled = pulled.permute(2, 0, 1, 3, 4)
    d_logits += pulled.sum((1, 2))
    d_matrix.baddbmm_(
        points.reshape(n_tasks, -1, support).transpose(1, 2), pulled.reshape(n_tasks, -1, support), alpha=-1
    )
    return rows[0].view_as(v)


def stages_of(
    flow: ReducedFlow,
    tableau: Tableau,
    states: Float[Tensor, "steps tasks numbers"],
    sizes: Float[Tensor, "steps tasks"],
) -> tuple[Float[Tensor, "tasks stages steps ways support"], Float[Tensor, "tasks stages steps ways support"]]:
    """Recompute the stage points x_j and the predictions there, for all steps side by side.

    A last stage at the new point has weight zero in its own step and is left out.
    """
    stages = tableau.stages - tableau.first_same_as_last
    n_tasks, ways, support = flow.logits.shape
    start = states.transpose(0, 1).unflatten(2, (ways, support)).contiguous()
    h = sizes.to(start.dtype).t()[:, :, None, None]
    points = start.new_empty(n_tasks, stages, *start.shape[1:])
    predicted = torch.empty_like(points)
    for j, (row, c) in enumerate(zip(tableau.a[:stages], tableau.c, strict=False)):
        if j == 0:
            points[:, 0] = start
        else:
            a = torch.tensor([[float(q) for q in row]], dtype=start.dtype, device=start.device)
            move = a.expand(n_tasks, 1, j) @ predicted[:, :j].flatten(2)
            move = move.view_as(start) - float(c) * flow.targets[:, None]
            torch.addcmul(start, h, move, out=points[:, j])
        shifted = points[:, j].reshape(n_tasks, -1, support) @ flow.matrix
        predicted[:, j] = flow.link.predict(flow.logits[:, None] - shifted.view_as(start))
    return points, predicted
