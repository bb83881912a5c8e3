"""Trajectories of a batch of tasks, and how a policy makes them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from ctml.checks import at_least
from ctml.rl.environments import Environment
from ctml.types import Params


@dataclass(frozen=True)
class Trajectories:
    """What happened; a step that was not taken because the trajectory had ended counts nowhere.

    Args:
        observations: what the policy saw before its action.
        actions: as drawn, before the environment clips them.
        rewards: 0 after the end.
        terminated: whether the trajectory had ended before the step.
        mean, log_std: of the distributions that the actions were drawn from.
    """

    observations: Float[Tensor, "tasks n horizon observation"]
    actions: Float[Tensor, "tasks n horizon action"]
    rewards: Float[Tensor, "tasks n horizon"]
    terminated: Bool[Tensor, "tasks n horizon"]
    mean: Float[Tensor, "tasks n horizon action"]
    log_std: Float[Tensor, "*tasks 1 action"]

    @property
    def taken(self) -> Float[Tensor, "tasks n horizon"]:
        """1.0 where the step was taken, 0.0 after the end."""
        return (~self.terminated).to(self.rewards.dtype)

    @property
    def returns(self) -> Float[Tensor, "tasks n"]:
        """Undiscounted return of each trajectory."""
        return self.rewards.sum(-1)

    def to_go(self, discount: float) -> Float[Tensor, "tasks n horizon"]:
        """Return the discounted reward to go, R_t = r_t + discount R_{t+1}."""
        total = torch.zeros_like(self.rewards[..., 0])
        backwards = []
        for reward in self.rewards.flip(-1).unbind(-1):
            total = reward + discount * total
            backwards.append(total)
        return torch.stack(backwards[::-1], -1)


@torch.no_grad()
def rollout(
    environment: Environment,
    policy: nn.Module,
    params: Params,
    goals: Float[Tensor, "tasks goal"],
    n: int,
    generator: torch.Generator,
) -> Trajectories:
    """Run `n` trajectories per task with shared or per-task parameters.

    Args:
        policy: maps observations to a `Gaussian`, or to anything with `mean`, `log_std` and `sample`.
        params: the policy's, shared by all tasks or with a leading task axis.
        generator: of the actions' noise and the environment's starts.
    """
    at_least("n", n, 1)
    walk = {f"policy.{k}": v for k, v in params.items()}
    return functional_call(_Walk(policy), walk, (environment, goals, n, generator))


class _Walk(nn.Module):
    """The loop over time as a module: parameters are put in once a rollout and not once a step."""

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy

    def forward(self, environment: Environment, goals: Tensor, n: int, generator: torch.Generator) -> Trajectories:
        seen = environment.reset(goals, n, generator)
        terminated = torch.zeros(seen.shape[:2], device=seen.device, dtype=torch.bool)
        steps = []
        for _ in range(environment.horizon):
            acting = self.policy(seen)
            action = acting.sample(generator)
            following, reward, ended = environment.step(action)
            steps.append((seen, action, reward * ~terminated, terminated, acting.mean))
            seen, terminated = following, terminated | ended
        return Trajectories(*(torch.stack(part, 2) for part in zip(*steps, strict=True)), log_std=acting.log_std)
