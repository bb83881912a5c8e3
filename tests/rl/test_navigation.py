"""2-D navigation: its reward and its end, the best return, and seeds that give the same trajectories again."""

import pytest
import torch

from ctml.rl import GaussianPolicy, Navigation, rollout
from ctml.rng import generator


def policy():
    return GaussianPolicy(2, 2, hidden=(8, 8), generator=generator(0, "w"))


class TowardsGoal(torch.nn.Module):
    """Knows the goal and goes there; stands in for a policy, without noise."""

    def __init__(self, goals, unit=1.0):
        super().__init__()
        self.goals, self.unit = goals, unit

    def forward(self, x):
        wanted = (self.goals[:, None] - x) / self.unit
        return Certain(wanted, torch.zeros(1, 2))


class Certain(tuple):
    def __new__(cls, mean, log_std):
        made = super().__new__(cls, (mean, log_std))
        made.mean, made.log_std = mean, log_std
        return made

    def sample(self, generator):
        return self.mean


@pytest.mark.parametrize("version", ["text", "released"])
def test_a_policy_that_knows_the_goal_has_the_best_return(version):
    environment, stream = Navigation(version=version), generator(0, "goals")
    goals = environment.sample(200, stream)
    assert goals.abs().max() <= 0.5
    found = rollout(environment, TowardsGoal(goals, environment.unit), {}, goals, 1, stream).returns[:, 0]
    torch.testing.assert_close(found, environment.best_return(goals), rtol=1e-5, atol=1e-6)


def test_no_noisy_policy_beats_the_best_return():
    environment, stream = Navigation(stop_within=0.05), generator(0, "goals")
    goals = environment.sample(50, stream)
    found = rollout(environment, TowardsGoal(goals + 0.01), {}, goals, 1, stream).returns[:, 0]
    assert (found <= environment.best_return(goals) + 1e-6).all()


def test_rewards_and_the_end_of_a_trajectory():
    environment = Navigation(horizon=4, stop_within=0.01)
    goals = torch.tensor([[0.2, 0.0], [0.0, -0.5]])
    environment.reset(goals, 1, generator(0, "-"))
    position, reward, terminated = environment.step(torch.tensor([[[9.0, 0.0]], [[0.0, -0.05]]]))
    torch.testing.assert_close(position[:, 0], torch.tensor([[0.1, 0.0], [0.0, -0.05]]))  # clipped at 0.1
    torch.testing.assert_close(reward[:, 0], torch.tensor([-0.01, -0.2025]))
    assert not terminated.any()
    _, _, terminated = environment.step(torch.tensor([[[0.1, 0.0]], [[0.0, 0.0]]]))
    assert terminated[:, 0].tolist() == [True, False]


def test_the_released_version_pays_the_distance_and_moves_a_tenth_per_unit():
    environment = Navigation(horizon=4, version="released")
    environment.reset(torch.tensor([[0.105, 0.109], [0.3, 0.4]]), 1, generator(0, "-"))
    position, reward, terminated = environment.step(torch.tensor([[[7.0, 1.0]], [[0.0, -0.5]]]))
    torch.testing.assert_close(position[:, 0], torch.tensor([[0.1, 0.1], [0.0, -0.05]]))
    torch.testing.assert_close(
        reward[:, 0], torch.tensor([-((0.005**2 + 0.009**2) ** 0.5), -((0.3**2 + 0.45**2) ** 0.5)])
    )
    # ended along each axis, though the distance itself, 0.0103, is more than 0.01
    assert terminated[:, 0].tolist() == [True, False]


@pytest.mark.parametrize(("version", "expected"), [("text", -100 / 6), ("released", -100 * 0.382598)])
def test_the_cost_of_standing_still_tells_the_versions_apart(version, expected):
    """E|g|^2 = 1/6 and E|g| = (sqrt 2 + asinh 1) / 6 for a goal uniform in the unit square around the origin."""
    environment, stream = Navigation(version=version), generator(0, "goals")
    goals = environment.sample(20_000, stream)
    environment.reset(goals, 1, stream)
    _, reward, _ = environment.step(torch.zeros(20_000, 1, 2))
    assert float(100 * reward.mean()) == pytest.approx(expected, rel=0.02)


def test_nothing_counts_after_the_end():
    environment = Navigation(horizon=6, stop_within=0.1)
    goals = torch.tensor([[0.25, 0.0]])
    seen = rollout(environment, TowardsGoal(goals), {}, goals, 1, generator(0, "-"))
    assert seen.terminated[0, 0].tolist() == [False, False, True, True, True, True]
    assert seen.taken[0, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert (seen.rewards[0, 0, 2:] == 0).all()


def test_the_same_seed_gives_the_same_trajectories():
    environment = Navigation(horizon=20)
    goals = environment.sample(3, generator(0, "goals"))

    def run(seed):
        return rollout(environment, policy(), {}, goals, 5, generator(seed, "act"))

    assert torch.equal(run(1).actions, run(1).actions)
    assert not torch.equal(run(1).actions, run(2).actions)


def test_rewards_to_go_are_discounted_sums():
    environment = Navigation(horizon=7)
    goals = environment.sample(2, generator(0, "goals"))
    seen = rollout(environment, policy(), {}, goals, 3, generator(0, "act"))
    by_hand = sum(0.9**k * seen.rewards[..., 2 + k] for k in range(5))
    torch.testing.assert_close(seen.to_go(0.9)[..., 2], by_hand)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon=0: must be at least 1"),
        ({"speed": 0.0}, "speed=0.0: must be a positive"),
        ({"version": "new"}, "version='new'"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_senseless_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Navigation(**options)
