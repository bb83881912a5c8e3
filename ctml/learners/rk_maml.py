"""RK-MAML: the outer step of MAML as a step of a Runge-Kutta method (Im, Jiang, Verma 2019).

    k_1 = grad L_S(theta),   theta^(j) = theta - s sum_{l<j} q_jl k_l,   k_j = grad L_S(theta^(j))
    F(theta) = E sum_j a_j L_Q(theta^(j)),   theta <- theta - h d,   d = grad F

The stages move on the support loss, the weights act on the query loss. With two stages, a_1 weights the unadapted and
a_2 = 1 - a_1 the adapted loss: a_2 = 1 is one-step MAML, a_1 = 1 joint training.

    the paper's letter   here (Butcher's)        what it is
    a                    tableau.b               weights of the stages
    q                    tableau.a               how far a stage moves along earlier gradients
    h                    step, or the optimiser  outer step size
    alpha = q_21 s       inner_lr                inner step size: where the second stage stands

Two orders of the same method:
    first    V1: the k_l count as constants, d = E sum_j a_j grad L_Q(theta^(j)); at a_2 = 1 FO-MAML
    second   V2: differentiate through the k_l; at a_2 = 1 MAML
Tied: s = h, the Runge-Kutta method as it stands (give `step`). Untied: alpha is free of h (give `inner_lr`).

The paper itself could not be read when this was written, only its abstract: the algorithm is derived from it, and which
order the authors ran is not known.
"""

from fractions import Fraction
from itertools import pairwise
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.checks import at_least, one_of, positive
from ctml.flows.tableaus import Tableau
from ctml.learners.gradient_learner import GradientLearner
from ctml.types import Examples, Loss, Model, Params, TaskBatch

RKOrder = Literal["second", "first"]
Stages = Literal["task", "mean"]


def chain(inner_steps: int, a2: float | Fraction = 1) -> Tableau:
    """Return K inner gradient steps as a tableau: every stage one Euler step after the last, weight a2 on the last.

    q_jl = 1 / (2 K a2) for all l < j,   a = (1 - a2, 0, ..., 0, a2)

    With a2 = 1 it is K-step MAML, with K = 1 the family `rk2(a2)`.

    Raises:
        ValueError: if there is no step, or a2 = 0.
    """
    at_least("inner_steps", inner_steps, 1)
    if a2 == 0:
        raise ValueError("a2=0: a chain without weight on its last stage is joint training; use EULER")
    a2 = Fraction(a2)
    q = 1 / (2 * inner_steps * a2)
    weights = (1 - a2, *[Fraction(0)] * (inner_steps - 1), a2)
    name = f"chain of {inner_steps}, a2 = {a2.limit_denominator(1000)}"
    return Tableau(name, tuple((q,) * j for j in range(inner_steps + 1)), weights, order=2)


class RKMAML(GradientLearner):
    """Meta-learn along the direction of a Runge-Kutta step; adapt by gradient steps of size inner_lr.

    >>> import ctml, torch
    >>> batch = ctml.tasks.Sinusoid().sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> from ctml.flows.tableaus import rk2
    >>> learner = ctml.RKMAML(network, ctml.mse, tableau=rk2(0.75), inner_lr=0.01)
    >>> losses = learner.meta_gradient(batch)
    >>> maml = ctml.MAML(network, ctml.mse, inner_lr=0.01)
    >>> unadapted, adapted = (maml.with_inner_steps(k).meta_loss(batch) for k in (0, 1))
    >>> torch.allclose(losses, 0.25 * unadapted + 0.75 * adapted)  # a_1 and a_2
    True

    Args:
        model, loss, tasks_at_once: see `Learner`.
        tableau: the Runge-Kutta method, such as `rk2(a2)`; its b is the paper's a, its a the paper's q.
        inner_lr: alpha, untied: the second stage stands at theta - alpha k_1, the others in the tableau's proportion.
        step: h, tied: s = h, so alpha = q_21 h; it must then also be the step of the outer gradient descent.
        order: "first" (V1) or "second" (V2).
        stages: "task", each task at its own stage points; "mean" moves all tasks along their mean gradient, which is
            the Runge-Kutta method for the flow of E L but adapts to no task (a control).
        inner_steps: gradient steps that `adapt` takes (meta-testing); the direction d does not depend on it.

    Raises:
        ValueError: an option out of its range; not exactly one of inner_lr and step; a tableau that has no alpha.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        tableau: Tableau,
        inner_lr: float | None = None,
        step: float | None = None,
        order: RKOrder = "second",
        stages: Stages = "task",
        inner_steps: int = 1,
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, tasks_at_once=tasks_at_once)
        at_least("inner_steps", inner_steps, 0)
        one_of("order", order, get_args(RKOrder))
        one_of("stages", stages, get_args(Stages))
        if stages == "mean" and tasks_at_once is not None:
            raise ValueError(f"tasks_at_once={tasks_at_once}: mean stages need the whole meta-batch; leave it None")
        if (inner_lr is None) == (step is None):
            raise ValueError(f"inner_lr={inner_lr}, step={step}: give one, inner_lr (untied) or step (tied)")
        q21 = tableau.a[1][0] if tableau.stages > 1 else None
        if q21 == 0 or (q21 is None and step is not None):
            raise ValueError(f"tableau={tableau.name!r} has no q_21 that would make step an inner rate; give inner_lr")
        if inner_lr is None:
            assert step is not None and q21 is not None, "refused above"
            positive("step", step)
            inner_lr = float(q21) * step
        positive("inner_lr", inner_lr)
        self.tableau, self.inner_lr, self.order, self.stages = tableau, inner_lr, order, stages
        self.inner_steps = inner_steps

    def adapt(self, support: Examples) -> Params:
        """Take gradient steps theta - alpha grad L_S(theta) for every task, whatever the tableau."""
        params = self.expanded(support)
        for _ in range(self.inner_steps):
            params = trees.axpy(-self.inner_lr, self.gradient(params, support), params)
        return params

    def stage_points(self, support: Examples) -> list[Params]:
        """Return theta^(1) .. theta^(stages), each with a leading task axis; the first is theta itself."""
        theta = self.expanded(support)
        points, slopes = [theta], []
        for last, row in pairwise(self.tableau.a):
            slope = self.gradient(points[-1], support)  # V1 takes the k_l for constants, V2 keeps their graph
            slopes.append(self._mean(slope) if self.stages == "mean" else slope)
            # A row that only goes on from the last one starts where that one ended: a chain is MAML's inner loop.
            goes_on = row[: len(last)] == last
            point = points[-1] if goes_on else theta
            for q, k in list(zip(row, slopes, strict=True))[len(last) if goes_on else 0 :]:
                if q:  # s q_jl = alpha q_jl / q_21: exactly alpha along the second stage, so a_2 = 1 is MAML bit by bit
                    point = trees.axpy(-self.inner_lr * float(q / self.tableau.a[1][0]), k, point)
            points.append(point)
        return points

    def meta_loss(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Return sum_j a_j L_Q(theta^(j)), one per task; its gradient is the direction d of either order."""
        return trees.sum_of(
            float(a) * self.loss(self.predict(point, batch.query.x, batch.support.x), batch.query.y)
            for a, point in zip(self.tableau.b, self.stage_points(batch.support), strict=True)
            if a
        )

    def _mean(self, slope: Params) -> Params:
        runs = getattr(self, "runs", 1)  # of a stacked learner: each run's tasks have a mean of their own

        def mean(k: Tensor) -> Tensor:
            by_run = k.unflatten(0, (runs, -1))
            return by_run.mean(1, keepdim=True).expand_as(by_run).flatten(0, 1)

        return {name: mean(k) for name, k in slope.items()}
