"""MAML: adapt all parameters by a few gradient steps, and differentiate through them (Finn, Abbeel, Levine 2017).

    theta_0 = theta,   theta_{k+1} = theta_k - alpha grad L_S(theta_k),   F(theta) = E L_Q(theta_K)
    grad F(theta) = E (I - alpha H_0) ... (I - alpha H_{K-1}) grad L_Q(theta_K),   H_k = hess L_S(theta_k)

Three orders of the same method:
    second        the exact product, by autograd through the steps
    first         H_k = 0 (FO-MAML); also called FOMAML
    hessian-free  H_k v by central differences of gradients (HF-MAML; Fallah, Mokhtari, Ozdaglar 2020)

A variant with another inner step overrides `inner_step` alone.
"""

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.checks import at_least, one_of, positive
from ctml.learners.gradient_learner import GradientLearner, Order
from ctml.rng import generator
from ctml.types import Examples, Loss, Model, Params, TaskBatch


class LostGraph(TypeError):
    """A learner of second order whose adaptation cannot be differentiated."""


class MAML(GradientLearner):
    """Meta-learn an initialisation from which gradient descent adapts.

    >>> import ctml
    >>> batch = ctml.tasks.Sinusoid().sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.MAML(network, ctml.mse, inner_lr=0.01, inner_steps=5)
    >>> adapted = learner.adapt(batch.support)
    >>> learner.predict(adapted, batch.query.x, batch.support.x).shape
    torch.Size([4, 10, 1])
    >>> losses = learner.meta_gradient(batch)  # fills .grad, then an optimiser steps
    >>> network.head.weight.grad.shape
    torch.Size([1, 40])

    Args:
        model, loss, tasks_at_once: see `Learner`.
        inner_lr: step size alpha of the inner loop.
        inner_steps: number K of inner steps; 0 is joint training.
        order: "second", "first" or "hessian-free".
        difference: length of the Hessian-free finite-difference step, relative to 1 + |theta|.

    Raises:
        ValueError: an option out of its range.
        LostGraph: from `meta_gradient`, if a subclass of order "second" adapts by steps that carry no derivative.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        inner_lr: float,
        inner_steps: int = 1,
        order: Order = "second",
        difference: float = 1e-3,
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, tasks_at_once=tasks_at_once)
        positive("inner_lr", inner_lr)
        at_least("inner_steps", inner_steps, 0)
        positive("difference", difference)
        one_of("order", order, get_args(Order))
        self.inner_lr, self.inner_steps, self.order, self.difference = inner_lr, inner_steps, order, difference
        # What is written here is differentiable by construction; what a subclass writes is looked at once.
        self._graph_is_sure = type(self).adapt is MAML.adapt and type(self).inner_step is MAML.inner_step

    def inner_step(self, params: Params, embedded: Examples, step: int) -> Params:
        """Take one step theta - alpha grad L_S(theta) for every task; `step` counts from 0."""
        return trees.axpy(-self.inner_lr, self.gradient(params, embedded), params)

    def adapt(self, support: Examples) -> Params:
        """Take `inner_steps` gradient steps on the support loss from the shared parameters."""
        embedded = Examples(self.embed(support.x), support.y)
        params = self.expanded(support)
        for step in range(self.inner_steps):
            params = self.inner_step(params, embedded, step)
        return params

    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add the part's meta-gradients, of the chosen order; return the tasks' query losses."""
        if self.order == "hessian-free":
            return self._add_hessian_free(part, weight)
        if self.order == "second" and self.inner_steps and not self._graph_is_sure:
            self._refuse_lost_graph(part.support)
            self._graph_is_sure = True
        return super().add_meta_gradient(part, weight)

    @torch.no_grad()
    def _add_hessian_free(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        path = [self.expanded(part.support)]
        for step in range(self.inner_steps):
            path.append(self.inner_step(path[-1], part.support, step))
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in path[-1].items()}
            losses = self.loss(self.predict(leaves, part.query.x, part.support.x), part.query.y)
            v = dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))
        for params in reversed(path[:-1]):  # v <- (I - alpha H_k) v
            v = trees.axpy(-self.inner_lr, self.hessian_vector_product(params, part.support, v), v)
        self.accumulate(v, weight)
        return losses.detach()

    def hessian_vector_product(self, params: Params, support: Examples, v: Params) -> Params:
        """Return H v ~ (grad L_S(theta + r v) - grad L_S(theta - r v)) / 2r, r = difference (1 + |theta|) / |v|."""
        length = trees.norm(v, batched=True).clamp_min(torch.finfo(torch.float64).tiny)
        # The step must be resolvable in the working precision: it is measured against the parameters' own size.
        r = self.difference * (1 + trees.norm(params, batched=True)) / length

        def along(sign: float) -> Params:
            return {k: params[k] + sign * _per_task(r, v[k]) * v[k] for k in v}

        ahead, behind = self.gradient(along(1.0), support), self.gradient(along(-1.0), support)
        return {k: (ahead[k] - behind[k]) / _per_task(2 * r, v[k]) for k in v}

    def _refuse_lost_graph(self, support: Examples) -> None:
        """Pull a vector v back through the first task's adaptation: steps without derivative return v itself."""
        with torch.enable_grad():
            adapted, theta = self.adapt(support), self.shared()
        moved = {k: t for k, t in adapted.items() if k in theta and t.requires_grad}
        stream = generator(0, "does adaptation keep its graph")
        v = {k: torch.zeros_like(t) for k, t in moved.items()}
        for t in v.values():
            t[0] = torch.randn(t[0].shape, generator=stream, dtype=t.dtype).to(t.device)
        leaves = [theta[k] for k in moved]
        pulled = torch.autograd.grad(list(moved.values()), leaves, list(v.values()), allow_unused=True) if moved else ()
        if all(p is None or torch.equal(p, v[k][0].view_as(p)) for k, p in zip(moved, pulled, strict=True)):
            raise LostGraph(
                f"{type(self).__name__} has order='second', but no derivative passes through the steps of its adapt: "
                "its meta-gradient would be first-order. Take gradients by self.gradient, which keeps the graph where "
                "the order is second, or override inner_step alone; or say order='first'"
            )


def _per_task(scalar: Float[Tensor, " tasks"], like: Tensor) -> Tensor:
    return scalar.view(-1, *[1] * (like.dim() - 1))
