"""What is and what is not second order about MAML: the RK-MAML directions as integrators of a gradient flow.

    w_{n+1} = w_n - h d(w_n)      against      dw/dt = -grad E L(w)      at a fixed time

All facts here (R1 .. R7) are derived, not the paper's; letters as in `ctml.learners.rk_maml` (a: weights, q: stages).
g = grad L_i, H = hess L_i, bars are means over tasks. Tasks are functions of w alone, support = query.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.checks import at_least, positive
from ctml.flows.maml_field import Field, gradients, hessian_vector_products, joint_field, learner_field
from ctml.flows.maml_flow import flow
from ctml.flows.tableaus import Tableau, rk2
from ctml.learners.rk_maml import RKMAML
from ctml.tasks.analytic import TaskLosses, expand
from ctml.tasks.quadratic import Quadratic
from ctml.types import Examples, TaskBatch


class Point(nn.Module):
    """A model that is its own output: with it any learner runs on tasks that are functions of w alone."""

    def __init__(self, w: Float[Tensor, " d"]):
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x: Float[Tensor, "tasks n inputs"], context: Tensor | None = None) -> Float[Tensor, "tasks d"]:
        return self.w.expand(len(x), -1)


def as_batch(tasks: TaskLosses) -> TaskBatch:
    """Return the meta-batch that stands for `tasks`: no inputs and no targets, one row a task."""
    nothing = Examples(torch.empty(tasks.n_tasks, 0, 1), torch.empty(tasks.n_tasks, 0, 1))
    return TaskBatch(nothing, nothing)


def direction(tasks: TaskLosses, like: Float[Tensor, " d"], **options) -> Field:
    """Return w -> -d(w) of the learner `RKMAML(..., **options)`, at points shaped like `like`."""
    learner = RKMAML(Point(like), lambda w, _: tasks.query(w), **options)
    return learner_field(learner, as_batch(tasks))


def descend(field: Field, w0: Float[Tensor, " d"], step: float, steps: int) -> Float[Tensor, " d"]:
    """Take `steps` steps w <- w + h field(w)."""
    at_least("steps", steps, 1)
    w = w0
    for _ in range(steps):
        w = w + step * field(w)
    return w


def walk(
    tasks: TaskLosses,
    w0: Float[Tensor, " d"],
    tableau: Tableau,
    step: float,
    steps: int,
    *,
    inner_lr: float | None = None,
    order: str = "first",
) -> Float[Tensor, " d"]:
    """Take `steps` steps of size h = `step` along `RKMAML`'s direction; alpha is q_21 h unless `inner_lr` says it."""
    tied = {"step": step} if inner_lr is None else {"inner_lr": inner_lr}
    return descend(direction(tasks, w0, tableau=tableau, order=order, **tied), w0, step, steps)


def errors(
    tasks: TaskLosses,
    w0: Float[Tensor, " d"],
    horizon: float,
    numbers: Sequence[int],
    tableau: Tableau,
    *,
    rate: float | None = None,
    order: str = "first",
    stages: str = "task",
    modified: bool = False,
) -> Float[Tensor, " numbers"]:
    """Return |w_n - w(T)| after n steps of size h = T/n, for each n of `numbers`.

    Args:
        tasks, w0, horizon: what flows, from where, until which T.
        tableau: the method; its weights also decide which stages count.
        rate: alpha / h if it is not the tableau's q_21 (this is how the order gets lost).
        order, stages: see `RKMAML`.
        modified: compare with the flow of `modified_loss` at the same h instead of that of the mean loss.
    """
    positive("horizon", horizon)
    times = torch.tensor([0.0, horizon], dtype=w0.dtype)
    target = flow(joint_field(tasks), w0, times, rtol=1e-12, atol=1e-13)[-1]
    found = []
    for n in numbers:
        h = horizon / n
        q21 = rate if rate is not None else float(tableau.a[1][0]) if tableau.stages > 1 else 1.0
        field = direction(tasks, w0, tableau=tableau, inner_lr=q21 * h, order=order, stages=stages)
        if modified:
            target = flow(modified_field(tasks, h), w0, times, rtol=1e-11, atol=1e-12)[-1]
        found.append((descend(field, w0, h, n) - target).norm())
    return torch.stack(found)


def halving_slopes(errors: Float[Tensor, " n"]) -> Float[Tensor, " n-1"]:
    """Return log2 e_n / e_2n of errors at n, 2n, 4n, ...: the order, seen at each halving of the step."""
    return (errors[:-1] / errors[1:]).log2()


def convergence(
    tasks: TaskLosses, w0: Float[Tensor, " d"], horizon: float, finest: int, tableau: Tableau, **options
) -> list[dict[str, float]]:
    """Return h, |w_n - w(T)| and the order seen while the step halves from T/4 to T/finest, one row a step.

    Args:
        tasks, w0, horizon, tableau, options: as in `errors`.
        finest: most steps, at least 4; powers of 2 count.
    """
    at_least("finest", finest, 4)
    numbers = [2**k for k in range(2, int(finest).bit_length())]
    found = errors(tasks, w0, horizon, numbers, tableau, **options)
    orders = [float("nan"), *halving_slopes(found).tolist()]  # each stands in the row of the smaller step
    rows = zip(numbers, found, orders, strict=True)
    return [{"h": horizon / n, "error": float(error), "slope": slope} for n, error, slope in rows]


def task_gradient_variance(losses: TaskLosses, w: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Return tr Cov_i(grad L_i(w)) = E|g|^2 - |E g|^2, differentiable in w: how far the tasks disagree."""
    points = expand(w, losses.n_tasks)
    (g,) = torch.autograd.grad(losses.query(points).sum(), points, create_graph=True)
    return (g - g.mean(-2, keepdim=True)).square().sum(-1).mean(-1)


def modified_loss(losses: TaskLosses, step: float, w: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Return E L(w) - (h/4) tr Cov_i(grad L_i(w)), whose gradient flow a tied first-order step follows to order 2 (R4).

    Every a2 has the same h^2 term: stages that differ by task reward disagreement of the tasks' gradients.
    """
    return losses.query(expand(w, losses.n_tasks)).mean() - step / 4 * task_gradient_variance(losses, w)


def modified_field(losses: TaskLosses, step: float) -> Field:
    """Make the field -grad of `modified_loss`, for one point at a time."""

    def field(w: Tensor) -> Tensor:
        with torch.enable_grad():
            w = w.detach().requires_grad_()
            return -torch.autograd.grad(modified_loss(losses, step, w), w)[0]

    return field


def flows(
    losses: TaskLosses, w0: Float[Tensor, " d"], times: Float[Tensor, " t"], step: float
) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t d"]]:
    """Return the paths from w0 of the flow of the mean loss and of that of `modified_loss`."""
    return flow(joint_field(losses), w0, times), flow(modified_field(losses, step), w0, times)


def local_error(
    slope: Float[Tensor, ""], curvature: Float[Tensor, ""], third: Float[Tensor, ""], q: float, step: float
) -> Float[Tensor, ""]:
    """Return the leading term of w(h) - w_1 for one task on the line, a2 = 1/(2q) (R1).

    -h^3 [L''^2 L' / 6 + (1/6 - q/4) L''' L'^2]

    The second term vanishes at q = 2/3, a2 = 3/4: Ralston's choice.

    Args:
        slope, curvature, third: L', L'' and L''' at the start.
    """
    return -(step**3) * (curvature**2 * slope / 6 + (1 / 6 - q / 4) * third * slope**2)


def error_on_cosh(w: Float[Tensor, ""], q: Float[Tensor, " n"], step: float) -> Float[Tensor, " n"]:
    """Return w(h) - w_1 on L = cosh for the members a2 = 1/(2q), whose flow is known: tanh(w(t)/2) = e^-t tanh(w/2).

    `local_error` is its leading term.
    """
    exact = 2 * torch.atanh(torch.tanh(w / 2) * torch.exp(w.new_tensor(-step)))
    a2 = 1 / (2 * q)
    return exact - (w - step * ((1 - a2) * torch.sinh(w) + a2 * torch.sinh(w - q * step * torch.sinh(w))))


def expanded_direction(
    losses: TaskLosses, w: Float[Tensor, " d"], a2_alpha: float, order: str = "first"
) -> Float[Tensor, " d"]:
    """Return d to first order in alpha: E g - a2 alpha E[H g], twice the second term through the adaptation (R6).

    a2 and alpha enter only by their product.
    """
    points = expand(w, losses.n_tasks)
    g = gradients(losses.query, points)
    _, hg = hessian_vector_products(losses.query, points, g)
    return (g - (2 if order == "second" else 1) * a2_alpha * hg).mean(-2)


def remainder(
    tasks: TaskLosses, w: Float[Tensor, " d"], a2: float, products: Float[Tensor, " n"], order: str = "first"
) -> Float[Tensor, " n"]:
    """Return |d - `expanded_direction`| for each a2 alpha of `products`: it falls like alpha^2 (R6)."""
    found = []
    for product in products.tolist():
        d = -direction(tasks, w, tableau=rk2(Fraction(a2)), inner_lr=product / a2, order=order)(w)
        found.append((d - expanded_direction(tasks, w, product, order)).norm())
    return torch.stack(found)


def amplification(tableau: Tableau, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return R(z), the factor of one step on L = lambda w^2 / 2 with z = h lambda (R5).

    R(z) = 1 + sum_k (-z)^k a' q^(k-1) 1        (all order-2 methods with two stages: 1 - z + z^2/2)
    """
    factor, tree = torch.ones_like(z), ()
    for k in range(1, tableau.stages + 1):
        factor = factor + float(tableau.elementary_weight(tree)) * (-z) ** k
        tree = (tree,)  # a branch without forks, one vertex longer
    return factor


def optimum(tasks: Quadratic, a2: float, alpha: float, order: str = "second") -> Float[Tensor, " d"]:
    """Return the point where d vanishes on quadratic tasks (R7).

    w* = (E[a1 H + a2 M])^-1 E[(a1 H + a2 M) c],   M = (I - alpha H) H (I - alpha H), first order: (I - alpha H) H

    It goes from the optimum of joint training (a2 = 0) to MAML's (a2 = 1).
    """
    h = tasks.hessian
    shrink = torch.eye(h.shape[-1], dtype=h.dtype) - alpha * h
    adapted = shrink @ h @ shrink if order == "second" else shrink @ h
    weights = (1 - a2) * h + a2 * adapted
    return torch.linalg.solve(weights.mean(0), (weights @ tasks.centre[..., None]).mean(0))[:, 0]


def chained_condition(inner_steps: int, rate: Fraction, weights: Sequence[Fraction]) -> Fraction:
    """Return what the order-3 condition sum_i a_i sum_j q_ij c_j = 1/6 misses by, for an Euler-chained inner loop (R3).

    With the other three conditions satisfied it is 1/6 - (1/6 - rate/4) = rate / 4 > 0, rate = alpha / h: no chained
    inner loop has order 3.

    Args:
        inner_steps: K, so there are K + 1 stages at c_j = j alpha / h.
        rate: alpha / h.
        weights: a_0 .. a_K.
    """
    if len(weights) != inner_steps + 1:
        raise ValueError(f"weights has {len(weights)} entries: {inner_steps} steps have {inner_steps + 1} stages")
    inner = [sum((rate * (rate * j) for j in range(i)), Fraction(0)) for i in range(inner_steps + 1)]
    return Fraction(1, 6) - sum((a * x for a, x in zip(weights, inner, strict=True)), Fraction(0))


def gradient_units(tableau: Tableau, order: str) -> int:
    """Return the cost of d per task in gradients: one per k_l and per query gradient, two more per k_l at second order.

    A Hessian-vector product counts two gradients, by differences too. MAML with K steps is `chain(K)`: K + 1 at first
    order, 3K + 1 at second; joint training is EULER: 1.
    """
    slopes = tableau.stages - 1
    queries = sum(a != 0 for a in tableau.b)
    return queries + slopes * (1 if order == "first" else 3)
