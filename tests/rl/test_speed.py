"""What is timed: whole iterations, the first one left out; every body of a batch counts."""

import time

import pytest
import torch

from ctml.flows.tableaus import MIDPOINT
from ctml.rl import GaussianPolicy, MetaPolicy, Navigation
from ctml.rl.speed import gymnasium_steps_per_second, iteration_seconds, steps_per_second
from ctml.rng import generator


class Slow:
    """Two tasks' bodies whose step takes 5 ms."""

    actions = 3

    def __init__(self):
        self.seen = []
        self.action_space = self

    def sample(self, *_):
        return None

    def reset(self, *_, **__):
        self.seen.append("reset")

    def step(self, actions):
        self.seen.append(actions)
        time.sleep(0.005)


def test_every_body_of_a_batch_counts():
    slow = Slow()
    rate = steps_per_second(slow, 20, 4, generator(0, "t"))
    assert 20 * 40 < rate <= 20 * 200
    assert [tuple(actions.shape) for actions in slow.seen[1:]] == [(2, 10, 3)] * 4


def test_one_at_a_time():
    slow = Slow()
    assert 40 < gymnasium_steps_per_second(slow, 5) <= 200
    assert len(slow.seen) == 6


def test_iterations_are_timed_without_the_first_and_threads_are_given_back():
    policy = GaussianPolicy(2, 2, hidden=(4,), generator=generator(0, "initial weights"))
    learner = MetaPolicy(policy, Navigation(20), MIDPOINT, inner_lr=0.1, order="first", trajectories=10)
    before, theta = torch.get_num_threads(), learner.theta.clone()
    assert len(iteration_seconds(learner, 2, generator(0, "t"), turns=3)) == 3
    assert torch.get_num_threads() == before
    assert not learner.theta.equal(theta)
    with pytest.raises(ValueError, match="turns=0"):
        iteration_seconds(learner, 2, generator(0, "t"), turns=0)
