"""Mean paths: against trajectories added up one by one, and against where a policy that stands still must be."""

import torch

from ctml import trees
from ctml.flows.tableaus import EULER
from ctml.rl import GaussianPolicy, MetaPolicy, Navigation, rollout
from ctml.rl.paths import mean_paths
from ctml.rng import generator

GOALS = torch.tensor([[0.3, 0.4], [-0.4, 0.1], [0.0, -0.2]])


def learner(**options):
    policy = GaussianPolicy(2, 2, hidden=(6,), generator=generator(0, "w"), **options)
    return MetaPolicy(policy, Navigation(12), EULER, trajectories=8)


def test_they_are_means_of_trajectories_with_adapted_and_with_shared_parameters():
    policy, stream = learner(), generator(0, "t")
    before, after = mean_paths(policy, GOALS, [0.5], 4, generator(0, "t"))
    adapted = policy.adapt(GOALS, [0.5], stream)
    for found, params in ((after, adapted), (before, trees.expand(dict(policy.policy.named_parameters()), 3))):
        seen = rollout(policy.environment, policy.policy, params, GOALS, 4, stream).observations
        torch.testing.assert_close(found, sum(seen[:, k] for k in range(4)) / 4)
        assert found.shape == (3, 12, 2)
    assert not torch.allclose(before, after)


def test_adaptation_bends_the_mean_path_towards_its_goal():
    """From the origin, one large step on many trajectories: the mean path's end must be nearer to each goal."""
    policy = learner(std=0.1)
    policy.trajectories = 400
    before, after = mean_paths(policy, GOALS, [0.02], 400, generator(0, "t"))
    near = [(path[:, -1] - GOALS).norm(dim=-1) for path in (before, after)]
    assert (near[1] < near[0]).all(), near
    assert torch.equal(before[:, 0], torch.zeros(3, 2)) and torch.equal(after[:, 0], before[:, 0])
