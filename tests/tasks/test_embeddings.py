"""Synthetic embeddings: the streams that published numbers rest on, and the moments that the docstring promises."""

import pytest
import torch
import torch.nn.functional as F

from ctml.rng import generator
from ctml.tasks import Embeddings


def test_the_streams_are_those_that_the_published_numbers_were_drawn_from():
    g = generator(3, "tasks")
    classes = torch.randn(2, 3, 1, 7, generator=g, dtype=torch.float64)
    spread = 1.5 * torch.randn(2, 3, 2 + 4, 7, generator=g, dtype=torch.float64)
    x = F.normalize((classes + spread).relu(), dim=-1)
    label = torch.arange(3)

    batch = Embeddings(ways=3, shots=2, queries=4, d=7, noise=1.5).sample(2, generator(3, "tasks"))
    assert batch.support.x.equal(x[:, :, :2].flatten(1, 2))
    assert batch.query.x.equal(x[:, :, 2:].flatten(1, 2))
    assert batch.support.y.equal(label.repeat_interleave(2).expand(2, -1))
    assert batch.query.y.equal(label.repeat_interleave(4).expand(2, -1))


def test_a_head_follows_in_the_same_stream_and_float32_has_its_own():
    g = generator(0, "t")
    x = torch.randn(1, 5, 1, 16, generator=g) + torch.randn(1, 5, 2, 16, generator=g)
    head = torch.randn(5, 16, generator=g) / 16**0.5

    tasks = Embeddings(shots=2, queries=0, d=16, noise=1.0, scale=0.5, dtype=torch.float32)
    stream = generator(0, "t")
    assert tasks.sample(1, stream).support.x.equal(0.5 * x.relu().flatten(1, 2))
    assert tasks.head(stream).equal(head)


@pytest.mark.parametrize("noise", [0.0, 1.0, 2.5])
def test_lengths_are_as_stated(noise):
    long = Embeddings(d=4000, noise=noise, scale=0.3).sample(4, generator(0, "t")).support.x
    torch.testing.assert_close(
        long.square().sum(-1).mean(), torch.tensor(4000 * 0.09 * (1 + noise**2) / 2).double(), rtol=0.02, atol=0
    )
    unit = Embeddings(d=40, noise=noise).sample(4, generator(0, "t")).query.x
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(4, 75, dtype=torch.float64))


def test_less_noise_brings_a_class_together():
    def closeness(noise):
        x = Embeddings(noise=noise).sample(10, generator(0, "t")).support.x.unflatten(1, (5, 5))
        return float((x[:, :, :1] * x[:, :, 1:]).sum(-1).mean())

    assert closeness(0.0) == pytest.approx(1)
    assert closeness(0.5) > closeness(2.5) + 0.1


def test_what_makes_no_sense_is_refused_by_name():
    with pytest.raises(ValueError, match="shots=0"):
        Embeddings(shots=0)
    with pytest.raises(ValueError, match="noise=-1"):
        Embeddings(noise=-1)
    with pytest.raises(ValueError, match="scale=0"):
        Embeddings(scale=0.0)
