"""How every figure of the project looks: one theme, one colour and marker for each method, files that are byte-stable.

Invariant: saving the same figure twice gives the same bytes, so a committed figure changes only when its data do.
"""

import colorsys
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Method:
    """How one method is drawn wherever it appears."""

    label: str
    color: str
    marker: str
    linestyle: Any = "-"

    def line(self, **changes: Any) -> dict[str, Any]:
        """Return the keywords for `Axes.plot`, with some of them changed, as in `line(label="MAML, tuned")`."""
        own = {"label": self.label, "color": self.color, "marker": self.marker, "linestyle": self.linestyle}
        return own | changes


# Okabe and Ito's colours for the methods that are compared most, Tol's muted ones for the rest. No more than about nine
# colours can be told apart by everybody, so marker and dash pattern tell them apart as well.
METHODS: dict[str, Method] = {
    "maml": Method("MAML", "#0072B2", "o"),
    "maml_five": Method("MAML, 5 steps", "#004C7A", "o", "--"),
    "fo_maml": Method("FO-MAML", "#56B4E9", "s", "--"),
    "fo_maml_one": Method("FO-MAML, 1 step", "#88CCEE", "s", ":"),
    "meta_sgd": Method("Meta-SGD", "#6699CC", "*", "-."),
    "hf_maml": Method("HF-MAML", "#332288", "D", "-."),
    "anil": Method("ANIL", "#E69F00", "^"),
    "reptile": Method("Reptile", "#009E73", "v", "--"),
    "comln": Method("COMLN", "#D55E00", "P"),
    "comln_adjoint": Method("COMLN, adjoint", "#0B6E4F", "D", "-"),
    "comln_checkpoints": Method("COMLN, adjoint with checkpoints", "#74B49B", "d", "--"),
    "comln_euler": Method("COMLN, Euler", "#F4A582", "p", "--"),
    "anil_checkpoints": Method("ANIL with checkpoints", "#8C6D1F", "s", "--"),
    "backward_flow": Method("textbook adjoint", "#AA3377", "x", ":"),
    "imaml": Method("iMAML", "#999933", "X", "-."),
    "bi_maml": Method("BI-MAML", "#CC79A7", "d"),
    "maml_flow": Method("MAML flow", "#44AA99", "*", ":"),
    "joint": Method("joint training", "#6E6E6E", "x", ":"),
    "euler": Method("Euler", "#7A9CC6", "o", ":"),
    "rk2": Method("RK2-MAML", "#882255", "<"),
    "rk2_half": Method("RK2, a₂ = 1/2", "#EE8866", "<", "-."),
    "rk2_two_thirds": Method("RK2, a₂ = 2/3", "#AA4499", "p", "--"),
    "rk2_three_quarters": Method("RK2, a₂ = 3/4", "#5B1A66", ">"),
    "rk3": Method("RK3", "#DDCC77", "d", "--"),
    "mean_stages": Method("mean-field stages", "#661100", "H", ":"),
    "rk4": Method("RK4-MAML", "#AA4466", ">", "--"),
    "fo_b_maml": Method("FO-B-MAML", "#117733", "h"),
    "fo_b_maml_forward": Method("FO-B-MAML, forward", "#88CC66", "p", "--"),
    "fo_b_maml_one_by_one": Method("FO-B-MAML, one by one", "#66BB55", "P", ":"),
    "fo_b_maml_tangent": Method("FO-B-MAML, tangent", "#003D1A", "*", "-."),
    "paper": Method("the paper", "#000000", "+", "--"),
}
_UNLISTED: dict[str, Method] = {}  # methods that were asked for and are not listed, in the order of asking
_MARKERS = "o^sDvPX*<>"
_SHADES = ((1.0, 0.9), (0.85, 0.6), (0.55, 0.85))  # saturation and brightness: all dark enough on white
NEUTRAL = ("#004488", "#BB5566", "#997700")  # Tol's high contrast: for what is no method, such as two settings of one
COLOURS = {name: method.color for name, method in METHODS.items()}
MARKERS = {name: method.marker for name, method in METHODS.items()}

NARROW = (4.2, 3.0)  # inches: one panel
WIDE = (8.4, 3.0)  # two panels beside each other
TALL = (8.4, 5.6)  # two rows

_STABLE: Any = {"svg.hashsalt": "ctml", "svg.fonttype": "path"}


def method(name: str) -> Method:
    """Return how a method is drawn: as listed above, or in the next free colour, which then stays its own."""
    if name in METHODS:
        return METHODS[name]
    if name not in _UNLISTED:
        marker = _MARKERS[len(_UNLISTED) % len(_MARKERS)]
        _UNLISTED[name] = Method(name.replace("_", " "), _free_colour(), marker, "-.")
    return _UNLISTED[name]


def _free_colour() -> str:
    """Return the colour of the wheel that is farthest from every colour in use."""
    used = [_rgb(m.color) for m in (*METHODS.values(), *_UNLISTED.values())]
    wheel = [colorsys.hsv_to_rgb(place / 36, full, bright) for place in range(36) for full, bright in _SHADES]
    chosen = max(wheel, key=lambda colour: min(math.dist(colour, other) for other in used))
    return "#" + "".join(f"{round(255 * part):02X}" for part in chosen)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def use() -> None:
    """Set the theme; `Study` does it once at the start of a notebook."""
    import matplotlib as mpl
    import seaborn

    seaborn.set_theme(context="paper", style="ticks", palette=list(COLOURS.values())[:8])
    settings: Any = {
        **_STABLE,
        "figure.figsize": NARROW,
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 150,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "legend.frameon": False,
        "axes.titlesize": "medium",
    }
    mpl.rcParams.update(settings)


def render(figure: "Figure", kind: str) -> bytes:
    """Return a figure as the bytes of an svg or png file, the same bytes every time."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(_STABLE):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()
