"""Meta-SGD: learn a step size for every parameter along with the initialisation (Li, Zhou, Chen, Li 2017).

    theta_{k+1} = theta_k - rates * grad L_S(theta_k),   min over theta, rates of E L_Q(theta_K)

The rates are meta-parameters like any other: they start at `inner_lr`, and one may become negative.
"""

import torch
from torch import nn

from ctml.learners.maml import MAML
from ctml.types import Examples, Loss, Model, Params


class MetaSGD(MAML):
    """Meta-learn an initialisation and the step size of each of its parameters.

    >>> import ctml
    >>> batch = ctml.tasks.Sinusoid().sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.MetaSGD(network, ctml.mse, inner_lr=0.01)
    >>> len(list(learner.parameters())), len(list(network.parameters()))
    (12, 6)
    >>> losses = learner.meta_gradient(batch)
    >>> learner.rates[0].grad.shape
    torch.Size([40, 1])

    Args:
        model, loss, inner_steps, tasks_at_once: as in `MAML`.
        inner_lr: where all rates start.
    """

    def __init__(
        self, model: Model, loss: Loss, *, inner_lr: float, inner_steps: int = 1, tasks_at_once: int | None = None
    ):
        super().__init__(model, loss, inner_lr=inner_lr, inner_steps=inner_steps, tasks_at_once=tasks_at_once)
        self.rates = nn.ParameterList(torch.full_like(p, inner_lr) for p in self.model.parameters())
        self._graph_is_sure = type(self).adapt is MAML.adapt and type(self).inner_step is MetaSGD.inner_step

    def inner_step(self, params: Params, embedded: Examples, step: int) -> Params:
        """Take one step theta - rates * grad L_S(theta) for every task."""
        gradient = self.gradient(params, embedded)
        return {k: v - rate * gradient[k] for (k, v), rate in zip(params.items(), self.rates, strict=True)}
