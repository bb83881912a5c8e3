"""What is drawn is read back from the axes and compared with numbers worked out by scipy or by hand."""

from itertools import pairwise

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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


def test_rows_of_samples_share_one_interval_and_have_a_dot_each(ax) -> None:
    seeds_by_tasks, one_seed = SAMPLES, SAMPLES[:1]
    plots.interval_per_method(ax, {"maml": seeds_by_tasks, "anil": one_seed}, horizontal=True, each=True)
    mean, _, (bar,) = ax.containers[0].lines
    assert mean.get_xdata() == pytest.approx([SAMPLES.mean()])
    over_tasks = stats.t.interval(0.95, 3, SAMPLES.mean(), stats.sem(SAMPLES.mean(0)))
    assert bar.get_segments()[0][:, 0] == pytest.approx(over_tasks)
    dots, dot = [line for line in ax.lines if line.get_alpha() == 0.35]
    assert dots.get_xdata() == pytest.approx([3, 0.5, 1])
    assert dot.get_xydata().tolist() == [[3, 1]]


def test_a_history_is_the_mean_of_runs_between_least_and_greatest(ax) -> None:
    runs = [[(0, 1.0), (1, 2.0), (2, 4.0)], [(0, 3.0), (1, 2.0), (2, 8.0)]]
    plots.history(ax, runs, label="T")
    assert ax.lines[0].get_xydata().tolist() == [[0, 2], [1, 2], [2, 6]]
    assert band(ax) == pytest.approx(np.array([[1, 3], [2, 2], [4, 8]]))
    for wrong in ([], [runs[0], runs[1][:2]]):
        with pytest.raises(ValueError, match="different lists of steps"):
            plots.history(ax, wrong)


def test_lines_are_the_rows_of_a_tidy_table(ax) -> None:
    table = pd.DataFrame(
        {"kind": list("aabbaa"), "who": list("xxxxyy"), "h": [1, 2, 1, 2, 1, 2], "error": [5, 6, 7, 8, 9, 10]}
    )
    looks = {("a", "y"): {"color": "C3"}, ("b", "x"): style.method("maml").line(label="tuned")}
    plots.lines(ax, table, "h", "error", ["kind", "who"], looks, markersize=2)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[9, 10], [7, 8]]
    assert [line.get_markersize() for line in ax.lines] == [2, 2]
    assert ax.lines[1].get_label() == "tuned"
    assert ax.lines[1].get_color() == style.COLOURS["maml"]
    plots.lines(ax, table, "h", "error", "kind", {"b": {}})
    assert ax.lines[2].get_ydata().tolist() == [7, 8]
    with pytest.raises(KeyError):
        plots.lines(ax, table, "h", "error", "kind", {"c": {}})


def seeds() -> pd.DataFrame:
    """Return three seeds of SAMPLES' rows for "a" and twice that for "b", out of order."""
    rows = [
        {"who": who, "x": x, "seed": seed, "y": scale * SAMPLES[x, seed]}
        for seed in (2, 0, 1)
        for who, scale in (("a", 1), ("b", 2))
        for x in (1, 0, 2)
    ]
    return pd.DataFrame(rows)


def test_curves_of_a_tidy_table_are_over_its_seeds(ax) -> None:
    looks = {"b": style.method("anil").line(), "a": {"marker": "x"}}
    plots.curves(ax, seeds(), "x", "y", "who", {"b": looks["b"]}, band="range", marker="")
    assert ax.lines[0].get_xydata().tolist() == [pytest.approx([x, 2 * SAMPLES[x, :3].mean()]) for x in (0, 1, 2)]
    assert band(ax) == pytest.approx(2 * np.array([[1, 6], [0.1, 0.5], [-1, 2]]))
    assert ax.lines[0].get_color() == style.COLOURS["anil"] and not ax.lines[0].get_marker(), "shared keywords win"
    plots.curves(ax, seeds(), "x", "y", "who", looks, band="none")
    assert [line.get_label() for line in ax.lines[:2]] == ["ANIL", "ANIL"]
    assert ax.lines[2].get_ydata() == pytest.approx(SAMPLES[:, :3].mean(1))
    assert len(ax.collections) == 1, "without a band nothing is filled"
    with pytest.raises(KeyError):
        plots.curves(ax, seeds(), "x", "y", "who", {"c": {}})


def test_paths_lead_to_stars_of_their_colour(ax) -> None:
    paths = torch.tensor([[[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [-1.0, 0.5]]])
    plots.paths(ax, torch.tensor([[1.0, 1.0], [-2.0, 0.0]]), paths, ["#112233", "#445566", "C5"], behind=paths / 2)
    assert len(ax.lines) == 6
    for k, colour in enumerate(["#112233", "#445566"]):
        behind, path, star = ax.lines[3 * k : 3 * k + 3]
        assert path.get_xydata().tolist() == paths[k].tolist()
        assert behind.get_xydata().tolist() == (paths[k] / 2).tolist()
        assert star.get_xydata().tolist() == [[[1.0, 1.0]], [[-2.0, 0.0]]][k]
        assert path.get_color() == star.get_color() == colour != behind.get_color()
        assert star.get_marker() == "*"


def test_powers_have_the_slopes_that_they_name(ax) -> None:
    ax.plot([0.01, 0.1, 1.0], [1e-3, 1e-2, 1e-1])
    plots.powers(ax, {1: 0.5, 4: 1e-3})
    for line, order, height in zip(ax.lines[1:], (1, 4), (0.5, 1e-3), strict=True):
        (x0, x1), (y0, y1) = line.get_data()
        assert (x0, x1, y1) == pytest.approx((0.01, 1.0, height))
        assert np.log(y1 / y0) / np.log(x1 / x0) == pytest.approx(order)
    assert [text.get_text() for text in ax.texts] == ["1", "4"]
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_a_landscape_has_the_level_lines_of_its_loss(ax) -> None:
    plots.landscape(ax, lambda w: w[..., 0].square() + 4 * w[..., 1].square(), (-2.0, 2.0), (-1.0, 1.0))
    (levels,) = ax.collections
    for level, path in zip(levels.levels, levels.get_paths(), strict=True):
        if len(path.vertices) and level > 0:
            assert path.vertices[:, 0] ** 2 + 4 * path.vertices[:, 1] ** 2 == pytest.approx(level, rel=2e-2)


def test_a_heat_map_is_white_at_zero_and_ruled_between_blocks(ax) -> None:
    plots.heat(ax, np.array([[1.0, -4.0, 0.0, 2.0]] * 4), blocks=2)
    (image,) = ax.images
    assert image.get_clim() == (-4, 4)
    assert image.cmap(image.norm(0.0))[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.01)
    assert [line.get_xdata()[0] for line in ax.lines if line.get_xdata()[0] == line.get_xdata()[1]] == [1.5]


def test_a_task_shows_each_class_in_a_row_dark_on_light() -> None:
    images = torch.rand(3, 4, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    fig, axes = plt.subplots(1, 2)
    plots.task(axes, images[:, :1], images, most=2)
    support, query = (np.asarray(ax.images[0].get_array()) for ax in axes)
    assert support.shape == (15, 6) and query.shape == (15, 12)
    assert query[5:10, 6:] == pytest.approx(1 - images[1, 1, 0].numpy())
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["0", "1", "2"]
    plots.task(axes, images[:, :1].expand(-1, -1, 3, -1, -1), images.expand(-1, -1, 3, -1, -1))
    assert np.asarray(axes[1].images[-1].get_array())[10:, :6, 2] == pytest.approx(images[2, 0, 0].numpy())
    plt.close(fig)


def test_lines_are_named_at_their_ends_in_their_colours_and_apart() -> None:
    figure, ax = plt.subplots(figsize=(4, 3))
    ends = {"low": 0.0, "same\nagain": 0.001, "high": 1.0}
    for name, end in ends.items():
        ax.plot([1, 0, 2], [end, 1 - end, float("nan")], label=name)  # the last that is drawn is not the rightmost
    ax.plot([0, 1], [0.2, 0.2])  # without a label it stays without a name
    plots.name_lines(ax, size=10)
    figure.canvas.draw()
    written = {text.get_text(): text for text in ax.texts}
    assert list(written) == list(ends)
    boxes = [text.get_window_extent() for text in written.values()]
    assert all(above.y0 >= below.y1 for below, above in pairwise(boxes)), "one name stands on another"
    assert all(
        text.get_color() == line.get_color() for text, line in zip(written.values(), ax.get_lines(), strict=False)
    )
    assert ax.get_legend() is None and all(box.x0 >= ax.get_window_extent().x1 for box in boxes)


def test_the_plane_shows_what_varies_most_with_unit_variance() -> None:
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points * torch.tensor([0.1, 5.0, 1.0]) + 7
    seen = plots.Plane(points)(points)
    assert seen.mean(0) == pytest.approx((0, 0, 1), abs=1e-12)
    assert seen[:, :2].var(0, correction=0) == pytest.approx((1, 1))
    assert abs(np.corrcoef(seen[:, 0], points[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(seen[:, 1], points[:, 2])[0, 1]) > 0.95


def test_regions_are_those_of_the_largest_score() -> None:
    # Scores x, -x: the first class wins on the right.
    heads = torch.tensor([[[1.0, 0, 0], [-1, 0, 0]], [[-1, 0, 0], [1, 0, 0]]])
    points = torch.tensor([[-1.0, -1, 1], [1, 1, 1]]), torch.tensor([1, 0])
    figure = plots.filmstrip(heads, ["there", "and back"], *points, *points)
    for ax, on_the_left in zip(figure.axes, (1, 0), strict=True):
        picture = np.asarray(ax.images[0].get_array())
        colour = ("#0072B2", "#E69F00")
        assert to_hex(tuple(picture[75, 10, :3])).upper() == colour[on_the_left]
        assert to_hex(tuple(picture[75, 140, :3])).upper() == colour[1 - on_the_left]
        assert picture[75, 5, 3] > picture[75, 60, 3] > picture[75, 74, 3]  # surest far from the border
    assert [ax.get_title() for ax in figure.axes] == ["there", "and back"]
    plt.close(figure)


def test_solutions_of_a_task_are_drawn_where_they_lie(ax) -> None:
    class Bowl:
        def support(self, points):
            return points.square().sum(-1)

        def query(self, points):
            return (points - 1).square().sum(-1)

    found = {nu: torch.tensor([[nu, 2 * nu]]) for nu in (-0.5, 0.0, 0.5)}
    plots.solutions(ax, Bowl(), torch.tensor([[3.0, 3.0]]), found)
    drawn = [tuple(line.get_xydata()[0]) for line in ax.lines]
    assert drawn == [(3.0, 3.0), (-0.5, -1.0), (0.0, 0.0), (0.5, 1.0)]
    named = {text.get_text(): tuple(text.xy) for text in ax.texts if text.get_text()}
    assert named[r"$\phi_{-\nu}$"] == (-0.5, -1.0)
    assert named[r"$\phi_{+\nu}$"] == (0.5, 1.0)
    (arrow,) = (text for text in ax.texts if not text.get_text())
    assert (tuple(arrow.xy), tuple(arrow.xyann)) == ((-0.5, -1.0), (0.5, 1.0))
