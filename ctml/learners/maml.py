"""MAML: adapt all parameters by a few gradient steps, and differentiate through them (Finn, Abbeel, Levine 2017).

    theta_0 = theta,   theta_{k+1} = theta_k - alpha grad L_S(theta_k),   F(theta) = E L_Q(theta_K)
    grad F(theta) = E (I - alpha H_0) ... (I - alpha H_{K-1}) grad L_Q(theta_K),   H_k = hess L_S(theta_k)

Three orders of the same method:
    second        the exact product, by autograd through the steps
    first         H_k = 0 (FO-MAML); also called FOMAML
    hessian-free  H_k v by central differences of gradients (HF-MAML; Fallah, Mokhtari, Ozdaglar 2020)

Differences see what autograd does not: where a kink of a ReLU or of max pooling lies between the two ends, the gradient
jumps there, and jump / distance is as large as one likes. In a network of many units there is always one near. A
difference is therefore of use where it is short enough to meet none and long enough for its two gradients to differ in
the digits that there are. Without a `difference` given, that is looked for at every step, task by task: begin with
sqrt(eps) of the precision and go to a tenth until the halves before and behind theta agree,

    alpha |grad(theta + r v) - 2 grad(theta) + grad(theta - r v)| / 2r  <=  |v| / 100,

which bounds the error of a smooth loss, of kinks and of rounding alike. In float64 this is as good as exact on networks
with ReLU and convolutions; in float32 it leaves about a percent there; where it finds no such length it refuses.

A variant with another inner step overrides `inner_step` alone.
"""

from typing import get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ctml import trees
from ctml.checks import at_least, one_of, positive
from ctml.learners.gradient_learner import GradientLearner, Order
from ctml.rng import generator
from ctml.types import Examples, Loss, Model, Params, TaskBatch


class LostGraph(TypeError):
    """A learner of second order whose adaptation cannot be differentiated."""


class NoDifference(ArithmeticError):
    """A loss whose curvature along a vector no difference of gradients tells in the precision at hand."""


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
        difference: length of the Hessian-free finite-difference step, relative to 1 + |theta|; None chooses it at every
            step for every task, for two more gradients where kinks are near.

    Raises:
        ValueError: an option out of its range.
        TypeError: from `meta_gradient`, if a subclass of order "hessian-free" adapts by other steps than these.
        NoDifference: from `meta_gradient`, if no difference tells the curvature.
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
        difference: float | None = None,
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, tasks_at_once=tasks_at_once)
        positive("inner_lr", inner_lr)
        at_least("inner_steps", inner_steps, 0)
        if difference is not None:
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
        if type(self).adapt is not MAML.adapt or type(self).inner_step is not MAML.inner_step:
            raise TypeError(
                f"{type(self).__name__} has order='hessian-free' and steps of its own, and differences follow back "
                "only plain gradient steps: say order='second' or 'first'"
            )
        params, path = self.expanded(part.support), []
        for _ in range(self.inner_steps):
            path.append((params, self.gradient(params, part.support)))
            params = trees.axpy(-self.inner_lr, path[-1][1], params)
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
            losses = self.loss(self.predict(leaves, part.query.x, part.support.x), part.query.y)
            v = dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))
        for params, gradient in reversed(path):  # v <- (I - alpha H_k) v
            v = trees.axpy(-self.inner_lr, self.hessian_vector_product(params, gradient, part.support, v), v)
        self.accumulate(v, weight)
        return losses.detach()

    def hessian_vector_product(self, params: Params, gradient: Params, support: Examples, v: Params) -> Params:
        """Return H v ~ (grad L_S(theta + r v) - grad L_S(theta - r v)) / 2r, r = difference (1 + |theta|) / |v|.

        Args:
            gradient: grad L_S(theta), against which a difference that is not given is judged.

        Raises:
            NoDifference: when none is given and none is found.
        """
        length = trees.norm(v, batched=True)
        length = length.clamp_min(torch.finfo(length.dtype).tiny)  # where v = 0 so is H v
        # The step must be resolvable in the working precision: it is measured against the parameters' own size.
        unit = (1 + trees.norm(params, batched=True)) / length
        if self.difference is not None:
            return self._difference(params, gradient, support, v, self.difference * unit)[0]
        longest = torch.finfo(length.dtype).eps ** 0.5
        product, off = self._difference(params, gradient, support, v, longest * unit)
        for shorter in (longest / 10, longest / 100, longest / 1000):
            if bool((off <= 0.01 * length).all()):
                break
            other, other_off = self._difference(params, gradient, support, v, shorter * unit)
            better = other_off < off
            product = {k: torch.where(_per_task(better, t), other[k], t) for k, t in product.items()}
            off = torch.where(better, other_off, off)
        if bool((off > 0.5 * length).any()):
            worst = int((off / length).argmax())
            raise NoDifference(
                f"order='hessian-free': task {worst} of {len(off)} has kinks nearer to its parameters than differences "
                f"of {next(iter(v.values())).dtype} resolve: gradients before and behind disagree by "
                f"{float(off[worst] / length[worst]):.0%} of the vector. Take order='second', float64, or a smaller "
                f"inner_lr than {self.inner_lr}"
            )
        return product

    def _difference(
        self, params: Params, gradient: Params, support: Examples, v: Params, r: Float[Tensor, " tasks"]
    ) -> tuple[Params, Float[Tensor, " tasks"]]:
        """Return the central difference, and how far alpha times it is off if the two halves are to be believed."""

        def along(sign: float) -> Params:
            return self.gradient({k: params[k] + sign * _per_task(r, v[k]) * v[k] for k in v}, support)

        ahead, behind = along(1.0), along(-1.0)
        bend = trees.norm({k: ahead[k] - 2 * gradient[k] + behind[k] for k in v}, batched=True)
        return {k: (ahead[k] - behind[k]) / _per_task(2 * r, v[k]) for k in v}, self.inner_lr * bend / (2 * r)

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


def _per_task(scalar: Shaped[Tensor, " tasks"], like: Tensor) -> Tensor:
    return scalar.view(-1, *[1] * (like.dim() - 1))
