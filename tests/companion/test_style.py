"""Figures are the same bytes each time, and methods can be told apart, also by the colour-blind."""

import itertools

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from ctml.companion import style

# Machado, Oliveira, Fernandes (2009): what is left of linear rgb without the middle or the long wavelength cones.
BLIND = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
COMPARED = ("maml", "fo_maml", "anil", "reptile", "comln")


def figure() -> plt.Figure:
    style.use()
    fig, axes = plt.subplots()
    axes.plot(np.linspace(0, 1, 50) ** 2, **style.method("maml").line())
    axes.fill_between(range(50), 0, 1, alpha=0.2)
    axes.set_title(r"$\alpha$")
    axes.legend()
    return fig


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_figure_is_the_same_file(kind: str) -> None:
    first, second = figure(), figure()
    assert style.render(first, kind) == style.render(first, kind) == style.render(second, kind)
    plt.close("all")


def test_another_figure_is_another_file() -> None:
    fig = figure()
    before = style.render(fig, "svg")
    fig.axes[0].set_title("other")
    assert style.render(fig, "svg") != before
    plt.close("all")


def test_every_method_looks_like_no_other() -> None:
    looks = {(m.color, m.marker, str(m.linestyle)) for m in style.METHODS.values()}
    colours = set(style.COLOURS.values())
    assert len(looks) == len(colours) == len(style.METHODS)


@pytest.mark.parametrize("kind", BLIND)
def test_methods_that_share_a_figure_differ_for_the_colour_blind(kind: str) -> None:
    def seen(name: str) -> np.ndarray:
        rgb = np.array(matplotlib.colors.to_rgb(style.COLOURS[name]))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return np.clip(np.array(BLIND[kind]) @ linear, 0, 1) ** (1 / 2.4)

    distances = {pair: np.linalg.norm(seen(pair[0]) - seen(pair[1])) for pair in itertools.combinations(COMPARED, 2)}
    assert min(distances.values()) > 0.12, distances


def test_unknown_methods_get_free_colours_that_stay_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "_UNLISTED", {})
    names = [f"my_method_{n}" for n in range(8)]
    drawn = {name: style.method(name) for name in names}
    assert drawn == {name: style.method(name) for name in reversed(names)}
    assert drawn["my_method_0"].label == "my method 0"
    colours = [*style.COLOURS.values(), *(m.color for m in drawn.values())]
    assert len({colour.upper() for colour in colours}) == len(colours)
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in colours])
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1) + np.eye(len(rgb))
    assert apart[len(style.COLOURS) :].min() > 0.2, "an unlisted colour is taken for another"
    assert "my_method_0" not in style.METHODS
