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
# # More inner steps: a help for the head, a hindrance for the last blocks?
#
# *Executed, with its figures and verdicts:* [results/quick/anil/03_few_shot](../../results/quick/anil/03_few_shot/03_few_shot.ipynb)
#
# **Paper** Ji, Lee, Liang, Poor, *Convergence of Meta-Learning with Task-Specific Adaptation over Partial Parameters*
# (NeurIPS 2020), the experiments. Their curves were not seen; the abstract says that they agree with the theory.
#
# **Question** A four-block network, 5-way 5-shot. Once the linear head adapts with a ridge (strongly convex), once
# the last two blocks and the head (nonconvex). How do training loss and accuracy depend on the number $N$ of inner
# steps, per outer step and per second?
#
# **Answer in one line** For the head more steps help, per outer step and mostly per second; for the last blocks it is
# the product of step size and $N$ that decides: at a small step more of them help too, at a large one they hurt, and
# $\alpha\propto1/N$ levels them out.
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` (glyphs, 100 outer steps) | 2 cores | about 4 |
# | `long` (glyphs, 500 outer steps, 5 seeds) | 2 cores | about 90, estimated |
# | `paper` (FC100, 1000 outer steps, 100 runs) | one GPU | some hours |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
import torch

import ctml
from ctml import data
from ctml.agreement import relative_error
from ctml.companion import Study, choose, plots, style
from ctml.learners.vector import meta_gradient_vector
from ctml.models import Conv4, DeepHead
from ctml.tasks import FewShot, Noise
from ctml.theory.anil import head_smoothness, step_size
from ctml.timing import in_turns

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
dataset: str | None = None  # glyphs | omniglot | cifar_fs | fc100 | mini_imagenet | tiered_imagenet
outer_steps: int | None = None  # >= 1
outer_lr: float | None = None  # > 0: of Adam
seeds: int | None = None  # >= 1: runs of each setting
deep_blocks: int | None = None  # >= 1 and <= 4: adapted in the nonconvex case
device: str | None = None  # cpu | cuda | cuda:*: where it runs

# %% [markdown]
# ## 3 Configuration
#
# What the paper used exactly (grid of $N$, step sizes, the layers of its nonconvex case) was not readable. The
# `paper` preset takes the reference settings of the same laboratory and of the library that it builds on: 64 filters,
# 5 support and 5 query images a class, meta-batch 32, Adam 1e-3, 1000 outer steps on FC100 (miniImageNet: 2000 and
# 2e-3, `SET="dataset=mini_imagenet outer_steps=2000 outer_lr=0.002"`), inner step 0.1. *Ours*: the ridge, the two
# last blocks as nonconvex case, the steps 1 and $1/N$, the accuracy protocol, and everything of `quick`.


# %%
@dataclass(frozen=True)
class Config:
    dataset: str = "fc100"  # the paper's, beside miniImageNet
    outer_steps: int = 1000  # as in the reference code, and so is all down to N
    outer_lr: float = 1e-3  # of Adam
    meta_batch: int = 32  # tasks of an outer step
    width: int = 64  # filters of a convolution
    ways: int = 5  # classes of a task
    shots: int = 5  # support images a class
    queries: int = 5  # query images a class
    inner_steps: tuple[int, ...] = (1, 3, 5, 7, 10)  # N
    deep_blocks: int = 2  # adapted in the nonconvex case, beside the head; ours, and so is all below
    ridge: float = 0.1  # mu of the strongly convex case
    photographs: str = "cifar_fs or glyphs"  # on which `quick` runs the two extreme cases
    seeds: int = 5  # runs of each setting
    every: int = 50  # outer steps between accuracies
    validation_tasks: int = 200  # of each accuracy on the way
    test_tasks: int = 1000  # of the last
    device: str = "cuda"  # where it all runs


PAPER = Config()
SMALL = replace(PAPER, dataset="glyphs", outer_lr=3e-3, meta_batch=4, width=8, device="cpu")
QUICK = replace(SMALL, outer_steps=100, seeds=3, every=25, validation_tasks=20, test_tasks=100)
TINY = {"outer_steps": 2, "meta_batch": 2, "width": 4, "every": 1, "validation_tasks": 2, "test_tasks": 2}
SMOKE = replace(SMALL, seeds=2, inner_steps=(1, 3, 10), **TINY)
LONG = replace(QUICK, outer_steps=500, seeds=5, every=50, validation_tasks=50, test_tasks=300)
PRESETS = {"paper": PAPER, "long": LONG, "quick": QUICK, "smoke": SMOKE}
given = dict(dataset=dataset, outer_steps=outer_steps, outer_lr=outer_lr, seeds=seeds, deep_blocks=deep_blocks)
config = choose(PRESETS, PRESET, device=device, **given)
study = Study("anil", "03_few_shot", PRESET, asdict(config))
config

# %% [markdown]
# ## 4 The idea
#
# Same meta-objective, $F(w,\phi)=\mathbb E_i\,L_{Q_i}(w^i_N,\phi)$; what changes is which parameters are $w$:
#
# | case | $w$ | inner loss $L_S$ | step $\alpha$ |
# |---|---|---|---|
# | head | linear head | cross-entropy $+\tfrac\mu2\lvert w\rvert^2$: strongly convex | 0.1 |
# | blocks | last two blocks and head | cross-entropy: nonconvex | 0.1 |
# | blocks, large step | the same | the same | 1 |
# | blocks, step 1/N | the same | the same | $1/N$ |
#
# | paper | code |
# |---|---|
# | $w$, $\phi$ | `learner.shared()`, `learner.common()` |
# | $\alpha$, $N$, $\mu$ | `inner_lr`, `inner_steps`, `ridge` |
# | the choice of $w$ | `ANIL(adapts=...)`; a cut network (`DeepHead`) keeps the features below the cut |

# %%
CASES = {"head": "head", "blocks": "blocks, step 0.1", "large": "blocks, step 1", "rule": "blocks, step 1/N"}


def make_learner(case, inner_steps, image, seed):
    """Return the learner of one case for images of a shape (channels, side, side)."""
    model = Conv4(
        image[0], config.ways, width=config.width, side=image[1], generator=ctml.generator(seed, "initial weights")
    )
    options = {"inner_steps": inner_steps, "inner_lr": 0.1}
    if case == "head":
        return ctml.ANIL(model, ctml.cross_entropy, ridge=config.ridge, **options)
    if case == "large":
        options["inner_lr"] = 1.0
    elif case == "rule":
        options["inner_lr"] = step_size(1.0, inner_steps, "nonconvex")
    return ctml.ANIL(DeepHead(model, config.deep_blocks), ctml.cross_entropy, **options)


# %% [markdown]
# ## 5 The method checked before use
#
# The cut network with kept features gives the meta-gradient of the whole network told to adapt the same blocks by
# name.

# %%
noise = Noise(5, 1, 1, (1, 16, 16)).sample(3, ctml.generator(0, "noise")).to(dtype=torch.float64)
network = Conv4(1, 5, width=4, side=16, generator=ctml.generator(0, "check")).double()
options = {"inner_lr": 0.1, "inner_steps": 3}
by_name = ctml.ANIL(network, ctml.cross_entropy, adapts=("blocks.2", "blocks.3", "head"), **options)
cut = ctml.ANIL(DeepHead(network, 2), ctml.cross_entropy, **options)
relative_error(meta_gradient_vector(cut, noise), meta_gradient_vector(by_name, noise))

# %% [markdown]
# ## 6 Data
#
# The classes of the three splits are disjoint. `quick` uses glyphs, which need no download (`SET="dataset=omniglot"`
# for Omniglot). Where CIFAR-FS can be had, the two extreme cases run on it as well, with two seeds: small colour
# photographs are what the paper's own data look like.


# %%
def pool(source, split):
    """Load one split of a data set."""
    return data.pool(source, split, validation=100)


MAIN = data.first_available(config.dataset)
sources = [MAIN]
if PRESET == "quick" and (photographs := data.first_available(config.photographs)) != MAIN:
    sources.append(photographs)
names = {source: study.data(pool(source, "train").source) for source in sources}
names

# %% [markdown]
# ## 7 Experiments


# %%
def train_one(source, case, inner_steps, seed, checkpoint):
    """Meta-train one learner; return its losses, its accuracies on the way and on test classes."""
    splits = {
        split: FewShot(pool(source, split).to(config.device), config.ways, config.shots, config.queries)
        for split in ("train", "val", "test")
    }
    image = splits["train"].pool.examples.shape[1:]
    learner = make_learner(case, inner_steps, image, seed).to(config.device)
    optimizer = torch.optim.Adam(learner.parameters(), lr=config.outer_lr)
    validation = ctml.Validation(splits["val"], every=config.every, n_tasks=config.validation_tasks)
    history = ctml.meta_train(
        learner, splits["train"], optimizer=optimizer, steps=config.outer_steps, meta_batch=config.meta_batch,
        seed=seed, validation=validation, checkpoint=checkpoint, device=config.device, progress=False,
    )  # fmt: skip
    test = ctml.meta_test(learner, splits["test"], n_tasks=config.test_tasks, seed=seed, device=config.device)
    run = {"loss": history.loss, "validation": history.validation, "accuracy": test.interval.mean}
    if case == "head":
        with torch.no_grad():
            features = learner.embed(splits["train"].sample(20, ctml.generator(seed, "L")).support.x.to(config.device))
            run["L"] = float(head_smoothness(features, config.ridge).median())
    return run


def runs_of(source):
    """List the runs on one data set: all of them, or the two extreme cases on photographs."""
    extra = source != MAIN
    return [
        {"source": source, "case": case, "inner_steps": n, "seed": seed}
        for case in (("head", "large") if extra else CASES)
        for n in ((1, 3, 10) if extra else config.inner_steps)
        for seed in range(2 if extra else config.seeds)
    ]


runs = [run for source in sources for run in runs_of(source)]
results = [run | result for run, result in zip(runs, study.map(train_one, runs), strict=True)]

# %% [markdown]
# **Seconds** The meta-gradient of each setting is timed by itself after training, in turns, and the least of several
# counts. Time on the figures' axes is outer steps times that; evaluation is not in it.


# %%
def outer_step(source, case, inner_steps):
    """Return the work of one outer step."""
    tasks = FewShot(pool(source, "train"), config.ways, config.shots, config.queries)
    learner = make_learner(case, inner_steps, tasks.pool.examples.shape[1:], 0).to(config.device)
    batch = tasks.sample(config.meta_batch, ctml.generator(0, "timing")).to(config.device)
    return lambda: learner.meta_gradient(batch)


torch.set_num_threads(1)  # as each run had
works = {setting: outer_step(*setting) for setting in ((r["source"], r["case"], r["inner_steps"]) for r in runs)}
seconds = {setting: min(t) for setting, t in in_turns(works, 2 if PRESET == "smoke" else 7, config.device).items()}


# %%
def table_of(run):
    """Return one run as a table: trailing mean of the loss over ten outer steps, each of few fresh tasks."""
    step = range(1, len(run["loss"]) + 1)
    loss = pd.Series(run["loss"]).rolling(10, min_periods=1).mean()
    key = {"data": names[run["source"]], "case": run["case"], "N": run["inner_steps"], "seed": run["seed"]}
    time_per_step = seconds[run["source"], run["case"], run["inner_steps"]]
    table = pd.DataFrame(key | {"step": step, "seconds": [time_per_step * k for k in step], "loss": loss})
    return table.merge(pd.DataFrame(run["validation"], columns=["step", "validation"]), how="left", on="step")


curves = study.table(pd.concat(map(table_of, results), ignore_index=True).round(5), "curves")
summary = pd.DataFrame(results).rename(columns={"inner_steps": "N"}).drop(columns=["loss", "validation"])
summary["final_loss"] = [sum(r["loss"][-10:]) / len(r["loss"][-10:]) for r in results]
summary["ms_per_step"] = [1e3 * seconds[r["source"], r["case"], r["inner_steps"]] for r in results]
study.table(summary, "summary").groupby(["source", "case", "N"], sort=False).mean().drop(columns="seed").round(3)

# %%
ROWS = (("step", "loss"), ("seconds", "validation"))
NAMES = {"step": "outer step", "seconds": "seconds of training", "loss": "training loss",
         "validation": "accuracy, new classes"}  # fmt: skip


def show(source, cases, name):
    """Draw loss per outer step and accuracy per second, one column a case: mean and range of seeds."""
    fig, axes = plt.subplots(2, len(cases), figsize=(0.6 + 2.6 * len(cases), 5), sharey="row", squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        (x, y), case = ROWS[row], cases[column]
        chosen = curves[(curves.data == names[source]) & (curves.case == case)].dropna(subset=y)
        palette = [PALETTE[n] for n in sorted(chosen.N.unique())]
        seaborn.lineplot(chosen, x=x, y=y, hue="N", palette=palette, errorbar=("pi", 100), ax=ax, legend=False)
        for line, n in zip(ax.get_lines(), sorted(chosen.N.unique()), strict=True):
            line.set_label(f"N={n}")
        if column == len(cases) - 1:
            plots.name_lines(ax)
        ax.set(xlabel=NAMES[x], ylabel=NAMES[y] if column == 0 else None, title=CASES[case] if row == 0 else None)
    caption = (
        f"{config.ways}-way {config.shots}-shot on {names[source]}, Conv4 of width {config.width}: training loss "
        "(trailing mean of ten outer steps) per outer step, and accuracy on validation classes per second "
        f"({config.validation_tasks} tasks). Lines: mean of {chosen.seed.nunique()} seeds, bands: their range. The "
        "paper's curves (FC100, miniImageNet) were not seen."
    )
    study.figure(fig, name, caption, where="experiments")


PALETTE = dict(zip(config.inner_steps, seaborn.color_palette("viridis", len(config.inner_steps)), strict=True))
show(MAIN, tuple(CASES), "curves")

# %% [markdown]
# The same two extremes on photographs, where CIFAR-FS can be had (otherwise there is no such figure).

# %%
if len(sources) > 1:
    show(photographs, ("head", "large"), "photographs")

# %% [markdown]
# Accuracy on the test classes, and how the head's step stands to the rule $\alpha\le1/L$:
# $L\le\tfrac12\lambda_{\max}$ of the features' second moments, plus $\mu$. Features grow while training, so a fixed
# step ends above $1/L$ (a bound that softmax attains only at balanced predictions).

# %%
fig, axes = plt.subplots(1, 2, figsize=style.WIDE)
main = summary[summary.source == MAIN]
for ax, y in zip(axes, ("accuracy", "ms_per_step"), strict=True):
    look = {"hue": "case", "style": "case", "markers": True, "palette": "colorblind", "errorbar": ("pi", 100)}
    seaborn.lineplot(main.replace({"case": CASES}), x="N", y=y, ax=ax, legend=y == "accuracy", **look)
axes[0].set(xlabel="inner steps $N$", ylabel="accuracy on test classes")
axes[1].set(xlabel="inner steps $N$", ylabel="milliseconds per outer step", ylim=(0, None))
study.figure(
    fig,
    "accuracy_and_time",
    f"Left: accuracy on {config.test_tasks} tasks of test classes after {config.outer_steps} outer steps, mean and "
    f"range of {config.seeds} seeds, {names[MAIN]}. Right: time of one outer step of {config.meta_batch} "
    f"tasks on one {'core' if config.device == 'cpu' else 'GPU'}. The paper's numbers were not seen.",
    where="experiments",
)

# %% [markdown]
# ## 8 Claims
#
# *Time to a loss*: seconds until the trailing mean falls below 1.1 (chance is 1.61). A run that never gets there
# counts with its whole training time, which is less than the truth.

# %%
THRESHOLD = 1.1


def seconds_to_loss(case):
    """Return the time to the threshold, one row a seed, one column an N."""
    rows = curves[(curves.data == names[MAIN]) & (curves.case == case)]
    end = rows.groupby(["seed", "N"]).seconds.max()
    reached = rows[(rows.loss < THRESHOLD) & (rows.step >= 10)].groupby(["seed", "N"]).seconds.min()
    return reached.reindex(end.index).fillna(end).unstack()


def final_loss(n):
    """Return the head's final losses by seed."""
    return main[(main.case == "head") & (n == main.N)].sort_values("seed").final_loss.to_numpy()


times = {case: seconds_to_loss(case) for case in CASES}
table = pd.concat({CASES[case]: t.median() for case, t in times.items()}, axis=1).T
study.table(table.rename_axis("case").reset_index(), "seconds_to_loss").round(2)

# %%
slower = {case: times[case][10] / times[case][[1, 3]].max(axis=1) for case in ("blocks", "large")}
study.claim("anil-e09", loss_1=final_loss(1), loss_10=final_loss(10), fastest=int(times["head"].median().idxmin()))

# %%
study.claim("anil-e10", ratio_small_step=slower["blocks"], ratio_large_step=slower["large"])

# %%
study.claim("anil-e13", loss_1=final_loss(1), loss_10=final_loss(10), ratio_small_step=slower["blocks"])

# %% [markdown]
# ## 9 Where this differs from the paper
#
# - Other data, a smaller network and a tenth of the outer steps at `quick`; the `paper` preset has the reference
#   settings, whose agreement with the paper's own is unverified. Its claim is judged only there.
# - "Slower for larger $N$" holds here where $\alpha LN$ is large. At $\alpha=0.1$ the last blocks' loss moves little
#   in ten steps, and more of them are simply more adaptation: the theory's factor $(1+\alpha L)^N$ bounds what can go
#   wrong, not what does.
# - Batch norm takes the statistics of support and of query separately, per task; the reference code normalises them
#   together.
# - Time excludes evaluation; in the reference code the clock runs through validation.
#
# ## 10 Variants to try
#
# - `SET="deep_blocks=1"` or `=4`: how far down the nonconvex case reaches (4 is MAML with kept inputs).
# - `SET="dataset=omniglot"`, or `SET="dataset=cifar_fs"`.
# - Other geometry: give `ANIL` a predicate, as `adapts=lambda name: "norm" in name` (only the batch-norm scales
#   adapt).
#
# ## 11 Provenance

# %%
study.close()
