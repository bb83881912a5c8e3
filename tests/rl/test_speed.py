"""What is timed: whole iterations, the first one left out; every body of a batch counts."""

import time

import pytest
import torch

from ctml.flows.tableaus import MIDPOINT
from ctml.rl import GaussianPolicy, MetaPolicy, Navigation, speed
from ctml.rl.speed import (
    body_speeds,
    fastest_iterations,
    gymnasium_steps_per_second,
    iteration_seconds,
    steps_per_second,
)
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


class Quick(Slow):
    """A body whose step takes no time."""

    def step(self, actions):
        pass


def learner():
    policy = GaussianPolicy(2, 2, hidden=(4,), generator=generator(0, "initial weights"))
    return MetaPolicy(policy, Navigation(20), MIDPOINT, inner_lr=0.1, order="first", trajectories=10)


def test_every_body_of_a_batch_counts():
    slow = Slow()
    rate = steps_per_second(slow, 20, 4, generator(0, "t"))
    assert 20 * 40 < rate <= 20 * 200
    assert [tuple(actions.shape) for actions in slow.seen[1:]] == [(2, 10, 3)] * 4


def test_both_ways_are_named():
    speeds = body_speeds(Slow(), Quick(), generator(0, "t"))
    assert list(speeds) == ["bodies in batches; steps a second", "a body in Gymnasium; steps a second"]
    batches, alone = speeds.values()
    assert 200 * 40 < batches <= 200 * 200 < alone


def test_the_faster_number_of_threads_is_taken(monkeypatch):
    asked = []

    def timed(learner, meta_batch, stream, *, threads):
        asked.append(threads)
        return {1: [0.3, 0.1, 0.2], 7: [0.15, 9.0, 0.15]}[threads]

    monkeypatch.setattr(speed, "iteration_seconds", timed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert fastest_iterations(learner(), 2, generator(0, "t")) == [0.15, 9.0, 0.15]
    assert sorted(asked) == [1, 7]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert fastest_iterations(learner(), 2, generator(0, "t")) == [0.3, 0.1, 0.2]
    assert len(asked) == 3, "one thread is not timed twice"


def test_one_at_a_time():
    slow = Slow()
    assert 40 < gymnasium_steps_per_second(slow, 5) <= 200
    assert len(slow.seen) == 6


def test_iterations_are_timed_without_the_first_and_threads_are_given_back():
    timed = learner()
    before, theta = torch.get_num_threads(), timed.theta.clone()
    assert len(iteration_seconds(timed, 2, generator(0, "t"), turns=3)) == 3
    assert torch.get_num_threads() == before
    assert not timed.theta.equal(theta)
    with pytest.raises(ValueError, match="turns=0"):
        iteration_seconds(timed, 2, generator(0, "t"), turns=0)
