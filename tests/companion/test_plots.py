"""What is drawn is read back from the axes and compared with numbers worked out by scipy or by hand."""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from scipy import stats

from ctml.companion import plots, style


@pytest.fixture
def ax():
    fig, axes = plt.subplots()
    yield axes
    plt.close(fig)


def band(ax) -> np.ndarray:
    """Return the rows (low, high) of the only band, read from its outline."""
    (area,) = ax.collections
    outline = area.get_paths()[0].vertices
    return np.array([[outline[outline[:, 0] == x, 1].min(), outline[outline[:, 0] == x, 1].max()] for x in (0, 1, 2)])


SAMPLES = np.array([[1.0, 2.0, 6.0, 3.0], [0.5, 0.5, 0.1, 0.9], [-1.0, 1.0, 2.0, 2.0]])


def test_a_curve_is_the_mean_in_its_t_interval(ax) -> None:
    plots.curve(ax, [0, 1, 2], torch.tensor(SAMPLES), **style.method("anil").line())
    low, high = stats.t.interval(0.95, 3, SAMPLES.mean(1), stats.sem(SAMPLES, axis=1))
    assert ax.lines[0].get_ydata() == pytest.approx(SAMPLES.mean(1))
    assert band(ax) == pytest.approx(np.stack([low, high], 1))
    assert to_hex(ax.collections[0].get_facecolor()[0]).upper() == style.COLOURS["anil"] == ax.lines[0].get_color()


def test_a_curve_is_the_median_between_least_and_greatest(ax) -> None:
    plots.curve(ax, [0, 1, 2], SAMPLES, band="range", middle="median")
    assert ax.lines[0].get_ydata() == pytest.approx([2.5, 0.5, 1.5])
    assert band(ax) == pytest.approx(np.array([[1, 6], [0.1, 0.9], [-1, 2]]))


def test_one_sample_has_no_band(ax) -> None:
    plots.curve(ax, [0, 1, 2], SAMPLES[:, :1])
    assert len(ax.lines) == 1 and not ax.collections


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (SAMPLES.T, {}, r"samples of shape \(4, 3\): must be \(3, n\)"),
        (SAMPLES[0], {}, r"samples of shape \(4,\)"),
        (SAMPLES, {"middle": "median"}, "the interval is the mean's"),
    ],
)
def test_what_cannot_be_drawn_is_refused(ax, samples, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        plots.curve(ax, [0, 1, 2], samples, **options)
    assert not ax.lines


def test_an_unknown_band_is_refused(ax) -> None:
    with pytest.raises((ValueError, TypeError), match="'std'"):  # under the tests' type checks before it gets there
        plots.curve(ax, [0, 1, 2], SAMPLES, band="std")
    assert not ax.lines


@pytest.mark.parametrize("horizontal", [False, True])
def test_each_method_has_its_colour_its_place_and_its_interval(ax, horizontal) -> None:
    samples = {"maml": [1.0, 2.0, 4.0], "anil": [5.0]}
    plots.interval_per_method(ax, samples, at={"maml": 30.0, "anil": 10.0}, horizontal=horizontal)
    drawn = {container.get_label(): container for container in ax.containers}
    (mean, _, (bar,)), (alone, _, bars) = drawn["MAML"].lines, drawn["ANIL"].lines
    points = [(7 / 3, 30.0), (5.0, 10.0)]
    assert [line.get_xydata()[0].tolist() for line in (mean, alone)] == [
        pytest.approx(p if horizontal else p[::-1]) for p in points
    ]
    ends = bar.get_segments()[0][:, 0 if horizontal else 1]
    assert ends == pytest.approx(stats.t.interval(0.95, 2, 7 / 3, stats.sem(samples["maml"])))
    assert not bars, "one sample has no interval"
    assert mean.get_color() == style.COLOURS["maml"] and mean.get_marker() == style.MARKERS["maml"]


def test_without_places_the_ticks_name_the_methods(ax) -> None:
    plots.interval_per_method(ax, {"maml": [1.0, 2.0], "reptile": [3.0, 4.0]}, each=True)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["MAML", "Reptile"]
    dots = [line for line in ax.lines if line.get_alpha() == 0.35]
    assert [d.get_xydata().tolist() for d in dots] == [[[0, 1], [0, 2]], [[1, 3], [1, 4]]]
