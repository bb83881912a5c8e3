"""Intervals against scipy's Student t."""

import math

import pytest
import torch
from scipy import stats

from ctml.companion.claims.rules import ci_high, ci_low
from ctml.statistics import interval


@pytest.mark.parametrize("n", [2, 5, 31, 32, 2000])
def test_interval_is_students(n):
    samples = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    low, high = stats.t.interval(0.95, n - 1, loc=samples.mean(), scale=stats.sem(samples.numpy()))
    assert interval(samples).low == pytest.approx(low, rel=1e-12)
    assert interval(samples).high == pytest.approx(high, rel=1e-12)


def test_claims_and_training_mean_the_same_interval():
    samples = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for level in (0.95, 0.99):
        assert ci_low(samples, level) == interval(samples, level).low
        assert ci_high(samples, level) == interval(samples, level).high
    assert interval(samples, 0.99).half_width > 1.3 * interval(samples).half_width


def test_one_sample_says_nothing_about_spread_and_none_is_refused():
    assert interval(torch.tensor([2.0])).half_width == math.inf
    with pytest.raises(ValueError, match="samples is empty"):
        interval(torch.tensor([]))
