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
# # BI-MAML on networks: sinusoids and few-shot images
#
# **Paper:** Xu, Chen, Karbasi, *Meta Learning in the Continuous Time Limit*, AISTATS 2021 (BI-MAML, experiments).
#
# **Question:** does a joint first phase also pay where nothing is convex?
#
# **Answer:** only if the first phase is short. On sinusoids a joint phase of a tenth of the steps saves gradient units
# in every seed, one of four tenths does not, and first-order MAML is as cheap early on. On images with labels permuted
# per task the first phase is wasted: there is nothing that one network could learn for all tasks.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.5 |
# | quick | 2 CPU cores | 5 |
# | long | 2 CPU cores | 40, estimated |
# | paper | 2 CPU cores for the sinusoids, one GPU for the images | hours |
#
# *What is the paper's here:* that BI-MAML converges faster than MAML in experiments (abstract). Which experiments, on
# what networks and with what numbers, could not be read: **every setting below is ours** or Finn, Abbeel and Levine's
# (2017).

# %%
from dataclasses import asdict, dataclass, replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import ctml
from ctml import data
from ctml.companion import Study, choose, plots, style
from ctml.learners import BiMAML, Switch, stack
from ctml.models import MLP, Conv4
from ctml.tasks import FewShot, FixedLabels, Sinusoid
from ctml.timing import in_turns

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
seeds: int | None = None  # >= 1: runs of each method
sinusoid_steps: int | None = None  # >= 10: outer steps; a score after each tenth
image_steps: int | None = None  # >= 1
dataset: str | None = None  # glyphs | omniglot | omniglot or glyphs

# %% [markdown]
# ## Configuration
# Sinusoids as in Finn et al., section 5.1: two hidden layers of 40, ten points, one inner step of 0.01, Adam at 0.001;
# 25 tasks a step. Omniglot 5-way 1-shot as in theirs: strided convolutions of width 64, inner rate 0.4, one inner step
# in training and three in testing, 32 tasks, 60,000 steps. Everything at `quick` and all switch times are *ours*.


# %%
@dataclass(frozen=True)
class Config:
    seeds: int = 5  # paired runs of every method on sinusoids, one batched program; *ours*
    sinusoid_steps: int = 70_000  # outer steps
    sinusoid_tests: int = 1000  # fixed test tasks; *ours*
    dataset: str = "omniglot"
    image_seeds: int = 3  # *ours*
    image_steps: int = 60_000
    image_batch: int = 32  # tasks of an outer step
    width: int = 64  # filters of a convolution
    image_tests: int = 1000  # *ours*


PAPER = Config()
CHEAP = {"dataset": "omniglot or glyphs", "image_steps": 300, "image_batch": 8, "width": 16, "image_tests": 100}
QUICK = replace(PAPER, sinusoid_steps=10_000, sinusoid_tests=500, **CHEAP)
TINY = {"dataset": "glyphs", "image_steps": 5, "image_batch": 4, "width": 4, "image_tests": 10}
SMOKE = replace(QUICK, seeds=2, sinusoid_steps=20, sinusoid_tests=50, image_seeds=2, **TINY)
LONG = replace(QUICK, sinusoid_steps=70_000, sinusoid_tests=1000, image_steps=2000, image_tests=600)
PRESETS = {"paper": PAPER, "long": LONG, "quick": QUICK, "smoke": SMOKE}
given = {"seeds": seeds, "sinusoid_steps": sinusoid_steps, "image_steps": image_steps, "dataset": dataset}
config = choose(PRESETS, PRESET, **given)
study = Study("maml_ode", "04_few_shot", PRESET, {**asdict(config), "seed": seed})
config

# %% [markdown]
# ## The idea
# $$G_k=\begin{cases}\tfrac1M\sum_i\nabla f_i(w_k)&k<k_1\quad\text{(joint: no inner step, one gradient a task)}\\[2pt]
# \tfrac1M\sum_i(I-\alpha H_i)\nabla f_i(w_k-\alpha\nabla f_i(w_k))&k\ge k_1\quad\text{(MAML: four)}\end{cases}$$
#
# Adam is handed $G_k$ in both phases and keeps its state over the switch. Since one class holds both phases, all
# methods here are one learner with different switches:
#
# | method | code | cost of a step |
# |---|---|---|
# | joint training | `Switch(at_most=steps)` | 1 |
# | MAML | `Switch(at_most=0)` | 4 |
# | FO-MAML | `Switch(at_most=0)`, `order="first"` | 2 |
# | BI-MAML, $k_1$ | `Switch(at_most=k1)` | 1, then 4 |

# %%
SHARES = {"joint": 1.0, "maml": 0.0, "fo_maml": 0.0, "bi_maml 0.1": 0.1, "bi_maml 0.4": 0.4}  # phase 1 / all steps
MARKS = 10  # scores on the way


def method(name: str, model, loss, steps: int, inner_lr: float) -> BiMAML:
    order = "first" if name == "fo_maml" else "second"
    switch = Switch(at_most=round(SHARES[name] * steps))
    return BiMAML(model, loss, switch=switch, inner_lr=inner_lr, order=order)


def sinusoid_stack(name: str) -> BiMAML:
    networks = [MLP([1, 40, 40, 1], generator=ctml.generator(seed + s, "weights")) for s in range(config.seeds)]
    return stack([method(name, network, ctml.mse, config.sinusoid_steps, 0.01) for network in networks])


# %% [markdown]
# ## Checked before use: a stack of seeds is each seed on its own
# `stack` gives every parameter a leading axis of runs, so that five seeds are one batched program. The same gradients
# must come out as for each seed alone; what it saves is measured on this machine, one thread.

# %%
stacked = sinusoid_stack("maml")
batch = Sinusoid().sample(25 * config.seeds, ctml.generator(seed, "check"))
singles = stacked.unstack()
stacked.meta_gradient(batch)
difference = 0.0
for run, single in enumerate(singles):
    single.meta_gradient(batch.split(25)[run])
    pairs = zip(stacked.parameters(), single.parameters(), strict=True)
    difference = max(difference, *(float((p.grad[run] - q.grad).abs().max()) for p, q in pairs))


def one_after_another() -> None:
    for single, part in zip(singles, batch.split(25), strict=True):
        single.meta_gradient(part)


timed = in_turns(
    {"seeds one after another": one_after_another, "stacked": lambda: stacked.meta_gradient(batch)}, turns=20
)
pd.Series(
    {
        "largest difference of a gradient (float32)": difference,
        **{f"ms a step, {how}": 1000 * min(seconds) for how, seconds in timed.items()},
    },
    name=f"{config.seeds} seeds",
).to_frame()

# %% [markdown]
# ## Sinusoids
# Every method sees the same tasks in the same order and starts from the same weights. The score is the mean squared
# error on fixed test tasks after one inner step; a task that blows up under adaptation counts as 25, the largest
# amplitude squared.


# %%
def clipped_mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ctml.mse(outputs, targets).nan_to_num(nan=25.0).clamp_max(25.0)


def score_sinusoids(stacked: BiMAML, inner_steps: int = 1) -> torch.Tensor:
    """Return the scores of all seeds on the same test tasks, `(seeds, tasks)`."""
    n = config.sinusoid_tests
    options = {"n_tasks": n, "tasks_at_once": n, "seed": seed, "metric": clipped_mse, "inner_steps": inner_steps}
    return torch.stack([ctml.meta_test(run, Sinusoid(), **options).scores for run in stacked.unstack()])


def train_sinusoids(name: str, checkpoint) -> dict:
    stacked, steps = sinusoid_stack(name), (0, 1, 2, 5, 10)
    history = ctml.meta_train(
        stacked, Sinusoid(), optimizer=torch.optim.Adam(stacked.parameters(), 1e-3), steps=config.sinusoid_steps,
        meta_batch=25 * config.seeds, seed=seed, checkpoint=checkpoint, progress=False,
        watch={"units": lambda run: run.units, "mse": lambda run: score_sinusoids(run).mean(1)},
        watch_every=config.sinusoid_steps // MARKS,
    )  # fmt: skip
    marks, mse = zip(*history.watched["mse"], strict=True)
    units = [u for _, u in history.watched["units"]]
    median = torch.stack([score_sinusoids(stacked, k).median(1).values for k in steps]).numpy()
    return {
        "method": name,
        "steps": marks,
        "units": units,
        "mse": np.array(mse),
        "inner_steps": steps,
        "median_mse": median,
    }


sinusoids = {run["method"]: run for run in study.map(train_sinusoids, [{"name": name} for name in SHARES])}
final = pd.DataFrame(
    [
        {
            "method": name, "seed": seed, "gradient units": run["units"][-1], "mse after 1 step": float(run["mse"][-1, seed]),
            "median mse after 10 steps": float(run["median_mse"][-1, seed]),
        }
        for name, run in sinusoids.items() for seed in range(config.seeds)
    ]
)  # fmt: skip
study.table(final, "sinusoids")
final.groupby("method", sort=False).agg(["mean", "std"]).drop(columns="seed").round(3)

# %%
LOOKS = {
    "joint": style.method("joint").line(),
    "maml": style.method("maml").line(),
    "fo_maml": style.method("fo_maml").line(),
    "bi_maml 0.1": style.method("bi_maml").line() | {"linestyle": ":", "label": "BI-MAML, $k_1=10\\%$"},
    "bi_maml 0.4": style.method("bi_maml").line() | {"label": "BI-MAML, $k_1=40\\%$"},
}

fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.2))
for name, run in sinusoids.items():
    plots.curve(axes[0], run["steps"], run["mse"], **LOOKS[name])
    plots.curve(axes[1], run["units"], run["mse"], **LOOKS[name])
    plots.curve(axes[2], run["inner_steps"], run["median_mse"], **LOOKS[name])
axes[0].set(xlabel="outer step", ylabel="test MSE after 1 inner step")
axes[1].set(xlabel="gradient units per task")
axes[2].set(xlabel="inner steps at test time", ylabel="median test MSE")
for ax in axes[:2]:
    ax.set(yscale="log", ylim=(None, 6))
    ax.set_yticks([1, 2, 4], ["1", "2", "4"])
    ax.minorticks_off()
axes[1].legend(fontsize="x-small", loc="upper right")
study.figure(
    fig,
    "sinusoids",
    f"Sinusoid regression, mean over {config.seeds} paired seeds with 95% bands, {config.sinusoid_tests} fixed test "
    "tasks. Left and middle: error after one inner step against outer steps and against cost (a Hessian-vector product "
    "counts 2). Right: median error against inner steps at the end. The paper reports a better rate of convergence for "
    "BI-MAML; its experiments were not seen.",
)


# %% [markdown]
# The claim: at what cost does each method reach the error that MAML has after half of its steps? Per seed, by linear
# interpolation between marks; a seed that never reaches it counts as not a number, which no rule accepts.


# %%
def cost_to_reach(run: dict, targets) -> list[float]:
    costs = []
    for errors, target in zip(run["mse"].T, targets, strict=True):
        below = (errors <= target).nonzero()[0]
        if len(below) == 0 or below[0] == 0:
            costs.append(float("nan"))
            continue
        k = int(below[0])
        share = (errors[k - 1] - target) / (errors[k - 1] - errors[k])
        costs.append(float(run["units"][k - 1] + share * (run["units"][k] - run["units"][k - 1])))
    return costs


half_way = sinusoids["maml"]["mse"][MARKS // 2]
costs = pd.DataFrame({name: cost_to_reach(run, half_way) for name, run in sinusoids.items()})
costs.insert(0, "seed", range(config.seeds))
study.table(costs, "cost_to_reach")

# %%
study.claim("maml_ode-a14", maml_units=costs["maml"], bi_units=costs["bi_maml 0.4"])

# %% [markdown]
# ## Images: what can a joint phase learn?
# In the usual few-shot tasks labels are permuted: the same letter is class 2 in one task and class 4 in the next.
# Without adaptation no network can then do better than chance, so the joint gradient carries no signal and phase 1
# should be wasted (our prediction). As a foil, `FixedLabels` gives each letter one label for good.

# %%
name = data.first_available(config.dataset)
KINDS = {"permuted": FewShot, "fixed": FixedLabels}
IMAGE_METHODS = ("maml", "bi_maml 0.4", "joint")
IMAGE_MARKS = 5
pools = {split: study.data(data.pool(name, split).source) for split in ("train", "test")}
pools


# %%
def train_images(name: str, kind: str, method_name: str, seed: int, checkpoint) -> dict:
    train = KINDS[kind](data.pool(name, "train"), ways=5, shots=1, queries=5)
    test = KINDS[kind](data.pool(name, "test"), ways=5, shots=1, queries=10)
    network = Conv4(1, 5, width=config.width, pool=False, generator=ctml.generator(seed, "image weights"))
    learner = method(method_name, network, ctml.cross_entropy, config.image_steps, 0.4)

    def score(run: BiMAML) -> float:
        return ctml.meta_test(run, test, n_tasks=config.image_tests, seed=seed, inner_steps=3).interval.mean

    history = ctml.meta_train(
        learner, train, optimizer=torch.optim.Adam(learner.parameters(), 1e-3), steps=config.image_steps,
        meta_batch=config.image_batch, seed=seed, checkpoint=checkpoint, progress=False,
        watch={"units": lambda run: run.units, "accuracy": score}, watch_every=max(1, config.image_steps // IMAGE_MARKS),
    )  # fmt: skip
    watched = {what: [value for _, value in seen] for what, seen in history.watched.items()}
    return {"labels": kind, "method": method_name, "seed": seed, **watched}


order = product(KINDS, IMAGE_METHODS, range(config.image_seeds))
jobs = [{"name": name, "kind": kind, "method_name": m, "seed": seed + s} for kind, m, s in order]
images = pd.DataFrame(study.map(train_images, jobs))
images["before training"] = images["accuracy"].str[0]
images["at the end"] = images["accuracy"].str[-1]
study.table(images.drop(columns=["units", "accuracy"]), "images")
images.groupby(["labels", "method"], sort=False)[["before training", "at the end"]].agg(["mean", "std"]).round(3)

# %%
fig, axes = plt.subplots(1, 2, figsize=style.WIDE, sharey=True)
for ax, kind in zip(axes, KINDS, strict=True):
    for m in IMAGE_METHODS:
        chosen = images[(images["labels"] == kind) & (images["method"] == m)]
        plots.curve(ax, chosen["units"].iloc[0], np.array(chosen["accuracy"].tolist()).T, **LOOKS[m])
    ax.axhline(0.2, color="black", linewidth=0.6)
    ax.set(xlabel="gradient units per task", title=f"labels {kind}")
axes[0].set_ylabel("test accuracy after 3 inner steps")
axes[0].legend(fontsize="small", loc="best")
study.figure(
    fig,
    "images",
    f"5-way 1-shot accuracy on {pools['test']} ({config.image_tests} test tasks, norm: transductive), mean over "
    f"{config.image_seeds} paired seeds with 95% bands, against cost; thin line: chance. Left: labels permuted per task, "
    "right: each class keeps its label. Ours: whether the paper has such an experiment is not known.",
)

# %%
at_end = images[images["labels"] == "permuted"].pivot(index="seed", columns="method", values="at the end")
study.claim("maml_ode-permuted", maml=at_end["maml"], joint=at_end["joint"], bi_maml=at_end["bi_maml 0.4"])

# %% [markdown]
# ## Where this differs from the paper
# All of it: its experiments are unknown to us. Switch times are fixed shares of the steps here; with minibatches a
# norm rule sees a noisy norm (`Switch(joint_norm=...)` exists and always needs `at_most`). The claim was written for a
# first phase of 40 %: there it fails, with 10,000 outer steps (ratio of units 1.06, four of five seeds above 1) as with
# 3,000 (1.07). That 10 % does better was seen only after the run, so it is no verdict. Seed scatter is as large as
# the differences late in training, and FO-MAML belongs into every such comparison.
#
# ## Variants to try
# * `SET="sinusoid_steps=20000"`: does the advantage of phase 1 survive?
# * `SHARES["bi_maml 0.4"] = 0.8`: too long a first phase.
# * `order="first"` for BI-MAML: joint, then first-order, at one and two units a step.
# * `SET="dataset=omniglot"`, or `Switch(at_most=1000, joint_norm=0.5)` on one seed without `stack`.

# %%
study.close()
