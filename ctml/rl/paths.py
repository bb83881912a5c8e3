"""Where a policy goes on average: what a picture of navigation shows."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.rl.meta_policy import MetaPolicy
from ctml.rl.trajectories import rollout


def mean_paths(
    learner: MetaPolicy,
    goals: Float[Tensor, "tasks goal"],
    rates: Sequence[float],
    n: int,
    stream: torch.Generator,
) -> tuple[Float[Tensor, "tasks horizon observation"], Float[Tensor, "tasks horizon observation"]]:
    """Return the mean observation at every time before and after adaptation, times after an early end included.

    Args:
        learner: the policy, where it goes, and how it adapts.
        goals: a task each.
        rates: of the adaptation steps, each on fresh trajectories.
        n: trajectories that a mean is over.
        stream: where the draws come from.
    """
    adapted = learner.adapt(goals, rates, stream)
    shared = trees.expand(dict(learner.policy.named_parameters()), len(goals))
    after, before = (
        rollout(learner.environment, learner.policy, params, goals, n, stream).observations.mean(1)
        for params in (adapted, shared)
    )
    return before, after
