"""Environments as batches: one call moves every trajectory of every task by one step of time.

    goals = sample(tasks);   o_0 = reset(goals, n);   (o_{t+1}, r_t, terminated_{t+1}) = step(a_t)

A task is a row of `goals`; what a goal means is the environment's. An environment holds the state of one batch of
trajectories at a time, so two interleaved rollouts need two environments.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ctml.checks import at_least, one_of, positive

Moved = tuple[
    Float[Tensor, "tasks n observation"], Float[Tensor, "tasks n"], Bool[Tensor, "tasks n"]
]  # observations, rewards, and which trajectories have ended


@runtime_checkable
class Environment(Protocol):
    """What a rollout needs."""

    observations: int
    actions: int
    horizon: int

    def sample(self, n_tasks: int, generator: torch.Generator) -> Float[Tensor, "tasks goal"]:
        """Draw the goals of `n_tasks` tasks."""
        ...

    def reset(
        self, goals: Float[Tensor, "tasks goal"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "tasks n observation"]:
        """Start `n` trajectories per task and return what they see first."""
        ...

    def step(self, actions: Float[Tensor, "tasks n action"]) -> Moved:
        """Take one step with every trajectory."""
        ...


Version = Literal["text", "released"]
"""As section 5.3 of Finn, Abbeel, Levine 2017 describes an environment, or as the code that they released has it."""


@dataclass
class Navigation:
    """2-D navigation (Finn, Abbeel, Levine 2017, section 5.3): go from the origin to a goal that is not observed.

        p_{t+1} = p_t + clip(unit a_t, -speed, speed),   goal ~ U[-1/2, 1/2]^2

        version     reward r_t              unit     a trajectory ends within `stop_within` of the goal,
        text        -|p_{t+1} - goal|^2     1        measured by |.|
        released    -|p_{t+1} - goal|       speed    measured along each axis

    Published returns belong to the released version: there standing still costs 0.383 a step on average, in the text's
    0.167. An initial policy of standard deviation 1 has 92% of its commands clipped in the text's, 32% in the released.

    Args:
        horizon: steps of a trajectory.
        version: "text" or "released".
        speed: bound of a velocity command, per coordinate.
        reach: half the side of the square of goals.
        stop_within: distance to the goal at which a trajectory ends; 0 never ends one.

    Raises:
        ValueError: an unknown version, or a number out of its range.
    """

    horizon: int = 100
    version: Version = "text"
    speed: float = 0.1
    reach: float = 0.5
    stop_within: float = 0.01
    observations: int = field(default=2, init=False)
    actions: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        at_least("horizon", self.horizon, 1)
        one_of("version", self.version, get_args(Version))
        positive("speed", self.speed)
        positive("reach", self.reach)
        at_least("stop_within", self.stop_within, 0)

    @property
    def unit(self) -> float:
        """Return how far an action of 1 moves."""
        return self.speed if self.version == "released" else 1.0

    def sample(self, n_tasks: int, generator: torch.Generator) -> Float[Tensor, "tasks 2"]:
        """Draw goals uniformly from the square."""
        return self.reach * (2 * torch.rand(n_tasks, 2, generator=generator, device=generator.device) - 1)

    def reset(self, goals: Float[Tensor, "tasks 2"], n: int, generator: torch.Generator) -> Float[Tensor, "tasks n 2"]:
        """Put all trajectories at the origin."""
        self._goals = goals[:, None, :]
        self._position = goals.new_zeros(len(goals), n, 2)
        return self._position

    def step(self, actions: Float[Tensor, "tasks n 2"]) -> Moved:
        """Move by the clipped command."""
        self._position = self._position + (self.unit * actions).clamp(-self.speed, self.speed)
        return self._position, *self._judge(self._position - self._goals)

    def best_return(self, goals: Float[Tensor, "tasks 2"]) -> Float[Tensor, " tasks"]:
        """Return the best return of a policy that knows the goal: full speed on each axis until the axis is done."""
        steps = torch.arange(1, self.horizon + 1, device=goals.device, dtype=goals.dtype)
        left = (goals.abs()[:, None] - self.speed * steps[:, None]).clamp_min(0)  # (tasks, horizon, 2)
        reward, ended = self._judge(left)
        return reward[:, 0] + (reward[:, 1:] * ~ended[:, :-1]).sum(-1)

    def _judge(self, apart: Float[Tensor, "*steps 2"]) -> tuple[Float[Tensor, "*steps"], Bool[Tensor, "*steps"]]:
        """Return the reward of being `apart` from the goal, and whether that is near enough to end."""
        squared = apart.square().sum(-1)
        if self.version == "released":
            return -squared.sqrt(), ~(apart.abs() > self.stop_within).any(-1)
        return -squared, ~(squared > self.stop_within**2)
