"""MNIST-1D: the recipe step by step against plain numpy, and its statistics."""

import numpy as np
import pytest
import torch

from ctml.data import load, mnist1d
from ctml.rng import generator


def test_the_published_sizes():
    train, test = load("mnist1d", "train"), load("mnist1d", "test")
    assert train.examples.shape == (4000, 40) and test.examples.shape == (1000, 40)
    assert train.examples.dtype == torch.float32
    both = torch.cat([train.examples, test.examples]).double()
    assert abs(both.mean()) < 1e-6 and abs(both.std(correction=0) - 1) < 1e-6
    assert (train.counts + test.counts).tolist() == [500] * 10


def test_the_seed_decides_everything():
    first, again, other = (load("mnist1d", "test", seed=seed).examples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_splits_share_no_signal():
    train, test = load("mnist1d", "train", n_samples=500), load("mnist1d", "test", n_samples=500)
    both = torch.cat([train.examples, test.examples])
    assert len(both.unique(dim=0)) == len(both) == 500


def test_classes_can_be_held_out():
    pool = load("mnist1d", "train", classes=(6, 9))
    whole = load("mnist1d", "train")
    assert pool.names == ("6", "9") and pool.n_classes == 2
    start = int(whole.counts[:6].sum())
    assert torch.equal(pool.examples[: pool.counts[0]], whole.examples[start : start + int(pool.counts[0])])


def test_without_distortions_a_signal_is_its_stretched_template(monkeypatch):
    pad = 48
    for name in ("SCALE", "CORRELATED_NOISE", "WHITE_NOISE", "SHEAR"):
        monkeypatch.setattr(mnist1d, name, 0.0)
    monkeypatch.setattr(mnist1d, "MAX_TRANSLATION", 1)
    monkeypatch.setattr(mnist1d, "PADDING", (pad, pad))
    templates = mnist1d._templates()
    signals = mnist1d._signals(templates, generator(0, "test")).numpy()
    padded = np.concatenate([templates.numpy(), np.zeros((10, pad))], axis=1)
    wide = np.linspace(0, 1, padded.shape[1])
    expected = [np.interp(np.linspace(0, 1, 40), wide, row) for row in padded]
    np.testing.assert_allclose(signals, expected, atol=1e-12)


def test_shift_and_shear_do_what_they_say(monkeypatch):
    for name in ("SCALE", "CORRELATED_NOISE", "WHITE_NOISE"):
        monkeypatch.setattr(mnist1d, name, 0.0)
    monkeypatch.setattr(mnist1d, "LENGTH", 72)
    flat = torch.zeros(200, 12, dtype=torch.float64)
    slopes = mnist1d._signals(flat, generator(0, "test"))
    ramp = torch.linspace(-0.5, 0.5, 72, dtype=torch.float64)
    slope = slopes[:, -1] - slopes[:, 0]
    assert torch.allclose(slopes, slope[:, None] * ramp, atol=1e-12)
    assert slope.abs().max() <= mnist1d.SHEAR / 2 and slope.std() > 0.1 * mnist1d.SHEAR

    monkeypatch.setattr(mnist1d, "SHEAR", 0.0)
    monkeypatch.setattr(mnist1d, "PADDING", (60, 60))
    spike = torch.zeros(500, 12, dtype=torch.float64)
    spike[:, 5] = 1
    shifts = mnist1d._signals(spike, generator(1, "test")).argmax(1) - 5
    assert shifts.min() == 0 and shifts.max() == mnist1d.MAX_TRANSLATION - 1


def test_noise_has_the_published_strength(monkeypatch):
    """White noise everywhere, correlated noise only where the template is not: compare the two variances."""
    monkeypatch.setattr(mnist1d, "SHEAR", 0.0)
    monkeypatch.setattr(mnist1d, "MAX_TRANSLATION", 1)
    monkeypatch.setattr(mnist1d, "PADDING", (60, 60))
    monkeypatch.setattr(mnist1d, "LENGTH", 72)
    signals = mnist1d._signals(torch.zeros(4000, 12, dtype=torch.float64), generator(0, "test"))
    assert signals[:, :12].std().item() == pytest.approx(mnist1d.WHITE_NOISE, rel=0.03)
    kernel = np.exp(-0.5 * (np.arange(-8, 9) / mnist1d.SMOOTHING) ** 2)
    smoothed = mnist1d.CORRELATED_NOISE * np.linalg.norm(kernel / kernel.sum())
    expected = np.hypot(smoothed, mnist1d.WHITE_NOISE)
    assert signals[:, 20:60].std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("options", [{"n_samples": 9}, {"classes": ()}, {"classes": (10,)}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load("mnist1d", "train", **options)
