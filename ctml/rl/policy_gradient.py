"""REINFORCE for a batch of tasks: the inner loss, the outer surrogate, and the divergence that bounds it.

L(theta) = -E_t log pi_theta(a_t | o_t) A_t                        inner loss; its gradient is REINFORCE's
J(theta) = -E_t [pi_theta(a_t | o_t) / pi_old(a_t | o_t)] A_t       outer surrogate; the same gradient at theta_old
A_t = (R_t - b(o_t, t)), normalised over the task's steps
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ctml import trees
from ctml.rl.baseline import baseline
from ctml.rl.environments import Environment
from ctml.rl.policy import Gaussian
from ctml.rl.trajectories import Trajectories, rollout
from ctml.types import Params


@dataclass(frozen=True)
class Experience:
    """The steps of one batch of trajectories, flat within each task, with what the gradients need.

    Args:
        advantages: A_t, mean 0 and standard deviation 1 over a task's steps, 0 where not alive.
        share: 1 / (steps alive in the task) where alive, else 0: E_t is the sum weighted by it.
        log_prob, acted: log pi and pi of the policy that acted.
        returns: undiscounted, one per trajectory.
    """

    observations: Float[Tensor, "tasks samples observation"]
    actions: Float[Tensor, "tasks samples action"]
    advantages: Float[Tensor, "tasks samples"]
    share: Float[Tensor, "tasks samples"]
    log_prob: Float[Tensor, "tasks samples"]
    acted: Gaussian
    returns: Float[Tensor, "tasks n"]

    def every(self, stride: int) -> "Experience":
        """Keep every `stride`-th step: enough for curvature, at a fraction of the cost."""
        log_std = self.acted.log_std
        part = {k: getattr(self, k)[:, ::stride] for k in ("observations", "actions", "advantages", "log_prob")}
        share = self.share[:, ::stride]
        share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        return Experience(
            **part, share=share, acted=Gaussian(self.acted.mean[:, ::stride], log_std), returns=self.returns
        )


@torch.no_grad()
def advantages(trajectories: Trajectories, discount: float) -> Float[Tensor, "tasks samples"]:
    """Return the normalised advantages of every step, 0 where not alive."""
    to_go = trajectories.to_go(discount)
    raw, alive = (to_go - baseline(trajectories, to_go)).flatten(1), trajectories.alive.flatten(1)
    count = alive.sum(-1, keepdim=True)
    centred = alive * (raw - (alive * raw).sum(-1, keepdim=True) / count)
    spread = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return centred / (spread + torch.finfo(raw.dtype).eps)


@torch.no_grad()
def gather(
    environment: Environment,
    policy: nn.Module,
    params: Params,
    goals: Float[Tensor, "tasks goal"],
    n: int,
    discount: float,
    generator: torch.Generator,
) -> Experience:
    """Run the policy and work out the advantages."""
    trajectories = rollout(environment, policy, params, goals, n, generator)
    observations, actions = trajectories.observations.flatten(1, 2), trajectories.actions.flatten(1, 2)
    alive = trajectories.alive.flatten(1)
    acted = Gaussian(trajectories.mean.flatten(1, 2), trajectories.log_std)
    return Experience(
        observations,
        actions,
        advantages(trajectories, discount),
        alive / alive.sum(-1, keepdim=True),
        acted.log_prob(actions),
        acted,
        trajectories.returns,
    )


def inner_loss(policy: nn.Module, params: Params, experience: Experience) -> Float[Tensor, " tasks"]:
    """Return L, one per task."""
    log_prob = functional_call(policy, params, (experience.observations,)).log_prob(experience.actions)
    return -(log_prob * experience.advantages * experience.share).sum(-1)


def surrogate_and_divergence(
    policy: nn.Module, params: Params, experience: Experience
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    """Return J and E_t KL(acted || pi_theta), one of each per task."""
    new = functional_call(policy, params, (experience.observations,))
    ratio = (new.log_prob(experience.actions) - experience.log_prob).exp()
    divergence = new.divergence_from(experience.acted)
    return -(ratio * experience.advantages * experience.share).sum(-1), (divergence * experience.share).sum(-1)


def inner_gradient(policy: nn.Module, params: Params, experience: Experience, create_graph: bool = False) -> Params:
    """Return k = grad L at per-task parameters, detached unless `create_graph`."""
    with torch.enable_grad():
        if not create_graph:
            params = {k: v.detach().requires_grad_() for k, v in params.items()}
        total = inner_loss(policy, params, experience).sum()
        found = torch.autograd.grad(total, list(params.values()), create_graph=create_graph)
    return dict(zip(params, found, strict=True))


def inner_step(policy: nn.Module, params: Params, experience: Experience, rate: float) -> Params:
    """Take one REINFORCE step theta - rate grad L for every task."""
    return trees.axpy(-rate, inner_gradient(policy, params, experience), params)
