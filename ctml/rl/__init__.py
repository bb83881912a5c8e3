"""Meta-reinforcement learning: environments, policies, policy gradients and the trust-region outer step.

Invariants:
    * All trajectories of all tasks of a meta-batch run together; nothing loops over tasks.
    * `import ctml.rl` needs only torch; the MuJoCo bodies live in `ctml.rl.mujoco` and need the extra `ctml[rl]`.
"""

from ctml.rl.environments import Environment, Navigation
from ctml.rl.meta_policy import MetaPolicy
from ctml.rl.objective import fisher, objective
from ctml.rl.policy import Gaussian, GaussianPolicy
from ctml.rl.policy_gradient import Experience
from ctml.rl.training import PolicyHistory, meta_train_policy, outer_step
from ctml.rl.trajectories import Trajectories, rollout
from ctml.rl.trpo import TRPO

__all__ = [
    "TRPO",
    "Environment",
    "Experience",
    "Gaussian",
    "GaussianPolicy",
    "MetaPolicy",
    "Navigation",
    "PolicyHistory",
    "Trajectories",
    "fisher",
    "meta_train_policy",
    "objective",
    "outer_step",
    "rollout",
]
