"""REINFORCE for a batch of tasks: the inner loss, the outer surrogate, and the divergence that bounds it.

L(theta) = -E_t log pi_theta(a_t | o_t) A_t                        inner loss; its gradient is REINFORCE's
J(theta) = -E_t [pi_theta(a_t | o_t) / pi_old(a_t | o_t)] A_t       outer surrogate; the same gradient at theta_old
A_t = (R_t - b(o_t, t)), normalised over the task's steps
"""

from dataclasses import dataclass, fields

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

IN_CACHE = 2**13
"""Samples at once on a CPU: a layer of 100 units then holds 3 MB."""


@dataclass(frozen=True)
class Experience:
    """The steps of one batch of trajectories, flat within each task, with what the gradients need.

    Args:
        advantages: A_t, mean 0 and standard deviation 1 over a task's steps, 0 after a trajectory's end.
        share: 1 / (steps taken in the task) where taken, else 0: E_t is the sum weighted by it.
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

    def thin(self, stride: int) -> "Experience":
        """Keep every `stride`-th step: enough for curvature, at a fraction of the cost."""
        log_std = self.acted.log_std
        part = {k: getattr(self, k)[:, ::stride] for k in ("observations", "actions", "advantages", "log_prob")}
        share = self.share[:, ::stride]
        share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        return Experience(
            **part, share=share, acted=Gaussian(self.acted.mean[:, ::stride], log_std), returns=self.returns
        )

    def select(self, tasks: slice) -> "Experience":
        """Keep some tasks."""
        part = {f.name: getattr(self, f.name)[tasks] for f in fields(self) if f.name != "acted"}
        return Experience(**part, acted=Gaussian(self.acted.mean[tasks], self.acted.log_std[tasks]))

    def chunks(self) -> list[slice]:
        """Cut the tasks so that a chunk's activations stay in a processor's cache; a GPU takes all tasks at once."""
        n, samples = self.share.shape
        size = max(1, IN_CACHE // samples) if self.share.device.type == "cpu" else n
        return [slice(i, i + size) for i in range(0, n, size)]


@torch.no_grad()
def advantages(trajectories: Trajectories, discount: float) -> Float[Tensor, "tasks samples"]:
    """Return the normalised advantages of every step, 0 after a trajectory's end."""
    to_go = trajectories.to_go(discount)
    raw, taken = (to_go - baseline(trajectories, to_go)).flatten(1), trajectories.taken.flatten(1)
    count = taken.sum(-1, keepdim=True)
    centred = taken * (raw - (taken * raw).sum(-1, keepdim=True) / count)
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
    taken = trajectories.taken.flatten(1)
    mean = trajectories.mean.flatten(1, 2)
    acted = Gaussian(mean, trajectories.log_std.expand(len(mean), 1, -1))
    return Experience(
        observations,
        actions,
        advantages(trajectories, discount),
        taken / taken.sum(-1, keepdim=True),
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


def inner_gradient(policy: nn.Module, params: Params, experience: Experience) -> Params:
    """Return k = grad L at per-task parameters, as a function of them where they carry a graph."""
    if torch.is_grad_enabled() and any(v.requires_grad for v in params.values()):
        total = inner_loss(policy, params, experience).sum()
        found = torch.autograd.grad(total, list(params.values()), create_graph=True)
        return dict(zip(params, found, strict=True))
    with torch.enable_grad():
        found = []
        for tasks in experience.chunks():
            part = {k: v[tasks].detach().requires_grad_() for k, v in params.items()}
            total = inner_loss(policy, part, experience.select(tasks)).sum()
            found.append(torch.autograd.grad(total, list(part.values())))
    return {k: torch.cat(parts) for k, parts in zip(params, zip(*found, strict=True), strict=True)}


def inner_step(policy: nn.Module, params: Params, experience: Experience, rate: float) -> Params:
    """Take one REINFORCE step theta - rate grad L for every task."""
    return trees.axpy(-rate, inner_gradient(policy, params, experience), params)
