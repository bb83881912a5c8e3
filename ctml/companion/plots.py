"""What several notebooks draw: curves with bands, histories, intervals of methods, lines of a table, paths, landscapes.

Invariants:
    * The last axis of samples is what the spread is over (seeds or tasks); the caption says which.
    * An interval is Student's 95% interval of the mean, as in the rules of claims; one sample has none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ctml.companion import style
from ctml.statistics import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

BANDS = ("interval", "range", "none")
MIDDLES = {"mean": np.mean, "median": np.median}


def curve(
    ax: "Axes",
    x: Any,
    samples: Any,
    *,
    band: Literal["interval", "range", "none"] = "interval",
    middle: Literal["mean", "median"] = "mean",
    **line: Any,
) -> None:
    """Draw the middle of samples `(x, n)` along x, and a band: the mean's 95% interval, or least to greatest.

    Args:
        ax, x: where to draw.
        samples: n numbers for each x; with n = 1 there is no band.
        band: "interval" (of the mean), "range" or "none".
        middle: "mean" or "median"; a median has the range as its band, or none.
        line: keywords of `Axes.plot`, such as `style.method(name).line()`.

    Raises:
        ValueError: if samples are no such table or an option is unknown.
    """
    x, samples = np.asarray(x, float), np.asarray(samples, float)
    if samples.ndim != 2 or len(samples) != len(x):
        raise ValueError(f"samples of shape {samples.shape}: must be ({len(x)}, n), a row of samples for each x")
    if band not in BANDS or middle not in MIDDLES:
        raise ValueError(f"band={band!r}, middle={middle!r}: must be of {', '.join(BANDS)} and {', '.join(MIDDLES)}")
    if (middle, band) == ("median", "interval"):
        raise ValueError("middle='median': the interval is the mean's; take band='range'")
    (drawn,) = ax.plot(x, MIDDLES[middle](samples, axis=1), **line)
    if samples.shape[1] > 1 and band != "none":
        low, high = _interval(samples) if band == "interval" else (samples.min(1), samples.max(1))
        ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def history(ax: "Axes", runs: Sequence[Sequence[tuple[int, float]]], **line: Any) -> None:
    """Draw what runs recorded while they trained: their mean, in a band from least to greatest.

    Args:
        ax: where to draw.
        runs: of each run its pairs (meta-step, value), as in `history.validation` or `history.watched["T"]`.
        line: keywords of `Axes.plot`, such as `style.method(name).line()`.

    Raises:
        ValueError: if there are no runs, or they recorded at different steps.
    """
    steps = {tuple(step for step, _ in run) for run in runs}
    if len(steps) != 1:
        raise ValueError(
            f"runs recorded at {len(steps)} different lists of steps: must be at one list, the same for all"
        )
    curve(ax, steps.pop(), [[run[i][1] for run in runs] for i in range(len(runs[0]))], band="range", **line)


def interval_per_method(
    ax: "Axes",
    samples: Mapping[str, Any],
    at: Mapping[str, float] | None = None,
    *,
    horizontal: bool = False,
    each: bool = False,
) -> None:
    """Draw each method's mean with the bar of its 95% interval, in the method's colour.

    Args:
        ax: where to draw.
        samples: method (a name of `style`) to its n numbers, or to k rows of them, `(k, n)`, such as seeds by tasks:
            the mean is then over all, and the interval that of the rows' mean over the last axis.
        at: place of a method on the other axis, such as its cost; without it one after the other, named by ticks.
        horizontal: methods one below the other, bars along x.
        each: every sample, or the mean of every row, as a faint dot behind the mean.
    """
    places = dict(zip(samples, range(len(samples)), strict=True)) if at is None else at
    for name, values in samples.items():
        values, look = np.asarray(values, float), style.method(name)
        spread, dotted = (values, values) if values.ndim == 1 else (values.mean(0), values.mean(1))
        mean, place = values.mean(), places[name]
        half = interval(torch.tensor(spread)).half_width if spread.size > 1 else None
        if each:
            dots = (dotted, np.full(dotted.size, place))
            ax.plot(*(dots if horizontal else dots[::-1]), "o", color=look.color, alpha=0.35, markersize=4)
        where = {"x": mean, "y": place, "xerr": half} if horizontal else {"x": place, "y": mean, "yerr": half}
        drawn: dict[str, Any] = where | look.line() | {"linestyle": ""}
        ax.errorbar(**drawn, capsize=3)
    if at is None:
        ticks = ax.set_yticks if horizontal else ax.set_xticks
        ticks(list(places.values()), [style.method(name).label for name in samples])


def lines(
    ax: "Axes",
    table: "DataFrame",
    x: str,
    y: str,
    by: str | list[str],
    looks: Mapping[Any, Mapping[str, Any]],
    **line: Any,
) -> None:
    """Draw one line of a tidy table for each of `looks`: y against x where the column `by` has that name.

    Args:
        ax, table: where to draw, and what; rows are drawn in their order.
        x, y: columns.
        by: the column that tells the lines apart, or several; the keys of `looks` are then tuples.
        looks: name to keywords of `Axes.plot`, such as `style.method(name).line()`.
        line: keywords that all lines share.

    Raises:
        KeyError: for a name that the table does not have.
    """
    groups = table.groupby(by, sort=False)
    for name, look in looks.items():
        rows = groups.get_group(name)
        ax.plot(rows[x], rows[y], **line, **look)


def curves(
    ax: "Axes",
    table: "DataFrame",
    x: str,
    y: str,
    by: str,
    looks: Mapping[Any, Mapping[str, Any]],
    *,
    over: str = "seed",
    band: Literal["interval", "range", "none"] = "interval",
    **line: Any,
) -> None:
    """Draw a `curve` of a tidy table for each of `looks`: y against x where the column `by` has that name.

    Args:
        ax, table: where to draw, and what; a row for each x, name and sample.
        x, y, by: columns: where, how high, and which curve.
        looks: name to keywords of `Axes.plot`, such as `style.method(name).line()`.
        over: the column that tells the samples apart.
        band: as in `curve`.
        line: keywords that all curves share, whatever their looks say.

    Raises:
        KeyError: for a name that the table does not have.
    """
    groups = table.groupby(by, sort=False)
    for name, look in looks.items():
        wide = groups.get_group(name).pivot(index=x, columns=over, values=y)
        curve(ax, wide.index, wide, band=band, **{**look, **line})


def paths(ax: "Axes", goals: Any, paths: Any, colours: Iterable[str], behind: Any) -> None:
    """Draw paths in the plane, each with a star of its colour where it should lead.

    Args:
        ax: where to draw.
        goals: `(n, 2)`.
        paths: `(n, steps, 2)`.
        colours: n of them, or more.
        behind: `(n, steps, 2)`, paths to compare with, in grey.
    """
    for goal, path, other, colour in zip(goals, paths, behind, colours, strict=False):
        ax.plot(*np.asarray(other).T, color="0.75", lw=0.8, zorder=0)
        ax.plot(*np.asarray(path).T, color=colour, lw=1.2)
        ax.plot(*np.asarray(goal), marker="*", color=colour, ms=9, mec="k", mew=0.4)


def task(axes: Sequence["Axes"], support: Any, query: Any, most: int = 5) -> None:
    """Show the images of one few-shot task, a row a class: on the first axes its support, on the second its queries.

    Args:
        axes: two.
        support, query: `(ways, n, channels, height, width)` in [0, 1]; one channel is drawn dark on light.
        most: images of a class that are shown.
    """
    for ax, images, title in zip(axes, (support, query), ("support", "query"), strict=True):
        shown = np.asarray(images)[:, :most]
        ways, n, channels, height, width = shown.shape
        board = shown.transpose(0, 3, 1, 4, 2).reshape(ways * height, n * width, channels)
        ax.imshow(1 - board[..., 0] if channels == 1 else board, cmap="gray", vmin=0, vmax=1)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(False)
        if title == "support":
            ax.set(ylabel="label", yticks=[height * (i + 0.5) for i in range(ways)], yticklabels=range(ways))


def powers(ax: "Axes", heights: Mapping[int, float]) -> None:
    """Draw grey guides y = C x^p behind what is drawn, named by p, on logarithmic axes.

    Args:
        ax: with its lines; the guides run over their range of x.
        heights: order p to the guide's height at the largest x.
    """
    ax.set(xscale="log", yscale="log")
    low, high = ax.dataLim.intervalx
    for order, height in heights.items():
        end = (low, height * (low / high) ** order)
        ax.plot([low, high], [end[1], height], color="0.75", lw=0.8, zorder=0)
        ax.annotate(f"{order}", end, (-4, 0), textcoords="offset points", color="0.5", size=8, ha="right", va="center")
    ax.set_xlim(left=0.7 * low)
    ax.tick_params(axis="y", which="minor", left=False)  # over so many decades they say nothing


def heat(ax: "Axes", table: Any, blocks: int = 0) -> None:
    """Draw a table as a heat map, zero white, negative blue and positive red, its own bar beside it.

    Args:
        ax: where to draw.
        table: `(rows, columns)`.
        blocks: lines after so many rows and columns; 0: none.
    """
    table = np.asarray(table, float)
    most = np.abs(table).max()
    drawn = ax.imshow(table, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(drawn, ax=ax, shrink=0.8)
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    for place in range(blocks, len(table), blocks or 1) if blocks else ():
        ax.axhline(place - 0.5, color="0.6", lw=0.5)
    for place in range(blocks, table.shape[1], blocks or 1) if blocks else ():
        ax.axvline(place - 0.5, color="0.6", lw=0.5)


def name_lines(ax: "Axes", size: float = 8) -> None:
    """Write the label of every line beside its right end, in its colour and apart from the others; no legend.

    Args:
        ax: with its lines and its limits set; a line whose last points cannot be drawn is named at the last that can.
        size: of the letters, in points.
    """
    ax.get_xlim()  # limits are worked out when asked for, and the places below follow from them
    ax.get_ylim()
    figure = ax.get_figure(root=True)
    assert figure is not None
    ends: list[tuple[float, Any]] = []
    for line in ax.get_lines():
        points = ax.transAxes.inverted().transform(ax.transData.transform(np.asarray(line.get_xydata(), float)))
        drawn = points[np.isfinite(points).all(1)]
        if len(drawn) and not str(line.get_label()).startswith("_"):
            ends.append((float(np.clip(drawn[drawn[:, 0].argmax(), 1], 0, 1)), line))
    ends.sort(key=lambda end: end[0])
    row = 1.25 * size / (72 * figure.get_figheight() * ax.get_position().height)
    tall = [row * (1 + str(line.get_label()).count("\n")) for _, line in ends]
    places: list[float] = []
    for k, (height, _) in enumerate(ends):
        places.append(max(height, places[-1] + (tall[k - 1] + tall[k]) / 2) if places else height)
    over = max(0.0, places[-1] - 1) if places else 0.0
    for place, (_, line) in zip(places, ends, strict=True):
        look = {"color": line.get_color(), "size": size, "va": "center", "transform": ax.transAxes}
        ax.text(1.02, place - over, str(line.get_label()), **look)


class Plane:
    """The plane of the two largest principal components of some points; a constant 1 is the third coordinate.

    Args:
        points: `(n, d)`.
    """

    def __init__(self, points: "Tensor"):
        self.mean = points.mean(0)
        _, singular, directions = torch.linalg.svd(points - self.mean, full_matrices=False)
        self.axes = directions[:2] * len(points) ** 0.5 / singular[:2, None]  # unit variance along both

    def __call__(self, points: "Tensor") -> "Tensor":
        """Return points `(..., d)` as coordinates `(..., 3)`."""
        flat = (points - self.mean) @ self.axes.mT
        return torch.cat([flat, torch.ones_like(flat[..., :1])], -1)


def regions(
    ax: "Axes", head: "Tensor", support: "Tensor", labels: "Tensor", query: "Tensor", query_labels: "Tensor"
) -> None:
    """Draw where in the plane each class of a linear head has the largest probability, the darker the surer.

    Args:
        ax: where to draw.
        head: `(ways, 3)`.
        support, labels: points as `Plane` gives them, `(n, 3)`, as dots of their class's colour.
        query, query_labels: others, as crosses.
    """
    from matplotlib.colors import ListedColormap

    colours = ListedColormap(["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#7F7F7F", "#56B4E9"][: len(head)])
    shown = torch.cat([support, query])[:, :2]
    (left, low), (right, high) = shown.amin(0) - 0.2, shown.amax(0) + 0.2
    x, y = torch.linspace(float(left), float(right), 150), torch.linspace(float(low), float(high), 150)
    grid = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(150, 150)], -1).to(head.dtype)
    sure, won = (grid @ head.mT).softmax(-1).max(-1)
    picture = colours(won.numpy())
    picture[..., 3] = 0.05 + 0.6 * (len(head) * sure.numpy() - 1) / (len(head) - 1)
    ends = (float(left), float(right), float(low), float(high))
    ax.imshow(picture, origin="lower", extent=ends, aspect="auto", interpolation="nearest")
    for points, classes, marker, size in ((query, query_labels, "x", 8), (support, labels, "o", 16)):
        edge = {} if marker == "x" else {"edgecolors": "k", "linewidths": 0.4}
        ax.scatter(*points[:, :2].T, c=classes, cmap=colours, vmin=0, vmax=len(head) - 1, marker=marker, s=size, **edge)
    ax.grid(False)
    ax.set(xticks=[], yticks=[])


def filmstrip(heads: "Tensor", titles: Sequence[str], *points: "Tensor") -> "Figure":
    """Return `regions` of heads `(frames, ways, 3)` side by side; points as there."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(heads), figsize=(style.WIDE[0], 2.2), squeeze=False)
    for ax, head, title in zip(axes[0], heads, titles, strict=True):
        regions(ax, head, *points)
        ax.set_title(title)
    return fig


def landscape(
    ax: "Axes",
    loss: Callable[["Tensor"], "Tensor"],
    across: tuple[float, float],
    up: tuple[float, float],
    levels: int = 12,
) -> None:
    """Draw faint level lines of a function of points in the plane.

    Args:
        ax: where to draw.
        loss: points `(n, n, 2)`, float64, to their heights `(n, n)`.
        across, up: ends of the two axes.
        levels: about how many lines.
    """
    import torch

    x, y = (torch.linspace(*ends, 80, dtype=torch.float64) for ends in (across, up))
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    ax.contour(x, y, loss(points), levels, colors="0.85", linewidths=0.7)


def solutions(ax: "Axes", task: Any, start: Any, found: Mapping[float, Any]) -> None:
    """Draw a task's inner problem in the plane with its solutions phi_nu: where they start, lie and point.

    Args:
        ax: where to draw.
        task: one task with `support` and `query`, functions of points `(*points, 1, 2)`; its pull is 1.
        start: theta, `(1, 2)`.
        found: nu to phi_nu, `(1, 2)`, from the most negative to the most positive nu.
    """
    places = np.concatenate([np.asarray(start), *(np.asarray(phi) for phi in found.values())])
    low, high = places.min(0) - 0.8, places.max(0) + 0.8
    grid = np.meshgrid(np.linspace(low[0], high[0], 80), np.linspace(low[1], high[1], 80))
    points = torch.tensor(np.stack(grid, -1))[..., None, :]
    inner = task.support(points) + 0.5 * (points - start).square().sum(-1)
    ax.contour(*grid, inner[..., 0], levels=9, colors="0.75", linewidths=0.8)
    ax.contour(*grid, task.query(points)[..., 0], levels=9, colors="0.55", linewidths=0.6, linestyles=":")
    ax.plot(*places[0], "k+", markersize=9)
    ax.annotate(r"$\theta$", places[0], xytext=(6, 4), textcoords="offset points")
    for nu, place in zip(found, places[1:], strict=True):
        sign = r"\phi_0" if nu == 0 else rf"\phi_{{{'+' if nu > 0 else '-'}\nu}}"
        ax.plot(*place, "o", color=style.COLOURS["fo_b_maml"])
        ax.annotate(f"${sign}$", place, xytext=(6, 5), textcoords="offset points")
    ax.annotate("", places[1], places[-1], arrowprops={"arrowstyle": "->", "color": style.COLOURS["fo_b_maml"]})
    ax.set(xlabel=r"$\phi_1$", ylabel=r"$\phi_2$")


def _interval(samples: np.ndarray) -> tuple[list[float], list[float]]:
    found = [interval(torch.tensor(row)) for row in samples]
    return [i.low for i in found], [i.high for i in found]
