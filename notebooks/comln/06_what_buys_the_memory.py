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
# # What buys the memory?
#
# **Paper:** Deleu et al., *Continuous-Time Meta-Learning with Forward Mode Differentiation* (COMLN), ICLR 2022, section 3.2,
# Table 1.
#
# **Question:** COMLN needs little memory for a long adaptation. Three things are new in it at once: it walks in the small
# state $s$ instead of the weights, it takes adaptive steps, and it differentiates forward. Which of them buys the memory?
#
# **Answer:** the small state and the adaptive steps. With both, plain automatic differentiation through the steps needs
# less memory and less time than forward mode at every length tried here; what forward mode alone can do is to keep the
# memory strictly constant when the steps are many. The decomposition is what makes forward mode possible at all: written
# naively, it grows with the square of the number of features.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.3 |
# | quick | 2 CPU cores | 1 |
# | long | 2 CPU cores, as paper | 3, estimated |
# | paper | 2 CPU cores | 3, estimated |

# %%
from dataclasses import asdict, dataclass, replace
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from torchdiffeq import odeint

import ctml
from ctml.agreement import relative_error
from ctml.companion import Study, choose, style
from ctml.flows import Adaptive, Adjoint, FixedSteps, ForwardMode, Unrolled, adapt_head
from ctml.flows.head_descent import descend_head
from ctml.flows.tableaus import EULER
from ctml.memory import peak_bytes
from ctml.tasks import Embeddings
from ctml.theory import rates
from ctml.theory.naive_sensitivities import naive_sensitivities
from ctml.timing import median_seconds

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
shots: int | None = None  # >= 1: support examples of a class

# %% [markdown]
# ## Configuration
# One 5-way task, $\alpha=0.01$, $d=1{,}600$ features as in the paper's Figure 3; all else is *ours*. The features are given,
# so the costs are those of the adaptation and its meta-gradient alone.


# %%
@dataclass(frozen=True)
class Config:
    shots: int = 5
    steps: tuple[int, ...] = (10, 100, 1000, 5000)  # gradient steps; the flow runs for 0.01 of them
    naive_d: tuple[int, ...] = (16, 32, 64, 128, 256)  # features, for the naive sensitivities
    repeats: int = 5


PAPER = Config()
PRESETS = {
    "paper": PAPER,
    "long": PAPER,
    "quick": replace(PAPER, steps=(10, 100, 1000)),
    "smoke": replace(PAPER, shots=1, steps=(2, 4), naive_d=(4, 8, 16), repeats=1),
}
config = choose(PRESETS, PRESET, shots=shots)
study = Study("comln", "06_what_buys_the_memory", PRESET, {**asdict(config), "seed": seed})
RATE, SOLVER = 0.01, Adaptive(rtol=1e-5, atol=1e-7)
config

# %% [markdown]
# ## Table 1 of the paper
# Memory of one exact meta-gradient, as it is printed there: $\lvert\theta\rvert$ parameters of the network, $N$ ways, $d$
# features, $M$ support examples, $T$ inner steps.
#
# | method | memory | exact |
# |---|---|---|
# | MAML | $O(\lvert\theta\rvert\,T)$ | yes |
# | ANIL | $O(Nd\,T)$ | yes |
# | checkpointing | $O(\lvert\theta\rvert\sqrt T)$ | yes |
# | iMAML | $O(\lvert\theta\rvert)$ | no |
# | forward mode, naive | $O(N^2d^2+MNd^2)$ | yes |
# | COMLN | $O(M^2N^2+M^3N)$ | yes |
#
# The table has no row for automatic differentiation through the steps of $s$: $O(MN)$ a stage. At $M=25$, $N=5$ that is
# 125 numbers a stage beside forward mode's 94,000, so forward mode pays from some hundreds of stages on, if it pays.

# %% [markdown]
# ## Nine ways to one gradient
# State: the weights $W$ ($Nd$ numbers) or $s$ ($MN$ numbers). Steps: fixed (Euler, as many as ANIL takes) or adaptive
# (Dormand-Prince). Derivative: by automatic differentiation of every step (*unrolled*), *forward*, or by our *adjoint*.


# %%
def in_weights(phi, y, W_0, steps):
    """The flow in the full weight space, by torchdiffeq's adaptive steps, unrolled."""
    Y = F.one_hot(y, len(W_0)).to(phi.dtype)
    slope = lambda _, W: -((phi @ W.mT).softmax(-1) - Y).mT @ phi / phi.shape[1]  # noqa: E731
    return odeint(slope, W_0.expand(len(phi), -1, -1), phi.new_tensor([0.0, RATE * steps]), rtol=1e-5, atol=1e-7)[-1]


def in_s(phi, y, W_0, steps, fixed, way):
    """The flow in the small state."""
    T = phi.new_tensor(RATE * steps)
    return adapt_head(phi, y, W_0, T, solver=FixedSteps(steps, EULER) if fixed else SOLVER, gradient=way)


WAYS = {("W", "fixed", "unrolled"): partial(descend_head, rate=RATE), ("W", "adaptive", "unrolled"): in_weights}
for fixed in (True, False):
    for name, way in (("unrolled", Unrolled()), ("forward", ForwardMode()), ("adjoint", Adjoint())):
        WAYS["s", "fixed" if fixed else "adaptive", name] = partial(in_s, fixed=fixed, way=way)


def meta_gradient(way, steps, dtype=torch.float32):
    """Gradient of the test loss in the features and the head of one task."""
    stream = ctml.generator(seed, "embeddings")
    synthetic = Embeddings(5, config.shots, 15, d=1600, noise=1.0, scale=0.5**0.5, dtype=torch.float32)
    batch, W_0 = synthetic.sample(1, stream).to("cpu", dtype), synthetic.head(stream).to(dtype).requires_grad_()
    phi = batch.support.x.requires_grad_()
    W = WAYS[way](phi, batch.support.y, W_0, steps=steps)
    return torch.autograd.grad(ctml.cross_entropy(batch.query.x @ W.mT, batch.query.y).sum(), (phi, W_0))


def cost(way, steps):
    """Memory and time of one meta-gradient."""
    work = partial(meta_gradient, way, steps)
    work()
    peak, seconds = peak_bytes(work), median_seconds(work, config.repeats)
    return {
        **dict(zip(("state", "steps taken", "derivative"), way, strict=True)),
        "K": steps,
        "bytes": peak,
        "seconds": seconds,
    }


exact = {"fixed": meta_gradient(("W", "fixed", "unrolled"), config.steps[1], torch.float64)}
exact["adaptive"] = meta_gradient(("W", "adaptive", "unrolled"), config.steps[1], torch.float64)
wrong = {
    way: max(map(relative_error, meta_gradient(way, config.steps[1], torch.float64), exact[way[1]])) for way in WAYS
}
assert max(error for way, error in wrong.items() if way[1] == "fixed") < 1e-10, wrong
assert max(wrong.values()) < 1e-3, wrong  # adaptive: two solvers of equal tolerance
runs = [{"way": way, "steps": steps} for way in WAYS for steps in config.steps]
costs = study.table(pd.DataFrame(study.map(cost, runs)), "decomposition")
costs = costs.assign(MiB=costs["bytes"] / 2**20, ms=1e3 * costs["seconds"])
costs.pivot_table(index=["state", "steps taken", "derivative"], columns="K", values=["MiB", "ms"], sort=False).round(2)

# %%
LOOKS = {"unrolled": ("anil", "o"), "forward": ("comln", "P"), "adjoint": ("comln_adjoint", "D")}
fig, axes = plt.subplots(1, 2, figsize=(style.WIDE[0], 3.4))
for (state, taken, derivative), rows in costs.groupby(["state", "steps taken", "derivative"], sort=False):
    colour, marker = LOOKS[derivative]
    line = {"color": "k" if state == "W" else style.COLOURS[colour], "ls": "--" if taken == "fixed" else "-"}
    for ax, what in zip(axes, ("MiB", "ms"), strict=True):
        ax.plot(rows["K"], rows[what], marker=marker, markersize=4, **line, label=f"{state}, {taken}, {derivative}")
        ax.set(xscale="log", yscale="log", xlabel="inner gradient steps $K$, $T=0.01K$")
axes[0].set(ylabel="memory (MiB)", title="small state and adaptive steps buy the memory")
axes[0].set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
axes[0].minorticks_off()
axes[1].set(ylabel="time (ms)", title="and the time")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=3.5)
study.figure(
    fig,
    "decomposition",
    f"One meta-gradient of one 5-way {config.shots}-shot task, d = 1,600 features that are given; CPU, float32, one thread; median of "
    f"{config.repeats} runs. Black: in weight space. Broken lines: as many Euler steps as ANIL takes; solid: Dormand-Prince. Ours: "
    "the paper compares whole methods.",
    where="Table 1",
)

# %% [markdown]
# ## Why decompose: forward mode, naively
# Without the decomposition the Jacobians of $W$ are carried whole. Their memory grows with $d^2$; at $d=1{,}600$ it would be
# 1.5 GB. (Notebook 02 checks the decomposition; the naive form here is checked against autograd in the tests.)


# %%
def naive_cost(d):
    """Memory and time of one Euler step of the naive sensitivities, and of COMLN's."""
    stream, tasks = ctml.generator(seed, "naive"), Embeddings(5, config.shots, 15, d=d, dtype=torch.float32)
    (phi, y), W_0 = tasks.sample(1, stream).support, tasks.head(stream)
    works = {
        "naive": lambda: naive_sensitivities(phi[0], y[0], W_0, rate=RATE, steps=10),
        "COMLN": lambda: adapt_head(
            phi.requires_grad_(), y, W_0, phi.new_tensor(0.1), solver=FixedSteps(10, EULER), gradient=ForwardMode()
        ),
    }
    return [{"d": d, "method": m, "bytes": peak_bytes(w), "seconds": median_seconds(w, 3)} for m, w in works.items()]


rows = [row for rows in study.map(naive_cost, [{"d": d} for d in config.naive_d]) for row in rows]
naive = study.table(pd.DataFrame(rows), "naive_forward_mode")
by_method = naive.pivot_table(index="d", columns="method", values="bytes")
by_method.div(2**20).rename(columns="{} (MiB)".format).round(2)

# %% [markdown]
# ## Claims

# %%
tail = by_method["naive"].iloc[-3:]
study.claim(
    "comln-naive", slope=rates.power(tail.index.to_numpy(), tail.to_numpy()).value, comln_bytes=by_method["COMLN"]
)

# %%
at = costs[costs["K"] == config.steps[-1]].set_index(["state", "steps taken", "derivative"])
one, other = at.loc[("s", "adaptive", "unrolled")], at.loc[("s", "adaptive", "forward")]
study.claim("comln-what-buys", memory=other["bytes"] / one["bytes"], time=other["seconds"] / one["seconds"])

# %% [markdown]
# ## The answer in plain words
# Walk in the small state, with adaptive steps, and differentiate as usual: that is most of the gain. Forward mode keeps the
# memory constant however many steps are taken, at a price in time. Our adjoint keeps what plain differentiation keeps, less
# the graph.
#
# ## Exercises
# 1. How many numbers does forward mode hold for a 5-way 5-shot task, and how many does the small state have?
#
# <details><summary>Solution</summary>
#
# ```python
# M, N = 25, 5
# assert (M * N * M * N + M * N * M * M, M * N) == (93750, 125)
# ```
#
# </details>
#
# 2. From how many stored states on does forward mode need less than they do?
#
# <details><summary>Solution</summary>
#
# ```python
# M, N = 25, 5
# assert (M * N * M * N + M * N * M * M) // (M * N) == M * N + M * M == 750
# ```
#
# </details>
#
# 3. And in a 20-way 5-shot task?
#
# <details><summary>Solution</summary>
#
# Forward mode grows with the cube of the support set: the more examples, the later it pays.
#
# ```python
# M, N = 100, 20
# assert M * N + M * M == 12_000
# ```
#
# </details>
#
# More to vary: `SET="shots=10"`.
#
# ## Provenance

# %%
study.close()
