"""Half-cheetah and ant with a goal velocity or direction: Gymnasium's bodies, stepped in batches by MuJoCo's threads.

    velocity    r = -|v_x - goal| - ctrl |a|^2 + survive [+ 1],   goal ~ U[0, 2] (half-cheetah), U[0, 3] (ant)
    direction   r = goal v_x - ctrl |a|^2 + survive,              goal = +1 or -1

The code that Finn et al. released, not their text, pays an ant at a goal velocity the 1 in brackets. Without it every
step costs about |goal|, and a young ant gains by falling: a trajectory that has ended costs nothing.

The model, the observation (positions without the travelled distance, then velocities), the random start and the frame
skip are those of Gymnasium's HalfCheetah-v5 and Ant-v5; only the reward is changed, as in Finn, Abbeel, Levine 2017,
section 5.3. Contact forces, which the released ant observes and pays at most 0.042 a step for, are left out. Gymnasium
steps one body per call; here a call steps all of a meta-batch.

Needs the extra `pip install "ctml[rl]"`; nothing else in ctml imports it.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ctml.checks import at_least, one_of
from ctml.rl.environments import Moved, Version

try:
    import gymnasium
    from mujoco.rollout import Rollout

    mujoco: Any = import_module("mujoco")  # compiled, without stubs
except ImportError as missing:
    raise ImportError('half-cheetah and ant need MuJoCo and Gymnasium: pip install "ctml[rl]"') from missing

GOALS = ("velocity", "direction")


@dataclass(frozen=True)
class Body:
    """What differs between the bodies.

    Args:
        environment: Gymnasium's name.
        options: for `gymnasium.make`.
        hidden_positions: leading positions that are not observed (where it is in the plane).
        fastest: end of the interval of goal velocities, m/s.
        control: cost of |a|^2 per step.
        survive: reward of every step.
        contentment: added to it at a goal velocity, in the released version.
        noise: of the start, in positions and velocities.
        height: bounds of the torso's height, metres, outside which a trajectory ends; None never ends one.
    """

    environment: str
    options: dict
    hidden_positions: int
    fastest: float
    control: float
    survive: float
    contentment: float
    noise: float
    height: tuple[float, float] | None


BODIES = {
    "half_cheetah": Body("HalfCheetah-v5", {}, 1, 2.0, 0.05, 0.0, 0.0, 0.1, None),
    "ant": Body("Ant-v5", {"include_cfrc_ext_in_observation": False}, 2, 3.0, 0.005, 0.05, 1.0, 0.1, (0.2, 1.0)),
}


class Locomotion:
    """A batch of bodies that are to run at a goal velocity, or in a goal direction.

    Args:
        body: "half_cheetah" or "ant".
        goal: "velocity" or "direction".
        version: of the reward: "text" or "released".
        horizon: steps of a trajectory.
        threads: of MuJoCo; None takes as many as torch, so that parallel runs do not crowd each other out.

    Raises:
        ValueError: an unknown body, goal or version.
    """

    def __init__(
        self, body: str, goal: str, *, version: Version = "text", horizon: int = 200, threads: int | None = None
    ):
        one_of("body", body, BODIES)
        one_of("goal", goal, GOALS)
        one_of("version", version, get_args(Version))
        at_least("horizon", horizon, 1)
        threads = threads or torch.get_num_threads()
        self.body, self.goal, self.version, self.horizon = BODIES[body], goal, version, horizon
        contented = version == "released" and goal == "velocity"
        self.bonus = self.body.survive + (self.body.contentment if contented else 0.0)
        made = gymnasium_body(self.body)
        self.model, self.frame_skip, self.dt = made.model, made.frame_skip, made.dt
        self.rest = torch.from_numpy(np.concatenate([made.init_qpos, made.init_qvel]))
        made.close()
        self.positions, self.actions = self.model.nq, self.model.nu
        self.observations = self.positions + self.model.nv - self.body.hidden_positions
        self._limits = torch.from_numpy(self.model.actuator_ctrlrange.astype(np.float32)).unbind(-1)
        self._rollout = Rollout(nthread=threads)
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]

    def sample(self, n_tasks: int, generator: torch.Generator) -> Float[Tensor, "tasks 1"]:
        """Draw goal velocities (m/s), or directions: forward for every other task, so that both occur equally often."""
        if self.goal == "direction":
            return 1.0 - 2.0 * (torch.arange(n_tasks)[:, None] % 2)
        return self.body.fastest * torch.rand(n_tasks, 1, generator=generator)

    def reset(
        self, goals: Float[Tensor, "tasks 1"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "tasks n observation"]:
        """Put all bodies near their rest, with Gymnasium's noise: positions uniform, velocities normal."""
        shape, draws = (len(goals), n), {"generator": generator, "dtype": torch.float64}
        state = self.rest.expand(*shape, -1).clone()
        q, v = state[..., : self.positions], state[..., self.positions :]
        q += self.body.noise * (2 * torch.rand(q.shape, **draws) - 1)
        v += self.body.noise * torch.randn(v.shape, **draws)
        self._goals, self._state = goals, state
        return self._observe()

    def step(self, actions: Float[Tensor, "tasks n action"]) -> Moved:
        """Hold the clipped actions for `frame_skip` steps of the physics."""
        actions = actions.clamp(*self._limits)
        before = self._state[..., 0]
        flat = self._state.flatten(0, 1).numpy()
        clock = np.zeros((len(flat), 1))  # MuJoCo's full state begins with the time, which nothing here depends on
        held = np.repeat(actions.flatten(0, 1).double().numpy()[:, None], self.frame_skip, axis=1)
        states = np.asarray(self._rollout.rollout(self.model, self._data, np.concatenate([clock, flat], 1), held)[0])
        self._state = torch.from_numpy(states[:, -1, 1 : 1 + flat.shape[1]].reshape(self._state.shape))
        velocity = ((self._state[..., 0] - before) / self.dt).float()
        run = self._goals * velocity if self.goal == "direction" else -(velocity - self._goals).abs()
        reward = run - self.body.control * actions.square().sum(-1) + self.bonus
        return self._observe(), reward, self._terminated()

    def _observe(self) -> Float[Tensor, "tasks n observation"]:
        return self._state[..., self.body.hidden_positions :].float()

    def _terminated(self) -> Bool[Tensor, "tasks n"]:
        unsound = ~self._state.isfinite().all(-1)
        if self.body.height is None:
            return unsound
        low, high = self.body.height
        return unsound | (self._state[..., 2] < low) | (self._state[..., 2] > high)


def gymnasium_body(body: Body) -> Any:
    """Return Gymnasium's own environment; keep back what MuJoCo writes, to a file too, about its old model file."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return gymnasium.make(body.environment, reset_noise_scale=body.noise, **body.options).unwrapped
    finally:
        mujoco.set_mju_user_warning(before)
