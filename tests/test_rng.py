"""Streams are reproducible, and independent between purposes."""

import torch

from ctml.rng import generator


def test_same_seed_and_purpose_same_stream():
    assert torch.equal(torch.rand(5, generator=generator(3, "a")), torch.rand(5, generator=generator(3, "a")))


def test_seed_and_purpose_both_matter():
    draws = [torch.rand(5, generator=generator(s, p)) for s, p in [(0, "a"), (1, "a"), (0, "b")]]
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_global_state_is_left_alone():
    before = torch.get_rng_state()
    torch.rand(5, generator=generator(0, "a"))
    assert torch.equal(before, torch.get_rng_state())
