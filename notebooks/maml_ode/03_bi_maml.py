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
# # BI-MAML: join first, adapt later
#
# **Paper:** Xu, Chen, Karbasi, *Meta Learning in the Continuous Time Limit*, AISTATS 2021 (the algorithm BI-MAML).
#
# **Question:** far from the optimum, is the inner step worth its price?
#
# **Answer:** against MAML no: joint training gets near first and at a quarter of the price, so the cost falls, though with
# tuned steps the number of iterations rises. But first-order MAML, tuned alike, is cheaper still on quadratics and about
# as cheap on logistic tasks, if its own stationary point will do. With several minima the methods may end in different
# ones.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.4 |
# | quick | 2 CPU cores | 0.7 |
# | long | 2 CPU cores, as paper | 10, estimated |
# | paper | 2 CPU cores | 4 |
#
# *What is the paper's here:* a first phase without inner steps while gradients are large, then MAML, and that this
# lowers the computational burden and improves the rate of convergence (abstract and others' notes). The exact switch
# rule, all settings and all numbers are ours; none of its figures was seen. "Biphasic" is our reading of the name.

# %%
import math
from dataclasses import asdict, dataclass, replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import ctml
from ctml.companion import Study, choose, plots, style
from ctml.flows.descent import descend_until, fewest_steps, in_two_phases, path_of
from ctml.flows.maml_field import first_order_field, joint_field, maml_field, maml_loss
from ctml.flows.maml_flow import biphasic_flow, flow, flow_until, slows_to
from ctml.flows.tableaus import EULER
from ctml.learners.rk_maml import chain
from ctml.tasks import CurvatureJump, LogisticRidge, Quadratic, side_by_side
from ctml.theory.maml_ode import time_saved_per_efold
from ctml.theory.maml_ode_instances import far_start
from ctml.theory.rates import time_to_fall
from ctml.theory.rk_maml import gradient_units
from ctml.timing import in_turns

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
switches: list[float] | None = None  # each > 0 and < 1: thresholds on |grad f|, relative to the start
distances: list[float] | None = None  # 2 or more, each > 0: how far away the flows on logistic tasks start

# %% [markdown]
# ## Configuration
# All of it is *ours*.


# %%
@dataclass(frozen=True)
class Config:
    families: int = 100  # independent draws of each problem that decide
    tuning: int = 20  # further draws, on which step sizes and switches are chosen
    switches: tuple = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # phase 1 ends when |grad f| has fallen to this fraction
    shares: tuple = (0.1, 0.2, 0.4)  # or after this share of the steps that MAML takes
    tolerance: float = 1e-6  # speed of its own field at which a run is done
    most: int = 4000  # outer steps after which a run is given up
    fractions: tuple = (0.1, 0.3, 0.6)  # alpha L of the flows
    distances: tuple = (20.0, 200.0)  # |w0| of the flows
    marks: int = 1601  # on [0, 160] of ODE time


PAPER = Config()
QUICK = replace(PAPER, families=20, tuning=10, most=1000, marks=801)
SHORT = {"switches": (0.1, 0.01), "tolerance": 1e-3, "most": 200, "fractions": (0.1, 0.6), "distances": (5.0, 20.0)}
SMOKE = replace(QUICK, families=2, tuning=2, marks=161, **SHORT)
PRESETS = {"paper": PAPER, "long": PAPER, "quick": QUICK, "smoke": SMOKE}
config = choose(PRESETS, PRESET, switches=switches, distances=distances)
study = Study("maml_ode", "03_bi_maml", PRESET, {**asdict(config), "seed": seed})
config

# %% [markdown]
# ## The idea
# $$\text{phase 1: }\ w\leftarrow w-\beta_1\mathbb E_i\nabla f_i(w)\ \text{ until }\ \Bigl|\mathbb E_i\nabla
# f_i(w)\Bigr|\le\varepsilon_1,\qquad
# \text{phase 2: }\ w\leftarrow w-\beta_2\nabla F(w)\ \text{(MAML)}.$$
#
# **Why it can pay, and why it need not.** Far away, where the curvature is $h$, the joint flow contracts at $h$ and the
# MAML ODE at $h(1-\alpha h)^2$: the same direction, more slowly, at four times the price (a Hessian-vector product counts
# two gradients). But the inner step also *conditions* the problem, since $h\mapsto h(1-\alpha h)^2$ flattens steep
# directions; so MAML bears larger outer steps, and in iterations the two are even. And first-order MAML leaves out the
# Hessian alone: two gradients a step, all the way.
#
# | letter | code | shape |
# |---|---|---|
# | $\mathbb E_i\nabla f_i$, $\nabla F$ | `-joint_field(losses)(w)`, `-maml_field(losses, alpha)(w)` | `(*points, d)` |
# | $\beta,\ \varepsilon_1$ | `beta`, `threshold` of `descend_until(field, w, beta, threshold, most=...)` | one a point |
# | in continuous time | `flow_until(field, w0, slows_to(field, threshold), horizon=...)` | times `(*points)`, points `(*points, d)` |
# | both phases | `biphasic_flow(joint, maml, w0, gap, end=...)` | `(times, *points, d)` |
# | the same as a learner, for any model | `ctml.learners.BiMAML(model, loss, switch=Switch(...), ...)` | notebook 04 |

# %% [markdown]
# ## The switch, checked before use
# On one quadratic of curvature $h$ the joint flow needs exactly $\frac1h\ln(h|w_0|/\varepsilon_1)$ to come to the
# switch.

# %%
h, threshold = 0.7, 0.05
bowl = Quadratic(torch.tensor([[[h]]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
w0 = torch.tensor([[1.0], [10.0], [100.0]], dtype=torch.float64)
found, _ = flow_until(joint_field(bowl), w0, slows_to(joint_field(bowl), threshold), horizon=50.0)
exact = (h * w0[:, 0] / threshold).log() / h
pd.DataFrame({"w0": w0[:, 0], "event": found, "exact": exact, "error": (found - exact).abs()})

# %% [markdown]
# ## Gradient descent with every method tuned
# Two problems: `quadratics` (instance N4, six tasks in four dimensions) and `logistic` (N3, eight ridge-regularised tasks),
# from $50\cdot\mathbf 1$. Each method gets the step size, out of one grid, with which it takes the fewest steps on draws
# made for that purpose, until its own field is slower than $10^{-6}$; BI-MAML takes those of its two phases, and the
# switch that is cheapest there, by a norm or by a share of MAML's steps. Other draws decide. All step sizes and draws go
# through as one batch of points. First-order MAML stops where *its* field vanishes, which is not where $\nabla F$ does:
# the last columns say what that costs.

# %%
COST = {"joint": gradient_units(EULER, "first"), "maml": gradient_units(chain(1), "second")}
COST["fo_maml"] = gradient_units(chain(1), "first")
GRID = 2.0 ** torch.arange(-6, 5, 0.5, dtype=torch.float64)  # outer step sizes


def fields(losses, alpha: float) -> dict:
    return {
        "joint": joint_field(losses),
        "maml": maml_field(losses, alpha),
        "fo_maml": first_order_field(losses, alpha),
    }


def compare(problem: str) -> dict:
    losses, alpha, w0 = far_start(problem, config.tuning, ctml.generator(seed, f"{problem} to tune on"))
    of = fields(losses, alpha)
    tuned = {name: fewest_steps(field, w0, GRID, config.tolerance, most=config.most) for name, field in of.items()}
    beta, steps = ({name: pair[k] for name, pair in tuned.items()} for k in (0, 1))

    def bi_maml(of: dict, w0: torch.Tensor, fraction: float, at_most: int) -> tuple:
        pair, switch = (of["joint"], of["maml"]), fraction * of["joint"](w0).norm(dim=-1)
        betas, limits = (beta["joint"], beta["maml"]), {"at_most": at_most, "most": config.most}
        return in_two_phases(pair, w0, betas, switch, config.tolerance, **limits)

    rules = [(fraction, config.most) for fraction in config.switches]
    rules += [(0.0, max(1, round(share * steps["maml"]))) for share in config.shares]
    tried = [bi_maml(of, w0, *rule)[:2] for rule in rules]
    rule = rules[int(np.argmin([float((first + COST["maml"] * second).mean()) for first, second in tried]))]

    losses, alpha, w0 = far_start(problem, config.families, ctml.generator(seed, f"{problem} that decide"))
    of, rows = fields(losses, alpha), []
    least = descend_until(of["maml"], w0, beta["maml"], config.tolerance / 100, most=2 * config.most)[1]
    runs = {n: (0.0, *descend_until(f, w0, beta[n], config.tolerance, most=config.most)) for n, f in of.items()}
    runs["bi_maml"] = bi_maml(of, w0, *rule)
    for name, (first, second, end) in runs.items():
        units = first * COST["joint"] + second * COST["maml" if name == "bi_maml" else name]
        excess = maml_loss(losses, alpha, end) - maml_loss(losses, alpha, least)
        columns = {"iterations": first + second, "units": units, "F - F* at the end": excess.clamp_min(0)}
        columns["|grad F| at the end"] = of["maml"](end).norm(dim=-1)
        rows.append(pd.DataFrame(columns).assign(problem=problem, method=name).rename_axis("family").reset_index())
    chosen = {f"beta {name}": float(b) for name, b in beta.items()} | dict(
        zip(("fraction", "at most"), rule, strict=True)
    )
    return {"rows": pd.concat(rows), "chosen": chosen, "beta": beta, "switch": int(runs["bi_maml"][0][0])}


PROBLEMS = ("quadratics", "logistic")
compared = dict(zip(PROBLEMS, study.map(compare, [{"problem": name} for name in PROBLEMS]), strict=True))
metrics = study.table(pd.concat([found["rows"] for found in compared.values()]), "descent")
pd.DataFrame({name: found["chosen"] for name, found in compared.items()}).T

# %%
metrics.drop(columns="family").groupby(["problem", "method"], sort=False).mean()

# %% [markdown]
# Seconds are another axis: one thread of this machine, all draws as a batch, the least of 20 turns. At so few parameters
# a step's price is that of launching operations.

# %%
fig, axes = plt.subplots(2, 3, figsize=(8.4, 5.2), sharey="row")
for row, problem in zip(axes, PROBLEMS, strict=True):
    losses, alpha, w0 = far_start(problem, config.families, ctml.generator(seed, f"{problem} that decide"))
    of, beta, switch = fields(losses, alpha), compared[problem]["beta"], compared[problem]["switch"]
    timing = in_turns({name: partial(field, w0) for name, field in of.items()}, turns=20)
    spent = {name: [COST[name], 1000 * min(seconds)] for name, seconds in timing.items()}
    phases = {name: [(name, 400)] for name in ("maml", "fo_maml")} | {"bi_maml": [("joint", switch), ("maml", 400)]}
    for name, parts in phases.items():
        path = path_of([(of[field], beta[field], n) for field, n in parts], w0)
        units, seconds = np.cumsum([[0, 0]] + [spent[field] for field, n in parts for _ in range(n)], axis=0).T
        norm = of["maml"](path).norm(dim=-1)[:, 0]
        for ax, x in zip(row, (range(len(norm)), units, seconds), strict=True):
            ax.semilogy(x, norm, **style.method(name).line(marker=""))
    ends = metrics[(metrics["problem"] == problem) & (metrics["method"] == "maml")]["iterations"].max()
    for ax, label, unit in zip(row, ("iteration", "gradient units", "milliseconds"), (1, *spent["maml"]), strict=True):
        ax.set(xlabel=label, xlim=(0, 1.1 * ends * unit), title=problem, ylim=(1e-7, None))
    row[0].set_ylabel(r"$|\nabla F|$")
axes[0, 0].legend(fontsize="small")
study.figure(
    fig,
    "descent",
    "MAML gradient along gradient descent, one draw of each problem, every method with its own best step size (and "
    "BI-MAML with its best switch), chosen on other draws. First-order MAML levels off at its own stationary point. The "
    "paper reports a better rate for BI-MAML than for MAML; its figures were not seen.",
)

# %%
wide = metrics.pivot_table(index=["problem", "family"], columns="method", values=["units", "iterations"])
ratios = pd.DataFrame(
    {f"{m}, {w}": wide[w][m] / wide[w]["maml"] for m in ("bi_maml", "fo_maml") for w in ("units", "iterations")}
)
study.table(ratios.reset_index(), "ratios_to_maml")
study.claim("maml_ode-a10", ratio=ratios["bi_maml, units"])

# %%
study.claim("maml_ode-first-order-convex", ratio=wide["units"]["fo_maml"] / wide["units"]["bi_maml"])

# %%
study.claim("maml_ode-a15", ratio=ratios.loc["quadratics", "bi_maml, iterations"])

# %% [markdown]
# ## In ODE time: no step size, only the fields (logistic tasks)
# Time until $|\nabla F|\le10^{-4}$ from $w_0=R\,\mathbf1/\sqrt d$, the joint flow handing over at
# $|\nabla f|=\varepsilon_1=0.01$; draws and distances are one batch of points.

# %%
TARGET, EPS = 1e-4, 0.01
draws = [LogisticRidge.draw(8, ctml.generator(seed, f"logistic {k}")) for k in range(config.families)]
steepest = max(tasks.smoothness for tasks in draws)
radii = torch.tensor(config.distances, dtype=torch.float64)[:, None, None]
starts = radii * torch.ones(len(draws), 5, dtype=torch.float64) / math.sqrt(5)


def in_ode_time(fraction: float) -> dict:
    losses, clock = side_by_side(draws), torch.linspace(0, 160, config.marks, dtype=torch.float64)
    of, tolerances = fields(losses, fraction / steepest), {"rtol": 1e-6, "atol": 1e-8}
    alone = flow(of["maml"], starts, clock, **tolerances)
    joint = flow(of["joint"], starts, clock, **tolerances)
    first = time_to_fall(clock, of["joint"](joint).norm(dim=-1), EPS)
    k = torch.bucketize(first, clock).clamp_max(len(clock) - 1)  # the mark after the switch
    at = joint.gather(0, k[None, ..., None].expand(1, *joint.shape[1:]))[0]
    rest = flow(of["maml"], at, clock, **tolerances)
    second = time_to_fall(clock, of["maml"](rest).norm(dim=-1).clamp_min(1e-12), TARGET)
    maml = time_to_fall(clock, of["maml"](alone).norm(dim=-1).clamp_min(1e-12), TARGET)
    times = {"MAML": maml, "BI-MAML": clock[k] + second}
    return times | {"distance of limits": (rest[-1] - alone[-1]).norm(dim=-1)}


found = study.map(in_ode_time, [{"fraction": a} for a in config.fractions])
timed = pd.concat(
    pd.DataFrame({what: values[i] for what, values in times.items()}).assign(R=R, **{"alpha L": share})
    for share, times in zip(config.fractions, found, strict=True) for i, R in enumerate(config.distances)
).rename_axis("family").reset_index()  # fmt: skip
timed["gain"] = timed["MAML"] - timed["BI-MAML"]
study.table(timed, "ode_time")
timed.groupby(["alpha L", "R"])[["MAML", "BI-MAML", "gain"]].mean()

# %%
gains = timed.pivot_table(index=["family", "R"], columns="alpha L", values="gain")
steeper = gains.diff(axis=1).iloc[:, 1:]
farther = gains.unstack("family").diff().iloc[1:]
study.claim("maml_ode-a9", bi=timed["BI-MAML"], maml=timed["MAML"], by_distance=farther, by_alpha=steeper)

# %% [markdown]
# Far out the sigmoids are saturated and the curvature is the ridge, $h=\mu$. Every factor $e$ of distance then costs
# MAML $\frac1{h(1-\alpha h)^2}-\frac1h$ more time than joint training.

# %%
theory = {a: time_saved_per_efold(draws[0].ridge, a / steepest) for a in config.fractions}
efolds = math.log(config.distances[-1] / config.distances[0])
by_share = timed.pivot_table(index=["family", "alpha L"], columns="R", values="gain").reset_index()
saved = (by_share[config.distances[-1]] - by_share[config.distances[0]]) / efolds
study.claim("maml_ode-a13", relative=saved / by_share["alpha L"].map(theory) - 1)

# %% [markdown]
# ## Where it ends: the other minimum (N2)
# With several minima (notebook 02) it matters which flow brings $w$ near. From $w_0=30$ at $\alpha L=0.9$ the MAML ODE
# stops at the first minimum it meets; the joint flow does not see that one and walks past it.

# %%
two, inner = CurvatureJump.two(), 0.9 / 4
joint, maml, start = joint_field(two), maml_field(two, inner), torch.tensor([30.0], dtype=torch.float64)
both = biphasic_flow(joint, maml, start, slows_to(joint, 0.02), end=400.0)
alone = flow(maml, start, torch.linspace(0, 400, 400, dtype=torch.float64))
ends = {"maml_flow": alone[-1], "bi_maml": both.points[-1]}
heights = {name: float(maml_loss(two, inner, end)) for name, end in ends.items()}
worse = heights["bi_maml"] - heights["maml_flow"]

fig, axes = plt.subplots(1, 2, figsize=style.WIDE)
for R, name in zip(config.distances, ("anil", "comln"), strict=False):
    cell = timed[timed["R"] == R].pivot(index="alpha L", columns="family", values="gain")
    plots.curve(axes[0], cell.index, cell, color=style.COLOURS[name], marker="o", label=f"$R={R:g}$")
axes[0].set(xlabel=r"$\alpha L$", ylabel="ODE time saved", xticks=config.fractions, ylim=(0, None))
grid = torch.linspace(4, 18, 1000, dtype=torch.float64)[:, None]
axes[1].plot(grid[:, 0], maml_loss(two, inner, grid), color="black", linewidth=1)
for name, end in ends.items():
    look = style.method(name)
    axes[1].plot(end, heights[name], look.marker, color=look.color, markersize=10, label=look.label)
axes[1].set(xlabel="$w$", ylabel="MAML loss $F$")
for ax in axes:
    ax.legend()
study.figure(
    fig,
    "ode_time",
    f"Left: ODE time that BI-MAML saves until |∇F| = {TARGET:g}, mean over {config.families} draws of eight logistic tasks "
    "with 95% bands. Right: two strongly convex tasks, αL = 0.9, and where each flow from 30 ends: BI-MAML in the worse "
    "minimum. The paper reports the better rate; its figures were not seen.",
)

# %%
apart = ends["maml_flow"] - ends["bi_maml"]
study.claim("maml_ode-a11", distance=timed["distance of limits"], apart=apart, worse_by=worse)

# %% [markdown]
# ## The answer
# In ODE time, where no step size can be chosen, joint steps first are faster for every draw, the more so the larger
# $\alpha L$ and the distance. With a step size tuned for each method MAML needs the *fewest* iterations, since the inner
# step conditions the problem; what BI-MAML saves is price alone, a joint step costing a quarter. First-order MAML pays
# half a MAML step all the way, needs no switch, and stops next to the minimum of $F$, not in it: whether that is near
# enough depends on $\alpha$ and on the tasks' disagreement (the table's last columns; on the quadratics it is far).
#
# ## Where this differs from the paper
# Switch rule, step sizes, problems and the measure "gradient units" are ours. The paper compares rates of convergence;
# whether at equal or at tuned step sizes could not be learned, and the answer depends on it.
#
# ## Variants to try
# * `SET="switches=[0.5,1e-4,1e-6]"`: a switch too early or too late; when does phase 1 begin to waste steps?
# * `SET="distances=[1.0,2000.0]"`: near the optimum there is nothing to save.
# * Replace `2.0 ** torch.arange(-6, 5, 0.5` by `2.0 ** torch.arange(-6, -1, 0.5`: small steps for all, where a joint step
#   goes farther than one of MAML.
#
# ## Exercises
# 1. Which outer step sizes are stable on a quadratic of curvature $h$ for joint training, MAML and first-order MAML?
# 2. At $\alpha h=0.6$, how many times longer does the MAML ODE take than the joint flow?
# 3. On quadratics with one common Hessian, where do the three methods end?
#
# <details><summary>Solutions</summary>
#
# 1. $\beta<2/h$, $2/(h(1-\alpha h)^2)$ and $2/(h(1-\alpha h))$. Over all $h$, MAML is stable for every
#    $\beta<27\alpha/2$, joint training never.
# 2. $1/(1-\alpha h)^2=6.25$ times; at $\alpha h=0.1$ it is 1.23.
# 3. In the same point: $A_i$ does not depend on the task and can be taken out of the mean, and so can $I-\alpha H$.
#
# </details>

# %%
study.close()
