import math

import numpy as np
import pytest
import torch

from ctml.rng import generator
from ctml.theory import rates


def test_power_law_is_read_off_exactly():
    x = torch.tensor([0.1, 0.2, 0.4, 0.8])
    fit = rates.power(x, 3 * x**2.5)
    assert fit.value == pytest.approx(2.5, abs=1e-6)
    assert fit.standard_error < 1e-5


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.filterwarnings("error")
def test_arrays_of_a_table_are_read_without_a_warning():
    x, y = np.array([1, 2, 4]), np.array([3.0, 6.0, 12.0])
    x.flags.writeable = y.flags.writeable = False
    torch.set_warn_always(True)  # torch says it once in a process, else
    try:
        found = rates.power(x, y), rates.linear(x, y), rates.exponential(x, y)
    finally:
        torch.set_warn_always(False)
    assert found[0].value == pytest.approx(1.0)
    assert found[1].value == pytest.approx(3.0)


def test_decay_is_positive_and_growth_negative():
    t = torch.linspace(0, 4, 30, dtype=torch.float64)
    assert rates.exponential(t, 7 * torch.exp(-0.7 * t)).value == pytest.approx(0.7, abs=1e-12)
    assert rates.exponential(t, torch.exp(0.2 * t)).value == pytest.approx(-0.2, abs=1e-12)


def test_standard_error_covers_the_truth_as_often_as_it_says():
    """About 68% of slopes lie within one standard error when the noise is Gaussian."""
    t = torch.linspace(0, 1, 40, dtype=torch.float64)
    noise = 0.1 * torch.randn(400, 40, generator=generator(0, "noise"), dtype=torch.float64)
    fits = [rates.exponential(t, torch.exp(-2 * t + e)) for e in noise]
    covered = sum(abs(f.value - 2) < f.standard_error for f in fits) / len(fits)
    assert 0.60 < covered < 0.75


@pytest.mark.parametrize(
    "x, y, names",
    [
        ([1.0, 2.0, 3.0], [1.0, 0.0, 2.0], r"y\[1\]=0.0"),
        ([1.0, 2.0, 3.0], [1.0, float("nan"), 2.0], r"y\[1\]=nan"),
        ([1.0, 2.0], [1.0, 2.0], "at least three"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "all x are equal"),
    ],
)
def test_bad_input_is_named(x, y, names):
    with pytest.raises(ValueError, match=names):
        rates.power(torch.tensor(x), torch.tensor(y))


def test_a_line_explains_what_numpy_says():
    stream = generator(0, "line")
    x, noise = torch.randn(2, 50, generator=stream, dtype=torch.float64)
    y = 2 - 3 * x + noise
    fit = rates.linear(x, y)
    assert fit.value == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-10)
    assert fit.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-10)
    assert rates.linear(x, 5 + 0.5 * x).r_squared == pytest.approx(1)


def test_the_envelope_is_the_largest_in_each_bin():
    x = torch.linspace(0, 10, 1001, dtype=torch.float64)
    middle, largest = rates.envelope(x, (2 * x + 1) * torch.cos(60 * x).abs(), 10)
    assert middle.tolist() == pytest.approx([0.5 + i for i in range(10)])
    assert torch.all(largest <= 2 * (middle + 0.5) + 1)
    assert torch.all(largest >= 0.98 * (2 * (middle + 0.5 - 0.06) + 1))
    with pytest.raises(ValueError, match="bins=10: no x in bin 1; take fewer bins"):
        rates.envelope(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), 10)


@pytest.mark.parametrize(
    "curve, steps",
    [
        ([5.0, 0.5, 2.0, 0.9, 0.1], 3),  # the first dip does not count
        ([0.1, 0.1], 0),
        ([1.0, 1.0], 0),  # at the threshold is below
        ([0.1, 3.0], float("nan")),
        ([float("nan"), 0.1], 1),
        ([0.1, float("nan")], float("nan")),
    ],
)
def test_a_curve_settles_when_it_never_leaves_again(curve, steps):
    assert rates.steps_to_settle(torch.tensor(curve), 1.0) == pytest.approx(steps, nan_ok=True)


def test_time_to_fall_of_an_exponential_is_exact_and_of_a_curve_that_stays_above_unknown():
    t = torch.linspace(0, 5, 11, dtype=torch.float64)
    curves = torch.stack([torch.exp(-r * t) for r in (1.0, 2.0, 0.1, 0.0)], 1)
    found = rates.time_to_fall(t, curves, 0.3)
    assert found[:2].tolist() == pytest.approx([-math.log(0.3), -math.log(0.3) / 2])
    assert found[2:].isnan().all()
    assert rates.time_to_fall(t, curves, 2.0).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="must be positive"):
        rates.time_to_fall(t, curves - 1, 0.3)
