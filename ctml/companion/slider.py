"""A figure that a reader moves: one drawing for every value of one thing, by one function wherever it is seen.

    JupyterLab   a slider of ipywidgets that draws anew at every move, so it follows a change of the code
    the site     drawings made beforehand under the browser's own slider: no kernel, nothing from elsewhere
    print        a filmstrip of a few of them, which is also what is seen without scripts

A drawing weighs some tens of kB and is fetched when the slider reaches it; a library of plots for the browser would
weigh 1 to 5 MB before the first point, and would need every figure to be written a second time.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ctml.companion import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Axes", Any], None]
"""Draws what belongs to one value on empty axes."""

FILMSTRIP = 4  # pictures in print


def frames(draw: Draw, values: Mapping[str, Any]) -> list[bytes]:
    """Return an svg file for each of the values (what stands at the slider -> the value)."""
    import matplotlib.pyplot as plt

    made = []
    for value in values.values():
        figure = _frame(draw, value)
        made.append(style.render(figure, "svg"))
        plt.close(figure)
    return made


def filmstrip(draw: Draw, values: Mapping[str, Any]) -> "Figure":
    """Return a figure of some of the values beside each other, the first and the last among them."""
    import matplotlib.pyplot as plt

    count = min(FILMSTRIP, len(values))
    chosen = [list(values.values())[round(k * (len(values) - 1) / max(1, count - 1))] for k in range(count)]
    width, height = style.NARROW
    rows = -(-count // 2)
    figure, axes = plt.subplots(rows, min(count, 2), figsize=(min(count, 2) * width, rows * height), squeeze=False)
    for ax, value in zip(axes.flat, chosen, strict=False):
        draw(ax, value)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure


def show_in_lab(draw: Draw, values: Mapping[str, Any], of: str) -> None:
    """Show a slider over the values that draws at every move."""
    import ipywidgets
    import matplotlib.pyplot as plt
    from IPython.display import display

    def show(value: Any) -> None:
        figure = _frame(draw, value)
        display(figure)
        plt.close(figure)

    look = {"description": of, "continuous_update": False, "style": {"description_width": "initial"}}
    display(ipywidgets.interactive(show, value=ipywidgets.SelectionSlider(options=list(values.items()), **look)))


def _frame(draw: Draw, value: Any) -> "Figure":
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=style.NARROW)
    draw(axes, value)
    return figure
