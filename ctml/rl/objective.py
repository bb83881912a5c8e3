"""RK-MAML for policies, the objective: the stages' surrogates and divergences, weighted by the tableau.

    J(theta) = E_task sum_j a_j J(theta^(j); D_j)     subject to     E_task sum_j a_j KL_j <= delta

The trajectories D_j that made stage j + 1 also judge stage j: weight on the unadapted policy (a_1 > 0) costs no further
sample. That the constraint carries the surrogate's weights is our choice.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import functional_call

from ctml import trees
from ctml.rl.meta_policy import MetaPolicy, Stages
from ctml.rl.policy_gradient import Experience, surrogate_and_divergence
from ctml.rl.trpo import Objective, Product
from ctml.types import Params


def objective(learner: MetaPolicy, stages: Stages) -> Objective:
    """Return theta -> (E_task sum_j a_j J_j, E_task sum_j a_j KL_j), in parts of some tasks each."""

    def value(theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for tasks in stages.experience[-1].chunks():
            part = stages.select(tasks)
            weighted = [
                (a / stages.n_tasks * surrogate.sum(), a / stages.n_tasks * divergence.sum())
                for a, point, seen in _weighted(learner, theta, part)
                for surrogate, divergence in [surrogate_and_divergence(learner.policy, point, seen)]
            ]
            yield trees.sum_of(j for j, _ in weighted), trees.sum_of(d for _, d in weighted)

    return value


def fisher(learner: MetaPolicy, stages: Stages) -> Product:
    """Return v -> hess(E_task sum_j a_j KL_j) v at the parameters that the trajectories were made with.

    F = E_task sum_j a_j G_j' M_j G_j,   G_j = d (mean, log sigma)_j / d theta,   M_j = hess KL in (mean, log sigma)

    The rest of the Hessian carries the slope of KL in (mean, log sigma), which is zero there. G v comes from
    differentiating the linear map u -> G'u, so a product is two backward passes (Townsend 2017).
    """
    theta = learner.theta.requires_grad_()
    outputs, metric = [], []
    for a, point, seen in _weighted(learner, theta, stages):
        new = functional_call(learner.policy, point, (seen.observations,))
        mean, log_std = new.fisher()
        outputs += new
        metric += [a / stages.n_tasks * seen.share[..., None] * mean.detach(), a / stages.n_tasks * log_std]
    u = [torch.zeros_like(out, requires_grad=True) for out in outputs]
    (pulled,) = torch.autograd.grad(outputs, theta, u, create_graph=True)

    def product(v: Tensor) -> Tensor:
        pushed = torch.autograd.grad(pulled, u, v, retain_graph=True)
        weighted = [m * p for m, p in zip(metric, pushed, strict=True)]
        return torch.autograd.grad(outputs, theta, weighted, retain_graph=True)[0]

    return product


def _weighted(learner: MetaPolicy, theta: Tensor, stages: Stages) -> Iterator[tuple[float, Params, Experience]]:
    """Yield a_j, theta^(j) and D_j of the stages that have weight."""
    for a, point, seen in zip(learner.tableau.b, learner.stage_points(theta, stages), stages.experience, strict=True):
        if a:
            yield float(a), point, seen
