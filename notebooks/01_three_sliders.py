# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
# ---

# %% [markdown]
# # Three things to move
#
# *Executed, with its figures and verdicts:* [results/quick/01_three_sliders](../results/quick/01_three_sliders/01_three_sliders.ipynb)
#
# **What this is** Three figures with a slider each, one number of one paper at a time: how long COMLN's head flows, how large
# MAML's inner step is, how a Runge-Kutta step weighs its second stage. On the site the slider changes drawings made
# beforehand; in JupyterLab it draws anew, so change the code and move again; in print there is a filmstrip.
#
# **Answer in one line** Each of these numbers has a value beyond which something else happens: the head learns its noise,
# one minimum becomes two, an order is lost.
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` | one core | about 1 |
# | `long` | one core | about 1 (as `quick`) |
# | `paper` | one core | about 1 (as `quick`: nothing is trained here) |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, replace

import torch

import ctml
from ctml.companion import Study, choose, style
from ctml.flows import adapt_head
from ctml.flows.maml_field import maml_loss
from ctml.flows.tableaus import rk2
from ctml.tasks import CurvatureJump, LogisticRidge
from ctml.theory import rk_maml

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of the classes and of the logistic task
shots: int | None = None  # >= 1: support points a class, for the first slider
noise: float | None = None  # > 0: spread within a class, for the first slider

# %% [markdown]
# ## 3 Configuration
#
# All instances here are *ours*; the notebooks of each paper say what is the paper's.


# %%
@dataclass(frozen=True)
class Config:
    shots: int = 3
    noise: float = 1.2
    places: int = 17  # of a slider


PAPER = Config()
PRESETS = {"paper": PAPER, "long": PAPER, "quick": PAPER, "smoke": replace(PAPER, places=3)}
config = choose(PRESETS, PRESET, shots=shots, noise=noise)
study = Study("", "01_three_sliders", PRESET, asdict(config))
config

# %% [markdown]
# ## 4 COMLN: how long should the head flow?
#
# The head $W$ of a task descends the support loss continuously, $\dot W=-\nabla L(W)$, for a time $T$. Here the embeddings are
# points of the plane (with a 1 for the bias) and the head has three classes, so that the whole adaptation can be seen: the
# regions it cuts the plane into. $T=0$ knows nothing; a long $T$ follows the few support points (large) wherever noise put
# them, more and more surely, and the loss on the query points (small) grows again. COMLN learns $T$ by its exact derivative.

# %%
stream = ctml.generator(seed, "three classes")
centres = torch.tensor([[0.0, 1.2], [1.1, -0.7], [-1.1, -0.7]], dtype=torch.float64)


def points(n):
    x = centres[:, None] + config.noise * torch.randn(3, n, 2, generator=stream, dtype=torch.float64)
    return x.flatten(0, 1), torch.arange(3).repeat_interleave(n)


def with_bias(x):
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


(support, labels), (query, query_labels) = points(config.shots), points(50)
side = torch.linspace(-3.2, 3.2, 80, dtype=torch.float64)
plane = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
COLOURS = [style.COLOURS[name] for name in ("maml", "anil", "reptile")]  # of classes here, not of methods


def head_after(T):
    start = torch.zeros(3, 3, dtype=torch.float64)
    return adapt_head(with_bias(support)[None], labels[None], start, torch.tensor([T], dtype=torch.float64))[0]


def show_horizon(ax, T):
    W = head_after(T)
    outputs = with_bias(query) @ W.T
    loss, right = float(ctml.cross_entropy(outputs[None], query_labels[None])), (outputs.argmax(1) == query_labels)
    sure = (with_bias(plane) @ W.T).softmax(-1)
    for k, colour in enumerate(COLOURS):
        ax.contourf(side, side, sure[..., k], [0.34, 0.5, 0.8, 1.01], colors=[(colour, a) for a in (0.08, 0.2, 0.35)])
        ax.scatter(*query[query_labels == k].T, s=3, color=colour, linewidths=0)
        ax.scatter(*support[labels == k].T, s=45, color=colour, edgecolors="black", linewidths=0.8)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
    ax.set_title(f"T = {T:.3g}: query loss {loss:.2f}, {float(right.double().mean()):.0%} right")


horizons = [0.0, *torch.logspace(-1.5, 3, config.places - 1, dtype=torch.float64).tolist()]
study.slider(
    show_horizon, {f"{T:.3g}": T for T in horizons}, "horizon", of="horizon T", where="comln",
    caption=f"A head of three classes after flowing for a time $T$ on {config.shots} support points a class (large; small: 50 query "
    "points a class, which it does not see). Shades: the class is given a probability above 0.34, 0.5 and 0.8. One task. "
    "More in `comln/01` and `comln/04`.",
)  # fmt: skip

# %% [markdown]
# *Try:* `SET="shots=50"`. With more support points a long horizon costs less. Why does it cost anything at all as long as the
# support points can be separated by lines?

# %% [markdown]
# ## 5 The MAML loss: how large may the inner step be?
#
# MAML's loss after one inner step of size $\alpha$ is $F(w)=\frac1M\sum_i f_i(w-\alpha f_i'(w))$. For small $\alpha$ it is convex where
# the tasks' losses $f_i$ are. Here are two strongly convex tasks of which one has a curvature that jumps (from 0.1 to
# $L=4$): as $\alpha L$ grows, the inner step overshoots beyond the jump, and $F$ gets a second minimum.

# %%
two, smoothness = CurvatureJump.two(), 4.0
w = torch.linspace(0, 22, 4001, dtype=torch.float64)[:, None]


def show_landscape(ax, alpha_L):
    alpha = alpha_L / smoothness
    height = maml_loss(two, alpha, w)
    minima = ((height[1:-1] < height[:-2]) & (height[1:-1] < height[2:])).nonzero()[:, 0] + 1
    ax.plot(
        w[:, 0], two.query(w[:, None].expand(-1, two.n_tasks, -1)).mean(-1), color=style.COLOURS["joint"], ls=":", lw=1
    )
    ax.plot(w[:, 0], height, color=style.COLOURS["maml"])
    ax.plot(w[minima, 0], height[minima], "o", color=style.COLOURS["maml"], ms=7)
    ax.annotate("mean of the $f_i$", (11.6, 6.5), color=style.COLOURS["joint"], size=8, ha="right")
    ax.set(xlabel="$w$", ylabel="MAML loss $F$", ylim=(2, 8), xlim=(0, 22))
    ax.set_title(rf"$\alpha L$ = {alpha_L:.2f}: {len(minima)} minim{'um' if len(minima) == 1 else 'a'}")


steps = torch.linspace(0.16, 0.96, config.places, dtype=torch.float64).tolist()
study.slider(
    show_landscape, {f"{a:.2f}": a for a in steps}, "inner_step", of="inner step α L", where="maml_ode",
    caption=r"The MAML loss (blue) of two strongly convex tasks for an inner step $\alpha$, its minima (dots), and for comparison the mean "
    "of the tasks' own losses (dotted). Nothing is random. More in `maml_ode/02` and `maml_ode/03`, where the second minimum "
    "decides where BI-MAML ends.",
)  # fmt: skip

# %% [markdown]
# *Try:* `CurvatureJump.one()` in place of `two()`: a single task. Where does $F$ stop being convex there?

# %% [markdown]
# ## 6 RK-MAML: how much weight on the second stage?
#
# The step $\theta^+=\theta-h\,[(1-a_2)\nabla L(\theta)+a_2\nabla L(\theta-qh\nabla L(\theta))]$ has order 2 exactly when $a_2q=\tfrac12$: its error
# is quartered when $h$ is halved. FO-MAML is $a_2=1$, $q=\tfrac12$. Leave $q$ there and move $a_2$ alone: an order is lost at
# once, however little it is moved. Let $q=1/(2a_2)$ follow, and the order stays.

# %%
logistic, start = LogisticRidge.draw(1, ctml.generator(seed, "one logistic task")), torch.full((5,), 3.0).double()
counts = [4, 8, 16, 32, 64]


def show_order(ax, a2):
    for rate, look, words in (
        (1 / (2 * a2), style.method("rk2").line(), r"$q=1/(2a_2)$"),
        (0.5, {"color": "0.45", "marker": "o", "linestyle": "--"}, r"$q=\frac{1}{2}$"),
    ):
        found = rk_maml.errors(logistic, start, 2.0, counts, rk2(a2), rate=rate)
        order = float(rk_maml.halving_slopes(found)[-1])
        ax.loglog([2 / n for n in counts], found, **{**look, "label": f"{words}: order {order:.2f}"})
    ax.set_xscale("log", base=2)
    ax.set(xlabel="step $h$", ylabel="error at time 2", ylim=(1e-5, 1), title=f"$a_2$ = {a2:.3g}")
    ax.legend(loc="lower right")


weights = torch.linspace(0.2, 1.2, config.places + 4, dtype=torch.float64).tolist()
study.slider(
    show_order, {f"{a2:.2f}": round(a2, 3) for a2 in weights}, "second_stage", of="weight a₂", where="rk_maml",
    caption="Distance from the gradient flow of one logistic task after time 2, against the step, when the second stage has the weight "
    "$a_2$: with the stage's place tied to it, and with FO-MAML's. The order is the slope at the last halving. More in `rk_maml/01`.",
)  # fmt: skip

# %% [markdown]
# *Try:* `theory.rk_maml.errors(..., order="second")` is exact MAML; at which rate does it have order 2?
#
# ## 7 Provenance

# %%
study.close()
