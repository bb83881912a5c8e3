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
# **Answer:** no. Joint training gets near faster and at a quarter of the cost, and MAML finishes from there. The gain
# in time shrinks with $\alpha L$, the gain in cost stays; with several minima the two methods may end in different
# ones.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.4 |
# | quick | 2 CPU cores | 0.7 |
# | long | 2 CPU cores, as paper | 15, estimated |
# | paper | 2 CPU cores | 4 |
#
# *What is the paper's here:* a first phase without inner steps while gradients are large, then MAML, and that this
# lowers the computational burden and improves the rate of convergence (abstract and others' notes). The exact switch
# rule, all settings and all numbers are ours; none of its figures was seen. "Biphasic" is our reading of the name.

# %%
import math
from dataclasses import asdict, dataclass, replace
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml.companion import Study, choose, style
from ctml.flows.maml_field import first_order_field, hessian, joint_field, maml_field, maml_loss
from ctml.flows.maml_flow import biphasic_flow, flow, flow_until, slows_to
from ctml.flows.tableaus import EULER
from ctml.learners.rk_maml import chain
from ctml.tasks import CurvatureJump, LogisticRidge, Quadratic
from ctml.theory.maml_ode import time_saved_per_efold
from ctml.theory.maml_ode_instances import far_start
from ctml.theory.rk_maml import gradient_units

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
    families: int = 20  # independent draws of each problem
    dims: tuple = (1, 10, 100)  # inputs of the linear regression tasks
    regressions: int = 100  # linear regression tasks in a draw
    switches: tuple = (0.1, 0.01, 0.001)  # phase 1 ends when |grad f| has fallen to this fraction
    tolerance: float = 1e-6  # |grad F| at which a run is done
    most: int = 40_000  # outer steps after which a run is given up
    fractions: tuple = (0.1, 0.3, 0.6)  # alpha L on logistic tasks
    distances: tuple = (20.0, 200.0)  # |w0| on logistic tasks


PAPER = Config()
QUICK = replace(PAPER, families=5, dims=(1, 10), most=4000)
SHORT = {"switches": (0.1, 0.01), "tolerance": 1e-3, "most": 400, "fractions": (0.1, 0.6), "distances": (5.0, 20.0)}
SMOKE = replace(QUICK, families=2, dims=(1,), regressions=10, **SHORT)
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
# Here $\mathbb E_i$ is the mean over the tasks. Cost per task and step in gradients, a Hessian-vector product counting
# 2: phase 1 one, MAML four, first-order MAML two. In continuous time phase 1 is the joint flow with an event, phase 2
# the MAML ODE; far away, where the curvature is $h$, the two contract at $h$ and $h(1-\alpha h)^2$ (T4, derived).
#
# | letter | code | shape |
# |---|---|---|
# | $\mathbb E_i\nabla f_i$, $\nabla F$ | `-joint_field(losses)(w)`, `-maml_field(losses, alpha)(w)` | `(*points, d)` |
# | $\varepsilon_1$ | `threshold` | scalar, or one per point |
# | event | `flow_until(field, w0, slows_to(field, threshold), horizon=...)` | times `(*points)`, points `(*points, d)` |
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
# ## Problems
# `far_start` draws them. `quadratics`: instance N4, six tasks in four dimensions. `linear d`: regression with $d$ inputs
# and a bias, support and query sets of 20, through the learner's own losses. `logistic`: instance N3, eight
# ridge-regularised tasks. All start far away, at $50\cdot\mathbf 1$.
#
# Gradient descent as it is written down: a method is a list of phases, each a field, its step size, the norm of the
# field at which it ends, and the cost of a step. *Equal* steps: the same small $\beta=0.3/\lambda_{\max}(\nabla^2f)$
# for all. *Tuned* steps: $\beta=2/(\lambda_{\min}+\lambda_{\max})$ of the loss that a phase descends.


# %%
def descend(phases: list, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the points of a run and the gradient units spent on the way to each."""
    path, units = [w], [0]
    for field, beta, threshold, cost in phases:
        velocity = field(w)
        while velocity.norm() > threshold and len(path) <= config.most:
            w = w + beta * velocity
            path.append(w)
            units.append(units[-1] + cost)
            velocity = field(w)
    return torch.stack(path), torch.tensor(units)


def compare(name: str, family: int, tuned: bool) -> list[dict]:
    losses, alpha, w0 = far_start(name, ctml.generator(seed, f"{name} {family}"), config.regressions)
    joint, maml, first = joint_field(losses), maml_field(losses, alpha), first_order_field(losses, alpha)
    settled = torch.tensor([0.0, 120.0 if name == "logistic" else 30.0], dtype=torch.float64)
    solution = flow(maml, w0, settled, rtol=1e-6, atol=1e-8)[-1]
    curvature = {key: torch.linalg.eigvalsh(hessian(f, solution)) for key, f in (("joint", joint), ("maml", maml))}
    equal = 0.3 / float(curvature["joint"][-1])
    beta = {key: 2 / float(e[0] + e[-1]) if tuned else equal for key, e in curvature.items()}

    def join_until(threshold: float) -> tuple:
        return joint, beta["joint"], threshold, gradient_units(EULER, "first")

    adapt = (maml, beta["maml"], config.tolerance, gradient_units(chain(1), "second"))
    first_order = (first, beta["maml"], config.tolerance, gradient_units(chain(1), "first"))
    methods = {"maml": [adapt], "fo_maml": [first_order], "joint": [join_until(config.tolerance)]}
    for fraction in config.switches:
        methods[f"bi_maml {fraction:g}"] = [join_until(fraction * float(joint(w0).norm())), adapt]
    rows = []
    for method, phases in methods.items():
        path, units = descend(phases, w0)
        row = {"problem": name, "family": family, "step": "tuned" if tuned else "equal", "method": method}
        row |= {"iterations": len(path) - 1, "units": int(units[-1])}
        row["|grad F| at the end"] = float(maml(path[-1]).norm())
        row["curve"] = (units.numpy(), maml(path).norm(dim=-1).numpy()) if family == 0 and name in DRAWN else None
        rows.append(row)
    return rows


DRAWN = ("quadratics", "logistic")
names = ["quadratics", *(f"linear {d}" for d in config.dims), "logistic"]
runs = [{"name": n, "family": k, "tuned": t} for n in names for t in (False, True) for k in range(config.families)]
everything = pd.DataFrame([row for rows in study.map(compare, runs) for row in rows])
metrics = everything.drop(columns="curve")
study.table(metrics, "descent")
metrics.groupby(["problem", "step", "method"], sort=False)[["iterations", "units", "|grad F| at the end"]].mean()

# %%
drawn = everything[everything["family"] == 0].set_index(["problem", "step", "method"])["curve"]
bi_maml = [f"bi_maml {fraction:g}" for fraction in config.switches]
panels = product(DRAWN, (("equal", "iteration"), ("equal", "gradient units"), ("tuned", "gradient units")))
fig, axes = plt.subplots(2, 3, figsize=(8.4, 5.2), sharey="row")
for ax, (name, (steps, against)) in zip(axes.flat, panels, strict=True):
    for method in ("maml", bi_maml[-1], "fo_maml", "joint"):
        units, norm = drawn[name, steps, method]
        look = style.method(method.split()[0]).line() | {"marker": ""}
        ax.semilogy(units if against == "gradient units" else range(len(norm)), norm, **look)
    units, norm = drawn[name, steps, "maml"]
    ax.set(xlabel=against, title=f"{name}, {steps} steps", ylabel=r"$|\nabla F|$" if against == "iteration" else None)
    ax.set_xlim(0, 1.3 * (units[-1] if against == "gradient units" else len(norm)))
axes[0, 0].legend(fontsize="small")
study.figure(
    fig,
    "descent",
    "MAML gradient along gradient descent, one draw of each problem; BI-MAML switches when |∇f| has fallen to "
    f"{config.switches[-1]:g} of its first value. First-order and joint training stop at their own stationary points, "
    "where ∇F is not zero. The paper reports a better rate for BI-MAML than for MAML; its figures were not seen.",
)

# %% [markdown]
# At equal steps BI-MAML saves iterations and, with each of its first steps costing one gradient instead of four, more
# of the cost. The last column is the caveat: the inner step also *conditions* the problem
# ($\lambda\mapsto\lambda(1-\alpha\lambda)^2$ flattens steep directions), so with each phase's best step MAML needs no
# more iterations than joint training, and only the cheaper steps are left.

# %%
wide = metrics.pivot_table(index=["problem", "family", "step"], columns="method", values=["units", "iterations"])
least = {what: wide[what][bi_maml].min(axis=1) / wide[what]["maml"] for what in ("units", "iterations")}
ratios = pd.DataFrame(least).reset_index()
study.table(ratios, "ratios_to_maml")
ratios.groupby(["problem", "step"], sort=False)[["units", "iterations"]].agg(["mean", "min", "max"])

# %%
study.claim("maml_ode-a10", ratio=ratios[ratios["step"] == "equal"]["units"])

# %%
on_quadratics = ratios[ratios["problem"] == "quadratics"]
tuned, equal = (on_quadratics[on_quadratics["step"] == step]["iterations"] for step in ("tuned", "equal"))
study.claim("maml_ode-a15", tuned=tuned, equal=equal)

# %% [markdown]
# ## In ODE time: no step size, only the fields (logistic tasks)
# Time until $|\nabla F|\le10^{-4}$ from $w_0=R\,\mathbf1/\sqrt d$. All distances $R$ and all thresholds go through one
# integration as a batch of initial points; each has its own event.

# %%
THRESHOLDS, TARGET = [1.0, 0.1, 0.01], 1e-4
eps = torch.tensor(THRESHOLDS, dtype=torch.float64)
tight = {"rtol": 1e-8, "atol": 1e-10}
tasks = LogisticRidge.draw(8, ctml.generator(seed, "logistic 0"))
starts = torch.tensor(config.distances)[:, None] * torch.ones(5, dtype=torch.float64) / math.sqrt(5)


def fields(fraction: float) -> tuple:
    alpha = fraction / tasks.smoothness
    return alpha, joint_field(tasks), maml_field(tasks, alpha)


def in_ode_time(fraction: float) -> list[dict]:
    alpha, joint, maml = fields(fraction)
    maml_time, maml_end = flow_until(maml, starts, slows_to(maml, TARGET), horizon=1000.0, **tight)
    many = starts[:, None].expand(-1, len(eps), -1)
    first, at = flow_until(joint, many, slows_to(joint, eps), horizon=1000.0, **tight)
    second, bi_end = flow_until(maml, at, slows_to(maml, TARGET), horizon=1000.0, **tight)
    return [
        {
            "alpha L": fraction, "alpha": alpha, "R": R, "threshold": THRESHOLDS[j], "MAML": float(maml_time[i]),
            "phase 1": float(first[i, j]), "BI-MAML": float(first[i, j] + second[i, j]),
            "distance of limits": float((bi_end[i, j] - maml_end[i]).norm()),
        }
        for i, R in enumerate(config.distances) for j in range(len(THRESHOLDS))
    ]  # fmt: skip


timed = study.map(in_ode_time, [{"fraction": a} for a in config.fractions])
timed = pd.concat(map(pd.DataFrame, timed), ignore_index=True)
timed["gain"] = timed["MAML"] - timed["BI-MAML"]
study.table(timed, "ode_time")

# %%
(near, *_, far), end = config.distances, 1.02 * float(timed["MAML"].max())
_, joint, maml = fields(config.fractions[-1])
clock = torch.linspace(0, end, 300, dtype=torch.float64)
both = biphasic_flow(joint, maml, starts[-1].expand(len(eps), -1), slows_to(joint, eps), end=end, **tight)

fig, axes = plt.subplots(1, 2, figsize=style.WIDE)
look = style.method("maml_flow").line() | {"marker": "", "linestyle": "-"}
axes[0].semilogy(clock, maml(flow(maml, starts[-1], clock, **tight)).norm(dim=-1), **look)
look = {"color": style.COLOURS["bi_maml"], "marker": style.MARKERS["bi_maml"], "mfc": "black", "mec": "black"}
curves = zip(THRESHOLDS, (":", "--", "-"), both.times.T, maml(both.points).norm(dim=-1).T, strict=True)
for e, dash, times, norm in curves:
    at = [len(norm) // 2]  # the switch: as many marks before as after it
    axes[0].semilogy(times, norm, **look, markevery=at, ls=dash, label=rf"BI-MAML, $\varepsilon_1={e:g}$")
axes[0].axhline(TARGET, color="black", linewidth=0.6)
axes[0].set(xlabel="ODE time", ylabel=r"$|\nabla F|$", ylim=(TARGET / 30, None))
axes[0].legend(fontsize="small")
for (R, e), cell in timed[timed["threshold"] != THRESHOLDS[1]].groupby(["R", "threshold"]):
    look = {"color": style.COLOURS["comln" if far == R else "anil"], "linestyle": "-" if e == THRESHOLDS[-1] else ":"}
    axes[1].plot(cell["alpha L"], cell["gain"], "o", **look, label=rf"$R={R:g}$, $\varepsilon_1={e:g}$")
axes[1].set(xlabel=r"$\alpha L$", ylabel="ODE time saved", xticks=config.fractions, ylim=(0, None))
axes[1].legend(fontsize="small")
study.figure(
    fig,
    "ode_time",
    f"Left: MAML gradient in ODE time on eight logistic tasks, αL = {config.fractions[-1]:g}, start at distance "
    f"{far:g}; diamonds: switch; line: target. Right: time that BI-MAML saves until the target, one draw of tasks. The "
    "paper reports the better rate; its figures were not seen.",
)

# %%
by = timed.pivot_table(index="alpha L", columns=["threshold", "R"], values="gain")
farther, steeper = by.T.groupby("threshold").diff().dropna().to_numpy(), by.diff().dropna().to_numpy()
study.claim("maml_ode-a9", bi=timed["BI-MAML"], maml=timed["MAML"], gain_by_distance=farther, gain_by_alpha=steeper)

# %% [markdown]
# Far out the sigmoids are saturated and the curvature is the ridge, $h=\mu$. Every factor $e$ of distance then costs
# MAML $\frac1{h(1-\alpha h)^2}-\frac1h$ more time than joint training.

# %%
strongest = timed[(timed["alpha L"] == config.fractions[-1]) & (timed["threshold"] == THRESHOLDS[-1])].set_index("R")
saved = float(strongest.loc[far, "gain"] - strongest.loc[near, "gain"]) / math.log(far / near)
study.claim("maml_ode-a13", saved=saved, theory=time_saved_per_efold(tasks.ridge, float(strongest["alpha"].iloc[0])))

# %% [markdown]
# ## Where it ends: the other minimum (N2)
# With several minima (notebook 02) it matters which flow brings $w$ near. From $w_0=30$ at $\alpha L=0.9$ the MAML ODE
# stops at the first minimum it meets; the joint flow does not see that one and walks past it.

# %%
two, inner = CurvatureJump.two(), 0.9 / 4
w0 = torch.tensor([30.0], dtype=torch.float64)
joint, maml, clock = joint_field(two), maml_field(two, inner), torch.linspace(0, 400, 400, dtype=torch.float64)
both, alone = biphasic_flow(joint, maml, w0, slows_to(joint, 0.02), end=400.0), flow(maml, w0, clock)

fig, axes = plt.subplots(1, 2, figsize=style.WIDE)
axes[0].plot(clock, alone[:, 0], **style.method("maml_flow").line() | {"marker": "", "linestyle": "-"})
axes[0].plot(both.times, both.points[:, 0], **style.method("bi_maml").line() | {"marker": ""})
axes[0].axvline(float(both.switch_time), color="black", linewidth=0.8, linestyle=":")
axes[0].set(xlabel="ODE time", ylabel="$w$", xlim=(0, 200))
axes[0].legend()
grid = torch.linspace(4, 18, 1000, dtype=torch.float64)[:, None]
axes[1].plot(grid[:, 0], maml_loss(two, inner, grid), color="black", linewidth=1)
for name, point in (("maml_flow", alone[-1]), ("bi_maml", both.points[-1])):
    look = style.method(name)
    axes[1].plot(point, maml_loss(two, inner, point), look.marker, color=look.color, markersize=10, label=look.label)
axes[1].set(xlabel="$w$", ylabel="MAML loss $F$")
axes[1].legend()
study.figure(
    fig,
    "other_minimum",
    "Two strongly convex tasks, α L = 0.9, no randomness. Left: w in ODE time, dotted line: BI-MAML's switch. Right: the "
    "MAML loss and where each method ends; BI-MAML ends in the worse minimum here. Ours, derived: not seen in the paper.",
)

# %%
ends = {"maml_ends": float(alone[-1, 0]), "bi_maml_ends": float(both.points[-1, 0])}
study.claim("maml_ode-a11", distance=timed["distance of limits"], **ends)

# %% [markdown]
# ## Where this differs from the paper
# Switch rule, step sizes, problems and the measure "gradient units" are ours. The paper compares rates of convergence;
# whether at equal or at tuned step sizes could not be learned, and the answer depends on it.
#
# ## Variants to try
# * `SET="switches=[0.5,1e-4,1e-6]"`: a switch too early or too late; when does phase 1 begin to waste steps?
# * `SET="distances=[1.0,2000.0]"`: near the optimum there is nothing to save.
# * Put `mean_inner_gradient_norm` into the event: it has a floor, and `flow_until` says how much the threshold lacks.

# %%
study.close()
