"""The first panel of a drawing of several: large enough to be read where the whole would be small.

A drawing by matplotlib names its axes (`axes_1`, ...), and the first path of each is its background. The window is
set on the first axes with its labels; it ends where the words of the next axes to the right, or below, begin.
"""

import re
from dataclasses import dataclass

_AXES = re.compile(r'<g id="axes_\d+">(.*?)(?=<g id="axes_\d+">|\Z)', re.DOTALL)
_BACKGROUND = re.compile(
    r'd="M ([\d.-]+) ([\d.-]+) \nL ([\d.-]+) ([\d.-]+) \nL ([\d.-]+) ([\d.-]+) \nL [\d.-]+ [\d.-]+ \nz'
)
_WORD = re.compile(r'transform="translate\(([\d.-]+) ([\d.-]+)\)')
_SIZE = re.compile(r'width="[\d.]+pt" height="[\d.]+pt" viewBox="0 0 ([\d.]+) ([\d.]+)"')
_LINE = 12.0  # points: the height of a line of words, which are placed by their lower left corner


@dataclass(frozen=True)
class _Axes:
    left: float
    right: float
    top: float
    bottom: float
    words: list[tuple[float, float]]


def first_panel(drawing: str) -> str:
    """Return the drawing with its window on the first panel; as it is when it has one panel, or is read otherwise."""
    size = _SIZE.search(drawing)
    found = [_axes(match[1]) for match in _AXES.finditer(drawing)]
    if size is None or len(found) < 2 or found[0] is None:
        return drawing
    first, others = found[0], [axes for axes in found[1:] if axes is not None]
    lowest = max([first.bottom, *(y for _, y in first.words)]) + _LINE  # a legend below all panels is left out
    width, height = float(size[1]), min(float(size[2]), lowest)
    for axes in others:
        if axes.left >= first.right:
            width = min(width, max(first.right + 2, min([axes.left, *(x for x, _ in axes.words)]) - _LINE))
        elif axes.top >= first.bottom:
            height = min(height, max(first.bottom + 2, min([axes.top, *(y for _, y in axes.words)]) - _LINE))
    window = f'width="{width:g}pt" height="{height:g}pt" viewBox="0 0 {width:g} {height:g}"'
    return drawing[: size.start()] + window + drawing[size.end() :]


def _axes(text: str) -> _Axes | None:
    corner = _BACKGROUND.search(text)
    if corner is None:
        return None
    left, bottom, right, _, _, top = (float(value) for value in corner.groups())
    words = [(float(x), float(y)) for x, y in _WORD.findall(text)]
    return _Axes(left, right, top, bottom, words)
