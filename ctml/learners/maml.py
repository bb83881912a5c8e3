"""MAML: adapt all parameters by a few gradient steps, and differentiate through them (Finn, Abbeel, Levine 2017).

    theta_0 = theta,   theta_{k+1} = theta_k - alpha grad L_S(theta_k),   F(theta) = E L_Q(theta_K)
    grad F(theta) = E (I - alpha H_0) ... (I - alpha H_{K-1}) grad L_Q(theta_K),   H_k = hess L_S(theta_k)

Three orders of the same method:
    second        the exact product, by autograd through the steps
    first         H_k = 0 (FO-MAML); also called FOMAML
    hessian-free  H_k v by central differences of gradients (HF-MAML; Fallah, Mokhtari, Ozdaglar 2020)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml import trees
from ctml.checks import at_least, positive
from ctml.learners.base import Learner
from ctml.types import Examples, Loss, Params, TaskBatch

ORDERS = ("second", "first", "hessian-free")


class MAML(Learner):
    """Meta-learn an initialisation from which gradient descent adapts.

    Args:
        model, loss, tasks_at_once: see `Learner`.
        inner_lr: step size alpha of the inner loop.
        inner_steps: number K of inner steps; 0 is joint training.
        order: "second", "first" or "hessian-free".
        difference: length of the Hessian-free finite-difference step, relative to 1 + |theta|.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        inner_lr: float,
        inner_steps: int = 1,
        order: str = "second",
        difference: float = 1e-3,
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, tasks_at_once=tasks_at_once)
        positive("inner_lr", inner_lr)
        at_least("inner_steps", inner_steps, 0)
        positive("difference", difference)
        if order not in ORDERS:
            raise ValueError(f"order={order!r}: must be one of {', '.join(ORDERS)}")
        self.inner_lr, self.inner_steps, self.order, self.difference = inner_lr, inner_steps, order, difference

    def inner_step(self, params: Params, support: Examples) -> Params:
        """Take one step theta - alpha grad L_S(theta) for every task."""
        keep_graph = self.order == "second" and torch.is_grad_enabled()
        return trees.axpy(-self.inner_lr, self.gradient(params, support, create_graph=keep_graph), params)

    def adapt(self, support: Examples, inner_steps: int | None = None) -> Params:
        """Take `inner_steps` gradient steps on the support loss from the shared parameters."""
        params = self.expanded(support)
        for _ in range(self.inner_steps if inner_steps is None else inner_steps):
            params = self.inner_step(params, support)
        return params

    def meta_gradient(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Fill `.grad` with the meta-gradient of the chosen order; return the tasks' query losses."""
        if self.order != "hessian-free":
            return super().meta_gradient(batch)
        self.zero_grad()
        return torch.cat([self._hessian_free(part, 1 / batch.n_tasks) for part in batch.split(self.tasks_at_once)])

    @torch.no_grad()
    def _hessian_free(self, batch: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        path = [self.expanded(batch.support)]
        for _ in range(self.inner_steps):
            path.append(self.inner_step(path[-1], batch.support))
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in path[-1].items()}
            losses = self.loss(self.predict(leaves, batch), batch.query.y)
            v = dict(zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True))
        for params in reversed(path[:-1]):  # v <- (I - alpha H_k) v
            v = trees.axpy(-self.inner_lr, self.hessian_vector_product(params, batch.support, v), v)
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


def _per_task(scalar: Float[Tensor, " tasks"], like: Tensor) -> Tensor:
    return scalar.view(-1, *[1] * (like.dim() - 1))
