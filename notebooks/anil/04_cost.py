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
# # What ANIL saves: counted, timed and weighed
#
# *Executed, with its figures and verdicts:* [results/quick/anil/04_cost](../../results/quick/anil/04_cost/04_cost.ipynb)
#
# **Paper** Ji, Lee, Liang, Poor, *Convergence of Meta-Learning with Task-Specific Adaptation over Partial Parameters*
# (NeurIPS 2020), the complexity analysis. Its table was not readable; the counts here are derived from the algorithm.
#
# **Question** How much cheaper is one exact meta-gradient of ANIL than one of MAML: in entries of gradients and
# second derivatives, in time, in memory?
#
# **Answer in one line** In entries by the share of the parameters that adapt, about one in a hundred; in time by
# less, as both pay for one pass through the body; and the inner loop's memory can be kept small by either of two
# exact ways.
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` | 2 cores | about 1 |
# | `long` (32 filters) | 2 cores | about 10, estimated |
# | `paper` (64 filters, meta-batch 32) | one GPU | 2 |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, replace
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml.agreement import relative_error
from ctml.companion import Study, choose, plots, style
from ctml.counting import count_gradients
from ctml.learners.anil_backward import Autograd, EulerAdjoint, Reverse
from ctml.learners.vector import meta_gradient_vector
from ctml.memory import peak_bytes
from ctml.models import Conv4, DeepHead
from ctml.tasks import Noise
from ctml.theory.anil import anil_cost, maml_cost
from ctml.timing import in_turns

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
width: int | None = None  # >= 1: filters of a convolution
meta_batch: int | None = None  # >= 1: tasks of an outer step
device: str | None = None  # cpu | cuda | cuda:*: where it runs

# %% [markdown]
# ## 3 Configuration
#
# Images of FC100's size, 32 x 32 in colour, 5-way with 5 support and 5 query images a class, as in the reference code
# of the same laboratory. Cost does not depend on what the images show: they are noise here. The paper's own numbers
# were not readable; *ours* are marked.


# %%
@dataclass(frozen=True)
class Config:
    width: int = 64  # filters of a convolution, as in the reference code
    meta_batch: int = 32  # as there
    repeats: int = 15  # turns of timing; ours
    device: str = "cuda"  # ours
    inner_steps: tuple[int, ...] = (1, 3, 5, 7, 10)  # N; ours
    long_steps: tuple[int, ...] = (1, 10, 30, 100)  # N for memory, head only; ours
    ways: int = 5  # classes of a task, as in the reference code, and so is all below
    shots: int = 5  # support images a class, and as many query images
    side: int = 32  # of an image, in pixels


PAPER = Config()
QUICK = replace(PAPER, width=16, meta_batch=4, repeats=7, device="cpu")
SMOKE = replace(QUICK, width=4, meta_batch=2, repeats=1, inner_steps=(1, 5), long_steps=(10, 100))
LONG = replace(QUICK, width=32, repeats=15)
PRESETS = {"paper": PAPER, "long": LONG, "quick": QUICK, "smoke": SMOKE}
config = choose(PRESETS, PRESET, width=width, meta_batch=meta_batch, device=device)
study = Study("anil", "04_cost", PRESET, asdict(config))
torch.set_num_threads(1)
config

# %% [markdown]
# ## 4 The idea
#
# One task's meta-gradient evaluates, for $n_w$ adapted and $n_\phi$ common parameters and $N$ steps,
#
# | | how often | ANIL, entries | MAML, entries |
# |---|---|---|---|
# | inner gradients | $N$ | $N n_w$ | $N(n_w+n_\phi)$ |
# | outer gradients | 1 | $n_w+n_\phi$ | $n_w+n_\phi$ |
# | $\partial^2_wL_S\,v$ | $N$ | $N n_w^2$ | $N(n_w+n_\phi)^2$ |
# | $(\partial_\phi\partial_wL_S)^\top v$ | $N$ | $N n_wn_\phi$ | none |
#
# (entries of the gradients, and of the matrices that the products would need if they were formed). MAML is ANIL with
# everything in $w$: so does the code count it. Three exact ways to the same vector:
#
# | `backward=` | keeps | per inner step |
# |---|---|---|
# | `Autograd()` | the graph of the inner loop | all intermediate results |
# | `Reverse()` | $w_0,\dots,w_N$; forms the products of the algorithm step by step | $n_w$ numbers a task |
# | `EulerAdjoint()` | states of the head's gradient flow (inner steps are its Euler steps) | support $\times$ ways numbers |


# %%
def make_batch(n_tasks, dtype=torch.float32):
    """Return a meta-batch of noise images."""
    tasks = Noise(config.ways, config.shots, config.shots, (3, config.side, config.side))
    return tasks.sample(n_tasks, ctml.generator(0, "noise")).to(config.device, dtype)


def make_learner(method, inner_steps, filters=None, dtype=torch.float32, **options):
    """Return ANIL on the head, ANIL on the last two blocks and the head, or MAML."""
    model = Conv4(
        3, config.ways, width=filters or config.width, side=config.side, generator=ctml.generator(0, "initial weights")
    )
    if method == "blocks":
        model = DeepHead(model, 2)
    if method == "maml":
        options["adapts"] = lambda name: True
    model = model.to(config.device, dtype)
    return ctml.ANIL(model, ctml.cross_entropy, inner_lr=0.1, inner_steps=inner_steps, **options)


METHODS = {"head": "ANIL, head", "blocks": "ANIL, 2 blocks and head", "maml": "MAML"}
LOOKS = dict(zip(METHODS, (style.method(k) for k in ("anil", "fo_maml", "maml")), strict=True))

# %% [markdown]
# ## 5 The method checked before use
#
# In float64, all three ways against autograd; and MAML as ANIL against `ctml.MAML`.


# %%
WAYS = {"autograd": Autograd(), "reverse": Reverse(), "adjoint": EulerAdjoint()}
batch = make_batch(3, torch.float64)
float64 = {"filters": 4, "dtype": torch.float64}
rows = []
for n in (1, 5, 20):
    exact = {m: meta_gradient_vector(make_learner(m, n, **float64), batch) for m in METHODS}
    ways = [(m, "reverse") for m in METHODS] + [("head", "adjoint")]
    learners = {way: make_learner(way[0], n, backward=WAYS[way[1]], **float64) for way in ways}
    plain = make_learner("maml", n, **float64).model
    learners["maml", "ctml.MAML"] = ctml.MAML(plain, ctml.cross_entropy, inner_lr=0.1, inner_steps=n)
    rows += [
        {"method": m, "way": way, "N": n, "error": relative_error(meta_gradient_vector(learner, batch), exact[m])}
        for (m, way), learner in learners.items()
    ]
checks = study.table(pd.DataFrame(rows), "checks")
checks.pivot(index=["method", "way"], columns="N", values="error")

# %%
study.claim("anil-adjoint", error=checks.error)

# %% [markdown]
# ## 6 Data
#
# None: noise of the right shape.
#
# ## 7 Experiments
#
# ### Counted
#
# An instrument at the outputs of the model counts the gradients and the second-order products of one meta-gradient as
# they are taken; times the sizes of what they give, against the formulas; 64 filters, as on FC100.

# %%
rows = []
for n in config.inner_steps:
    for method in METHODS:
        learner = make_learner(method, n, filters=64 if PRESET != "smoke" else config.width)
        with count_gradients(learner) as count:
            learner.meta_gradient(make_batch(1))
        n_w, n_phi = (sum(p.numel() for p in ps.values()) for ps in (learner.shared(), learner.common()))
        gradient = count.gradients * n_w + n_phi  # of w each time, of phi once, by the query loss
        second_order = count.second_order * n_w * (n_w + n_phi)  # H v and C' v come of one pass
        formula = maml_cost(n_w, n_phi, n) if method == "maml" else anil_cost(n_w, n_phi, n)
        miscounted = abs(gradient - formula.gradient) + abs(second_order - formula.second_order)
        rows.append(
            {"method": method, "N": n, "n_w": n_w, "n_phi": n_phi, "gradient": gradient, "second_order": second_order,
             "miscounted": miscounted}
        )  # fmt: skip
counts = study.table(pd.DataFrame(rows), "counts")
counts

# %% [markdown]
# ### Timed
#
# One exact meta-gradient (autograd through the inner loop) of a meta-batch; the methods take turns, so that a busy
# machine slows all, and the least time of each counts.

# %%
batch = make_batch(config.meta_batch)
learners = {(m, n): make_learner(m, n) for n in config.inner_steps for m in METHODS}
turns = in_turns({k: partial(lr.meta_gradient, batch) for k, lr in learners.items()}, config.repeats, config.device)
times = pd.DataFrame(
    {"method": m, "N": n, "turn": i, "seconds": t} for (m, n), ts in turns.items() for i, t in enumerate(ts)
)
study.table(times.round(6), "times")
least = times.groupby(["N", "method"]).seconds.min().unstack()
ratio = least["maml"] / least["head"]
least.assign(ratio=ratio).round(4)

# %% [markdown]
# ### Weighed
#
# Peak memory of one meta-gradient above what is there before it. With long inner loops, the head only.


# %%
def weigh(label, method, inner_steps, backward):
    """Return the peak memory of one meta-gradient as a row of the table."""
    learner = make_learner(method, inner_steps, backward=WAYS[backward])
    taken = peak_bytes(lambda: learner.meta_gradient(batch), config.device)
    return {"method": label, "backward": backward, "N": inner_steps, "bytes": taken}


rows = [weigh(m, m, n, b) for n in config.inner_steps for m in METHODS for b in ("autograd", "reverse")]
rows += [weigh("head, long", "head", n, b) for n in config.long_steps for b in WAYS]
memory = study.table(pd.DataFrame(rows), "memory")
long = memory[memory.method == "head, long"].pivot(index="N", columns="backward", values="bytes")
growth = long.loc[100] - long.loc[10]
(long / 2**20).round(3)

# %%
fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.2))
for method, label in METHODS.items():
    look = LOOKS[method].line() | {"label": label}
    entries = counts[counts.method == method]
    axes[0].plot(entries.N, entries.second_order, **look)
    axes[1].plot(least.index, 1e3 * least[method], **look)
    weight = memory[(memory.method == method) & (memory.backward == "autograd")]
    axes[2].plot(weight.N, weight.bytes / 2**20, **look)
for ax, label in zip(axes, ("second-order entries a task", "milliseconds", "peak memory, MiB"), strict=True):
    ax.set(xlabel="inner steps $N$", ylabel=label, yscale="log")
most = int(least.index[-1])
titles = ("counted", f"MAML {least.maml.iloc[-1] / least['head'].iloc[-1]:.0f} times ANIL's at N = {most}", "memory")
for ax, title in zip(axes, titles, strict=True):
    ax.set_title(title)
plots.name_lines(axes[2])
study.figure(
    fig,
    "anil_against_maml",
    "One exact meta-gradient. Left: entries of second derivatives, as counted (64 filters). Middle: least time of "
    f"{config.repeats} turns, {config.meta_batch} tasks, {config.width} filters, {config.device}. Right: peak "
    "memory of the same. The paper's table and figures were not seen.",
    where="complexity analysis",
)

# %%
fig, ax = plt.subplots(figsize=style.NARROW)
BACKWARD = dict(zip(("autograd", "reverse", "adjoint"), style.NEUTRAL, strict=True))
for (backward, colour), marker in zip(BACKWARD.items(), "os^", strict=True):
    ax.plot(long.index, (long[backward] - long[backward].iloc[0]) / 2**10, color=colour, marker=marker, label=backward)
ax.set(xlabel="inner steps $N$", ylabel=f"KiB more than at $N={long.index[0]}$")
last = {name: float(long[name].iloc[-1] - long[name].iloc[0]) for name in BACKWARD}
ax.set_title(
    f"reverse {last['reverse'] / last['autograd']:.0%}, adjoint {last['adjoint'] / last['autograd']:.0%} of autograd's growth"
)
plots.name_lines(ax)
study.figure(
    fig,
    "three_ways_to_one_gradient",
    f"Peak memory of ANIL's exact meta-gradient (head, {config.meta_batch} tasks, {config.width} filters) above "
    "that at the fewest inner steps, for three ways to the same numbers. Ours; not in the paper.",
)

# %% [markdown]
# ## 8 Claims

# %%
study.claim("anil-e11", miscounted=counts.miscounted, time_ratio=ratio[ratio.index >= 5])

# %%
study.claim("anil-memory", **{f"{k}_growth": float(growth[k]) for k in ("autograd", "reverse", "adjoint")})

# %% [markdown]
# ## 9 Where this differs from the paper
#
# - The paper's table of complexities was not readable: what is counted here is the algorithm, per task and
#   meta-gradient; how many meta-gradients reach a given accuracy is the subject of notebook 01.
# - Entries are what a matrix would hold; no matrix is ever formed. A Hessian-vector product costs a few gradients, so
#   time follows the gradients' entries and the body's one pass, not $n^2$.
# - Convolutions here have no bias (batch norm would undo it): 256 parameters fewer than the reference network at 64
#   filters.
#
# ## 10 Variants to try
#
# - `SET="width=64"`: the wider the body, the larger MAML's share of second-order work.
# - `SET="meta_batch=32"`, or `tasks_at_once=` in `make_learner`: memory against time.
# - Another split: `adapts="blocks.0"` adapts the *first* block; nothing can be kept then.
#
# ## 11 Provenance

# %%
study.close()
