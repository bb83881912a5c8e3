"""Intervals against scipy's Student t."""

import math

import pytest
import torch
from scipy import stats

from ctml.statistics import interval


@pytest.mark.parametrize("n", [2, 5, 31])
def test_interval_is_students(n):
    samples = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    low, high = stats.t.interval(0.95, n - 1, loc=samples.mean(), scale=stats.sem(samples.numpy()))
    assert interval(samples).low == pytest.approx(low, rel=1e-3, abs=1e-3)
    assert interval(samples).high == pytest.approx(high, rel=1e-3, abs=1e-3)


def test_many_samples_are_normal():
    samples = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    assert interval(samples).half_width == pytest.approx(1.96 * float(samples.double().std()) / math.sqrt(2000))


def test_one_sample_says_nothing_about_spread_and_none_is_refused():
    assert interval(torch.tensor([2.0])).half_width == math.inf
    with pytest.raises(ValueError, match="samples is empty"):
        interval(torch.tensor([]))
