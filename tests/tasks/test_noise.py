"""Noise has the shapes and labels of few-shot tasks, and nothing to learn."""

import pytest
import torch

from ctml.rng import generator
from ctml.tasks import Noise


def test_shapes_and_labels_are_those_of_few_shot_tasks():
    batch = Noise(ways=3, shots=2, queries=4, shape=(1, 8, 8)).sample(5, generator(0, "noise"))
    assert batch.support.x.shape == (5, 6, 1, 8, 8)
    assert batch.query.x.shape == (5, 12, 1, 8, 8)
    assert batch.support.y.tolist() == 5 * [[0, 0, 1, 1, 2, 2]]
    assert batch.query.y.flatten().bincount().tolist() == [20, 20, 20]


def test_inputs_are_standard_normal_and_know_no_label():
    batch = Noise(ways=2, shots=50, queries=1, shape=(20,)).sample(20, generator(0, "noise"))
    x = batch.support.x.unflatten(1, (2, 50))
    assert x.std() == pytest.approx(1, abs=0.01)
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    again = Noise(ways=2, shots=50, queries=1, shape=(20,)).sample(20, generator(0, "noise"))
    assert torch.equal(again.support.x, batch.support.x)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="queries=0: must be at least 1"):
        Noise(ways=2, shots=1, queries=0, shape=(1,))
