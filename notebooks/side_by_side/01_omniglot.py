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
# # All meta-learners on the same Omniglot tasks
#
# **Papers** The five papers of this project, and the baselines that they build on: Finn, Abbeel, Levine 2017 (MAML, FO-MAML;
# Section 5.2 and Table 1), Li et al. 2017 (Meta-SGD), Nichol, Achiam, Schulman 2018 (Reptile), Rajeswaran et al. 2019 (iMAML),
# Raghu et al. 2020 (ANIL).
#
# **Question** Trained on the same stream of 5-way 1-shot tasks with the same network, each method tuned by the same small
# search, how well does each adapt to characters it has never seen, and what does a meta-step of each cost?
#
# **Answer in one line** All of them learn to learn; what they cost differs more than what they score (Figures 1 to 3 below,
# verdicts in section 8; whether their order has settled is itself a claim, judged at `long`).
#
# | preset | data | hardware | minutes |
# |---|---|---|---|
# | `smoke` | glyphs, 2 meta-steps | one core | < 1 |
# | `quick` | Omniglot, or glyphs where it cannot be had; four methods, a few hundred meta-steps | 2 cores | about 5 |
# | `long` | Omniglot; all methods, five seeds | 2 cores | about 150, resumable |
# | `paper` | Omniglot; 60,000 meta-steps of 32 tasks as in Finn et al. | one GPU | days, resumable |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml import data
from ctml.agreement import maml_by_definition, relative_error
from ctml.companion import Study, choose, plots, style, tables
from ctml.comparison import Contender, Terms, compete, gradients_a_task, grid, meta_trained, winners
from ctml.inner_solvers import GradientDescent
from ctml.learners.vector import meta_gradient_vector
from ctml.tasks import FewShot
from ctml.timing import in_turns

# %% [markdown]
# ## 2 Parameters
#
# `PRESET` is the one dial; `None` takes what the preset says. Every name here can be set from the command line, as in
# `make reproduce NB=side_by_side/01_omniglot SET="ways=20"`.

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
dataset: str | None = None  # glyphs | omniglot | omniglot or glyphs
methods: list[str] | None = None  # each *maml* | meta_sgd | rk2_three_quarters | anil | reptile | comln
seeds: int | None = None  # >= 1: of each method
ways: int | None = None  # >= 2: classes of a task
shots: int | None = None  # >= 1: support images a class
meta_steps: int | None = None  # >= 1: outer steps
norm: str | None = None  # transductive | support: which examples batch norm sees

# %% [markdown]
# ## 3 Configuration
#
# A contender is a method with what it is given, and one dial with three values. Methods that keep the graph of every inner
# step take one step in training, as Finn et al. do on Omniglot. The cheap relatives are given five; FO-MAML is shown at both
# numbers, so that it can be compared at MAML's own inner budget. All dials, rates and steps are *ours* except MAML's step of 0.4.

# %%
ONE_STEP = {"dial": "inner_lr", "values": (0.1, 0.4, 1.0), "test_steps": (1, 3, 5, 10)}
FIVE_STEPS = {"dial": "inner_lr", "values": (0.03, 0.1, 0.3), "test_steps": (1, 3, 5, 10), "fixed": {"inner_steps": 5}}
PULL = {"dial": "lam", "values": (0.1, 0.5, 2.0), "test_steps": (1, 3, 5, 10)}
SOLVER = GradientDescent(rate=0.1, steps=5)
CONTENDERS = {
    "maml": Contender("maml", **ONE_STEP),
    "meta_sgd": Contender("meta_sgd", **ONE_STEP),
    "rk2_three_quarters": Contender("rk2_three_quarters", **ONE_STEP),
    "bi_maml": Contender("bi_maml", joint_share=0.1, **ONE_STEP),
    "fo_maml_one": Contender("fo_maml", **ONE_STEP),
    "fo_maml": Contender("fo_maml", **FIVE_STEPS),
    "anil": Contender("anil", **FIVE_STEPS),
    "reptile": Contender("reptile", **FIVE_STEPS),
    "comln": Contender("comln", "horizon", (1.0, 4.0, 16.0)),
    "imaml": Contender("imaml", fixed={"solver": SOLVER, "cg_steps": 3, "truncate": True}, **PULL),
    "fo_b_maml": Contender("fo_b_maml", fixed={"solver": SOLVER, "nu": 0.1}, **PULL),
}


@dataclass(frozen=True)
class Config:
    dataset: str = "omniglot"
    methods: tuple[str, ...] = tuple(CONTENDERS)
    seeds: int = 5  # paired: initial weights and tasks; *ours*
    half_seeds: int = 2  # of them also run at half the meta-steps, to see whether the order still changes; *ours*
    outer_rates: tuple[float, ...] = (1e-3, 3e-3)  # of Adam, searched; Finn et al. take 0.001
    search_steps: int = 6000  # meta-steps of a run of the search; *ours*
    test_tasks: int = 1000  # *ours*
    terms: Terms = field(default_factory=Terms)  # Finn et al.'s, where they state them


PAPER = Config()
EASIER = {"width": 24, "pool": True, "schedule": "one cycle", "queries": 5, "test_queries": 5, "meta_batch": 4}
SCORED = {"validate_every": 250, "validation_tasks": 300, "tasks_at_once": None}
LONG = replace(
    PAPER, outer_rates=(3e-3, 1e-2), search_steps=400, terms=replace(PAPER.terms, meta_steps=4000, **EASIER, **SCORED)
)
QUICK = replace(
    LONG, dataset="omniglot or glyphs", methods=("maml", "fo_maml", "anil", "comln"), seeds=3, half_seeds=0,
    search_steps=60, test_tasks=300, terms=replace(LONG.terms, meta_steps=250, validate_every=50, validation_tasks=100),
)  # fmt: skip
TINY = {"meta_steps": 2, "validate_every": 1, "validation_tasks": 2, "width": 4, "meta_batch": 2, "queries": 1}
SMOKE = replace(
    LONG, dataset="glyphs", seeds=2, half_seeds=1, outer_rates=(3e-3,), search_steps=1, test_tasks=4,
    terms=replace(LONG.terms, **TINY),
)  # fmt: skip
PRESETS = {"paper": PAPER, "long": LONG, "quick": QUICK, "smoke": SMOKE}

config = choose(PRESETS, PRESET, dataset=dataset, methods=methods, seeds=seeds)
given = {"ways": ways, "shots": shots, "meta_steps": meta_steps, "norm": norm}
TERMS = replace(config.terms, **{k: v for k, v in given.items() if v is not None})
CHOSEN = {m: CONTENDERS[m] for m in config.methods}
study = Study("side_by_side", "01_omniglot", PRESET, asdict(replace(config, terms=TERMS)))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pd.Series(asdict(TERMS), name=PRESET)

# %% [markdown]
# At `long` and `quick` the network pools instead of striding, is narrower, and Adam's rate rises and falls along half cosines.
# That was chosen in a pilot on validation characters before any of these runs, MAML for 25 seconds of one core each:
#
# | network | rate | tasks | meta-steps done | validation accuracy |
# |---|---|---|---|---|
# | pooling, 24 filters | 0.006 | 4 | 431 | 87.6 % |
# | pooling, 32 filters | 0.006 | 2 | 452 | 87.5 % |
# | pooling, 24 filters | 0.006 | 2 | 599 | 87.3 % |
# | strides, 32 filters | 0.006 | 4 | 580 | 85.3 % |
# | strides, 32 filters | 0.003 | 4 | 623 | 84.8 % |
# | strides, 32 filters | 0.010 | 4 | 595 | 84.0 % |
# | strides, 64 filters | 0.003 | 4 | 310 | 80.1 % |
#
# In a meta-step of MAML on four such tasks half of the time goes to the convolutions and their two derivatives, a quarter to
# pooling, and little to launching operations: a larger meta-batch would cost in proportion.
#
# ## 4 The idea
#
# A task $i$ has a support set $S_i$ and a query set $Q_i$. From the shared parameters $\theta$ a method adapts to $S_i$ by
# gradient steps of size $\alpha$,
# $$\theta_i^{0}=\theta,\qquad \theta_i^{k+1}=\theta_i^{k}-\alpha\,\nabla L_{S_i}(\theta_i^{k}),$$
# and the methods differ in where they end and in the direction in which $\theta$ then moves:
#
# | method | moves in the inner loop | meta-gradient, averaged over tasks |
# |---|---|---|
# | MAML | all parameters | $\nabla_\theta L_{Q_i}(\theta_i^{K})$, through the steps |
# | Meta-SGD | all parameters, each with a rate of its own | the same, and that of the rates |
# | RK2-MAML | all parameters | $\tfrac14\nabla L_{Q_i}(\theta)+\tfrac34\nabla_\theta L_{Q_i}(\theta_i^1)$ |
# | BI-MAML | nothing in the first tenth, then as MAML | $\nabla L_{Q_i}(\theta)$, then MAML's |
# | FO-MAML | all parameters | $\nabla L_{Q_i}$ taken at $\theta_i^{K}$, the steps' derivative left out |
# | ANIL | the linear head | $\nabla_\theta L_{Q_i}$ through the head's steps; features computed once |
# | Reptile | all parameters | $\theta-\theta_i^{K}$, the inner loop run on all examples of the task |
# | COMLN | the head, along its gradient flow for a learned time $T$ | exact, of features, head and $T$ |
# | iMAML | all parameters, pulled back to $\theta$ by $\lambda$ | $\lambda(\nabla^2\hat f+\lambda)^{-1}\nabla f$, by conjugate gradients |
# | FO-B-MAML | the same | $\tfrac{\lambda}{2\nu}(\phi_{-\nu}-\phi_{\nu})$, two perturbed solves |
#
# | letter | code | shape |
# |---|---|---|
# | $\theta$ | `learner.model.parameters()` | dictionary of tensors |
# | $S_i$, $Q_i$ | `batch.support`, `batch.query` | x `(tasks, ways·shots, 1, 28, 28)`, y `(tasks, ways·shots)` |
# | $\theta_i^{K}$ | `learner.adapt(batch.support)` | the same names with a leading `tasks` axis |
# | $L_{Q_i}$ | `learner.meta_loss(batch)` | `(tasks,)` |
# | $\alpha$, $K$ | `inner_lr`, `inner_steps` | |
#
# Batch norm takes its statistics from the batch at hand. `norm = "transductive"` lets queries see each other's
# statistics, as Finn et al. did; `norm = "support"` normalises each query by the support set alone.

# %% [markdown]
# ## 5 The method checked before use
#
# All tasks of a meta-batch go through together. Here is the same second-order meta-gradient computed as the definition
# reads, one task after the other with ordinary autograd, in float64, through this very network.


# %%
images = torch.rand(8 * TERMS.ways, 1, 28, 28, generator=ctml.generator(0, "check"), dtype=torch.float64)
noise = ctml.ClassPool(images, torch.full((TERMS.ways,), 8), tuple(map(str, range(TERMS.ways))), "noise")
batch = FewShot(noise, TERMS.ways, 1, 3).sample(3, ctml.generator(0, "check tasks"))
learner = CONTENDERS["maml"].learner(TERMS, 0.4, (1, 28, 28), seed=0).double()
apart = relative_error(meta_gradient_vector(learner, batch), maml_by_definition(learner, batch))
assert apart < 1e-10, f"the batched meta-gradient and the plain loop part by {apart:.1e}"
print(f"batched meta-gradient against the plain loop: relative difference {apart:.1e}")

# %% [markdown]
# ## 6 Data
#
# Omniglot's 1,623 characters are divided at random into 1,200 for training and 423 for meta-testing, as the papers do
# (neither published its list: ours is drawn from the sorted names by seed 0); 100 of the 1,200 are kept for validation.
# Training characters turned by 90, 180 and 270 degrees count as further classes. Where Omniglot cannot be had, `glyphs`
# takes its place: letters of fonts, drawn by the package itself, divided by script. Numbers on glyphs say nothing about
# numbers on Omniglot, and the claims below know which was used.

# %%
name = data.first_available(config.dataset)


def load_pool(name: str, split: str) -> ctml.ClassPool:
    return data.pool(name, split, validation=100, rotations=split == "train")


for split in ("train", "val", "test"):
    study.data(load_pool(name, split).source)

test_tasks = TERMS.tasks(load_pool(name, "test"), training=False)
example = test_tasks.sample(1, ctml.generator(0, "picture")).map(lambda t: t[0].unflatten(0, (TERMS.ways, -1)))
fig, axes = plt.subplots(1, 2, figsize=style.NARROW, width_ratios=(1, 5), layout="constrained")
plots.task(axes, example.support.x, example.query.x)
study.figure(
    fig,
    "task",
    f"One {TERMS.ways}-way {TERMS.shots}-shot meta-test task on {test_tasks.pool.source}: a row is a class, its label at the left; "
    "a support example, and five of the query examples that have to be named after it.",
)

# %% [markdown]
# ## 7 Experiment
#
# **The search.** Every method is tried at three values of its dial times the same outer rates, one short run each, and what
# scores best on validation characters is taken. No method is searched more thoroughly than another.


# %%
def search(contender, value, outer_lr, terms, data_name):
    """Return the best validation accuracy of one short run."""
    pools = [load_pool(data_name, split) for split in ("train", "val")]
    _, history = meta_trained(contender, terms, value, outer_lr, 1000, *pools, device=DEVICE)
    return max(score for _, score in history.validation)


tried = grid(CHOSEN, config.outer_rates)
short = replace(TERMS, meta_steps=min(config.search_steps, TERMS.meta_steps))
common = {"terms": short, "data_name": name}
asked = [{"contender": CHOSEN[t["name"]], "value": t["value"], "outer_lr": t["outer_lr"], **common} for t in tried]
scores = study.map(search, asked)
best = winners(tried, scores)
table = pd.DataFrame(tried).assign(validation_accuracy=scores, dial=[CHOSEN[t["name"]].dial for t in tried])
study.table(table, "search")
percent = 100 * table.set_index(["name", "dial", "value", "outer_lr"]).validation_accuracy.unstack("outer_lr")
percent.round(1)

# %% [markdown]
# **The runs.** Every method sees the same meta-batches (one stream a seed) from the same initial weights. The parameters with
# the best validation accuracy are kept, the number of inner steps at test is the best on other validation tasks, and each run is
# meta-tested once, on fixed tasks of characters that no run has seen.


# %%
def run(contender, value, outer_lr, terms, data_name, seed, test_tasks, checkpoint):
    """Meta-train one method and meta-test it; a killed run goes on from its checkpoint."""
    splits = {split: load_pool(data_name, split) for split in ("train", "val", "test")}
    limits = {"test_tasks": test_tasks, "checkpoint": checkpoint, "device": DEVICE}
    return compete(contender, terms, value, outer_lr, seed, splits, **limits)


def ask(m, seed, terms):
    chosen = {"contender": CHOSEN[m], "terms": terms, "data_name": name, "test_tasks": config.test_tasks}
    return chosen | best[m] | {"seed": seed}


half = replace(TERMS, meta_steps=max(1, TERMS.meta_steps // 2))
keys = [(m, s, TERMS) for m in CHOSEN for s in range(config.seeds)]
keys += [(m, s, half) for m in CHOSEN for s in range(config.half_seeds)]
results = dict(zip([(m, s, t is half) for m, s, t in keys], study.map(run, [ask(*key) for key in keys]), strict=True))
full = {m: [results[m, s, False] for s in range(config.seeds)] for m in CHOSEN}

# %%
torch.set_num_threads(1)  # as each run had
batch = TERMS.tasks(load_pool(name, "train"), training=True).sample(TERMS.meta_batch, ctml.generator(0, "timing"))
batch = batch.to(DEVICE)
learners = {m: c.learner(TERMS, best[m]["value"], batch.support.x.shape[2:], 0).to(DEVICE) for m, c in CHOSEN.items()}
turns = in_turns({m: partial(learner.meta_gradient, batch) for m, learner in learners.items()}, 7, DEVICE)
cost = {m: 1000 * min(seconds) for m, seconds in turns.items()}
budget = {m: gradients_a_task(learner, batch) for m, learner in learners.items()}
accuracy = {m: 100 * torch.tensor([r["test"] for r in full[m]]) for m in CHOSEN}  # (seeds, tasks)
by_method = {m: scores.mean(1) for m, scores in accuracy.items()}
rows = tables.over_seeds_and_tasks(accuracy)
rows["test_steps"] = ["/".join(sorted({str(r["steps"] or "T") for r in full[m]})) for m in rows.index]
rows = rows.join(pd.DataFrame(best).T).assign(gradients_a_task=budget, ms_a_meta_step=cost)
study.table(rows.reset_index(), "metrics")
rows.rename(index=lambda m: style.method(m).label).map(lambda v: v if isinstance(v, str) else f"{v:.4g}")

# %% [markdown]
# Both budgets stand in the table: gradients of a loss that a task costs in a meta-step (a second-order product counts two; the
# flow of COMLN is closed and not counted), and milliseconds, the least of seven that took turns. The intervals are of the mean
# over seeds, and over the test tasks after averaging each over the seeds.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 4.2), width_ratios=(3, 2), layout="constrained")
for m in CHOSEN:
    curves = [[(step, 100 * score) for step, score in r["validation"]] for r in full[m]]
    plots.history(left, curves, **style.method(m).line(), markersize=3)
left.set(xlabel="meta-steps", ylabel="validation accuracy (%)")
plots.interval_per_method(right, by_method, horizontal=True, each=True)
right.set(xlabel="test accuracy (%)")
right.invert_yaxis()
study.figure(
    fig,
    "accuracy",
    f"{TERMS.ways}-way {TERMS.shots}-shot accuracy on {name}, norm {TERMS.norm}. Left: on {TERMS.validation_tasks} validation tasks "
    f"while meta-training, mean of {config.seeds} seeds, band: least to greatest; colours as on the right. Right: on "
    f"{config.test_tasks} meta-test tasks, dots: seeds, bars: 95% interval over them. Finn et al. report 98.7 ± 0.4 % for MAML after "
    f"60,000 meta-steps of 32 tasks; here {TERMS.meta_steps:,} of {TERMS.meta_batch}.",
    where="Finn et al. 2017, Table 1",
)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE, layout="constrained")
plots.interval_per_method(left, by_method, at=cost)
left.set(xlabel="milliseconds a meta-step", ylabel="test accuracy (%)", xlim=(0, None))
for m in CHOSEN:
    if CHOSEN[m].test_steps:
        after = pd.DataFrame([r["by steps"] for r in full[m]]).mean()
        right.plot(after.index, 100 * after, **style.method(m).line())
right.set(xlabel="inner steps at test", ylabel="validation accuracy (%)")
fig.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
study.figure(
    fig,
    "cost",
    f"Left: accuracy against the time of one meta-step of {TERMS.meta_batch} tasks; bars: 95% interval over {config.seeds} seeds "
    "(Student's t). Only ratios of times carry over to other machines. Right: what the number of inner steps does to the trained "
    "learners, on validation tasks, mean of the seeds; COMLN takes none.",
)

# %% [markdown]
# **Has it settled?** Along a falling outer rate every validation curve ends flat, whatever more training would give. So some
# seeds are also run at half the meta-steps, with a schedule of their own: what doubling the budget gains, and whether it changes
# the methods' order.

# %%
ends = {
    length: {m: [sum(results[m, s, length == "half"]["test"]) for s in range(config.half_seeds)] for m in CHOSEN}
    for length in ("half", "full")
}
settled = pd.DataFrame({length: pd.DataFrame(sums).mean() * 100 / config.test_tasks for length, sums in ends.items()})
settled.rename(index=lambda m: style.method(m).label).round(
    2
) if config.half_seeds else "No runs at half the meta-steps at this preset."

# %% [markdown]
# ## 8 Claims
#
# The rules stand in `claims.toml`. That two methods score alike is tested as such, by two one-sided tests: noise makes it
# harder to pass, not easier.

# %%
maml = by_method.get("maml")
study.claim("side_by_side-maml-omniglot-5w1s", accuracy=maml)

# %%
study.claim("side_by_side-maml-97", accuracy=maml)

# %%
study.claim("side_by_side-all-learn", times_chance=[float(a.mean()) / (100 / TERMS.ways) for a in by_method.values()])

# %%
less = {m: maml - by_method[m] if maml is not None and m in by_method else None for m in CONTENDERS}
study.claim("side_by_side-fo-close", difference=less["fo_maml"])

# %%
study.claim("side_by_side-fo-one-close", difference=less["fo_maml_one"])

# %%
study.claim("side_by_side-anil-close", difference=less["anil"])

# %%
ratio = [cost["maml"] / cost["anil"]] if {"maml", "anil"} <= set(cost) else None
study.claim("side_by_side-anil-cheaper", ratio=ratio)

# %%
study.claim("side_by_side-reptile-close", difference=less["reptile"])

# %%
study.claim("side_by_side-flat", gain=settled.full - settled.half if config.half_seeds else None)

# %%
rank_correlation = [settled.full.corr(settled.half, "spearman")] if config.half_seeds else None
study.claim("side_by_side-order-settled", rank_correlation=rank_correlation)

# %% [markdown]
# ## 9 Where this differs from the papers
#
# * Padding: Finn et al.'s strided convolutions pad like TensorFlow's "same", ours symmetrically; half a pixel.
# * Validation: 100 training characters, to choose settings, parameters and test steps; the papers do not describe theirs.
# * Reptile: plain gradient steps on disjoint mini-batches inside, Adam outside; Nichol et al. use Adam inside and a linearly
#   falling step outside, and train with more shots than they test with (so do we: support and query together).
# * iMAML and FO-B-MAML: five inner gradient steps, where their theory asks for a solve to some accuracy; iMAML truncates its
#   conjugate gradients at three, and stops where the curvature is negative.
# * BI-MAML switches after a tenth of the meta-steps, a rule of ours; RK2-MAML stands for its family, with $a_2=3/4$.
# * Below `paper` width, tasks, queries and meta-steps are cut, and the network pools instead of striding.
#
# ## 10 Variants to try
#
# * More classes: `make reproduce NB=side_by_side/01_omniglot SET="ways=20"`; more shots: `SET="shots=5"`.
# * What transduction is worth: `SET="norm=support"`. Letters instead of characters: `SET="dataset=glyphs"`.
# * Some methods only: `SET="methods=['maml','comln']"`; a method of your own: a `Contender` more.
#
# ## 11 Provenance

# %%
study.close()
