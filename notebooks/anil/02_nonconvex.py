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
# # A nonconvex inner loop can amplify with every step
#
# *Executed, with its figures and verdicts:* [results/quick/anil/02_nonconvex](../../results/quick/anil/02_nonconvex/02_nonconvex.ipynb)
#
# **Paper** Ji, Lee, Liang, Poor, *Convergence of Meta-Learning with Task-Specific Adaptation over Partial Parameters*
# (NeurIPS 2020), the theory of the nonconvex case. Of the paper, only its abstract and introduction were at hand: the
# laws below are re-derived.
#
# **Question** If the adapted parameters are the last layers of a network, the inner loss is not convex in them. What
# do more inner steps do to the outer problem then?
#
# **Answer in one line** At a fixed step the curvature of the meta-objective can grow like $(1+\alpha L)^{2N}$, and
# the outer step has to shrink as much; with $\alpha\propto1/N$ it stays bounded. What grows is the worst point, not
# the typical.
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` | 2 cores | about 1 |
# | `long` | 2 cores, as `paper` with fewer points | about 5 |
# | `paper` | as `quick`, more points, starts and iterations | 5 |

# %% [markdown]
# ## 1 Setup

# %%
import math
from dataclasses import asdict, dataclass, replace

import matplotlib.pyplot as plt
import pandas as pd
import torch
from scipy.stats import kendalltau

import ctml
from ctml.companion import Study, choose, plots, style
from ctml.tasks import Cosine
from ctml.theory import anil as theory
from ctml.theory.anil_instances import Constants, TwoLayerTasks

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
cosine_step = 0.3  # > 0 and <= 1: fixed inner step on the cosine task
starts: int | None = None  # >= 1: of gradient descent
points: int | None = None  # >= 1: of the parameter space

# %% [markdown]
# ## 3 Configuration
#
# The instances are *ours*, and so is every number below.


# %%
@dataclass(frozen=True)
class Config:
    points: int = 1000  # of the two-layer tasks' parameter space
    starts: int = 100  # of gradient descent on the cosine task
    outer_limit: int = 5000  # and its longest run
    inner_steps: tuple[int, ...] = (1, 2, 3, 5, 7, 10)  # N


PAPER = Config()
PRESETS = {
    "paper": PAPER,
    "long": replace(PAPER, points=300),
    "quick": replace(PAPER, points=60, starts=20, outer_limit=1000),
    "smoke": replace(PAPER, points=3, starts=3, outer_limit=30),
}
config = choose(PRESETS, PRESET, starts=starts, points=points)
study = Study("anil", "02_nonconvex", PRESET, asdict(config) | {"cosine_step": cosine_step})
STEPS = config.inner_steps
config

# %% [markdown]
# ## 4 The idea
#
# As in notebook 01, $F(w,\phi)=\mathbb E_i\,L_{Q_i}(w^i_N,\phi)$ with $\partial_wF$ a product of the factors
# $I-\alpha H_m$. Now $H_m$ may have negative eigenvalues down to $-L$, and a factor can be $s=1+\alpha L$:
#
# $$|\partial_wF|,|\partial_\phi F|\le Ms^N,\qquad
# L_{ww},L_{w\phi}\le Ls^{2N}+\tfrac{\rho M}{L}s^{N-1}(s^N-1),\qquad\alpha=\tfrac{c}{NL}\ \Rightarrow\ s^N\le e^c .$$
#
# | paper | code | shape |
# |---|---|---|
# | $w$, $\phi$ | `w`, `phi` | `(points, n_w)`, `(points, n_phi)` |
# | $F$, its curvature | `theory.meta_objective`, `theory.curvature` | scalar, `(points,)` a block |
# | bounds N1, N2 | `theory.nonconvex_bounds` | numbers |
# | $\alpha=1/L$ or $c/(NL)$ | `theory.step_size` | number |
#
# Two instances: the **cosine** $L_S=\cos w$, $L_Q=\tfrac12(w-0.3)^2$, one-dimensional with $L=\rho=1$; and a
# **two-layer head** on five regression tasks, which is what "the last layers adapt" means, without known constants.

# %% [markdown]
# ## 5 The method checked before use
#
# The largest first and second derivatives of the cosine's $F$ on $[-\pi,\pi]$ against the bounds N1 and N2, as
# ratios: none may exceed 1. At $w=0$ the law is exact: $F''(0)=(1+\alpha)^{2N}$.

# %%
target = 0.3
cosine = Cosine.of(target)
w = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)[:, None]
origin = torch.zeros(1, 1, dtype=torch.float64)
constants = Constants(mu=0.0, L=1.0, rho=1.0, tau=0.0, M=math.pi + target)
rows = []
for n in STEPS:
    bounds = theory.nonconvex_bounds(constants, cosine_step, n)
    gradient = theory.meta_gradient(cosine, w, w[:, :0], cosine_step, n)[0].abs().max()
    curvature = theory.curvature(cosine, w, w[:, :0], cosine_step, n).ww.max()
    at_origin = theory.curvature(cosine, origin, origin[:, :0], cosine_step, n).ww
    law = (1 + cosine_step) ** (2 * n)
    rows.append(
        {"N": n, "gradient / N1": float(gradient) / bounds.gradient_w, "curvature / N2": float(curvature) / bounds.ww,
         "F''(0) / law - 1": float(at_origin) / law - 1}
    )  # fmt: skip
study.table(pd.DataFrame(rows), "checks")

# %% [markdown]
# ## 6 Data
#
# None: the tasks are drawn here.
#
# ## 7 Experiments
#
# ### How the curvature grows
#
# On $L_S=\cos w$ the point $w=0$ is a maximum: there each inner step multiplies by $1+\alpha$, and $F''$ by
# $(1+\alpha)^{2N}$. With $\alpha\propto1/N$ the product stays below $e^{2\cdot0.3}$, whatever $N$: that is the
# step-size rule of this geometry.

# %%
growth = study.table(
    pd.DataFrame(
        {
            "N": n,
            "fixed": float(theory.curvature(cosine, w, w[:, :0], cosine_step, n).ww.max()),
            "rule": float(
                theory.curvature(cosine, w, w[:, :0], theory.step_size(1.0, n, "nonconvex", cosine_step), n).ww.max()
            ),
            "law": (1 + cosine_step) ** (2 * n),
        }
        for n in STEPS
    ),
    "nonconvex",
)
growth.round(3)

# %%
study.claim("anil-e06", over_law=growth.fixed / growth.law)

# %%
study.claim("anil-e07", largest=growth.rule)

# %% [markdown]
# What that means for the outer loop: for starts in $[-3,3]$, the largest outer step at which $F$ never rises, and the
# iterations until $|F'|<10^{-3}$ at the step $1/L_F$, $L_F=1.05\,(1+\alpha)^{2N}$.

# %%
TOLERANCE = 1e-3
starting = 6 * torch.rand(config.starts, 1, generator=ctml.generator(seed, "starts"), dtype=torch.float64) - 3
rows = []
for n in STEPS:
    betas = torch.logspace(math.log10(2 / (1 + cosine_step) ** (2 * n)) - 0.5, 0.7, 60, dtype=torch.float64)[:, None]
    grid_w = starting.repeat_interleave(len(betas), 0)
    path = theory.descend(cosine, grid_w, grid_w[:, :0], betas.repeat(len(starting), 1), 0.0, cosine_step, n, 40)
    steady = (path.objective.diff(dim=0) <= 1e-12).all(0).unflatten(0, (len(starting), len(betas)))
    largest = (betas[:, 0] * steady).max(1).values
    rule = 1 / (1.05 * (1 + cosine_step) ** (2 * n))
    path = theory.descend(cosine, starting, starting[:, :0], rule, 0.0, cosine_step, n, config.outer_limit)
    iterations = (path.gradient_w > TOLERANCE**2).sum(0)
    rows.append({"N": n, "largest_step": float(largest.median()), "iterations": float(iterations.double().median())})
outer = study.table(pd.DataFrame(rows), "outer_loop")

fig, axes = plt.subplots(1, 3, figsize=(10.5, 3))
axes[0].plot(growth.N, growth.fixed, "o-", color=style.NEUTRAL[0], label=rf"$\alpha={cosine_step}$")
axes[0].plot(growth.N, growth.law, "k--", lw=1, label=r"$(1+\alpha)^{2N}$")
axes[0].plot(growth.N, growth.rule, "s-", color=style.NEUTRAL[1], label=rf"$\alpha={cosine_step}/N$")
axes[0].set_ylabel("largest $|F''|$")
axes[1].plot(outer.N, outer.largest_step, "o-", color=style.NEUTRAL[0])
axes[1].set_ylabel("largest steady outer step")
axes[2].plot(outer.N, outer.iterations, "o-", color=style.NEUTRAL[0])
axes[2].set_ylabel(r"outer steps to $|F'|<10^{-3}$")
for ax in axes:
    ax.set(xlabel="inner steps $N$", yscale="log")
plots.name_lines(axes[0])
axes[0].set_title(f"curvature: {growth.fixed.iloc[-1] / growth.fixed.iloc[0]:.0f} times, or not at all")
axes[1].set_title(f"step: {outer.largest_step.iloc[0] / outer.largest_step.iloc[-1]:.0f} times shorter")
axes[2].set_title(f"steps: {outer.iterations.iloc[-1] / outer.iterations.iloc[0]:.0f} times as many")
study.figure(
    fig,
    "nonconvex",
    "Cosine task. Left: largest curvature of the meta-objective on a grid of 1001 points. Middle and right: "
    f"medians over {config.starts} starts at the fixed inner step {cosine_step}. The paper states the slower "
    "convergence in words; the law is derived.",
    where="theory, nonconvex case",
)

# %%
rank_correlation = float(kendalltau(outer.N, outer.iterations).statistic)
study.claim("anil-e08", largest_step=outer.largest_step, iterations=outer.iterations, kendall=rank_correlation)

# %% [markdown]
# ### A two-layer head: the worst point and the typical one
#
# The same for a head $v^\top\tanh(U^\top x)$: largest and median $L_{ww}$ over random points. At a small step more
# inner steps *lower* the curvature, as near a minimum they do; at a large one the worst point explodes, while the
# median stays.

# %%
tasks = TwoLayerTasks.draw(ctml.generator(seed, "two layers"))
stream = ctml.generator(seed, "points")
at = [torch.randn(config.points, k, generator=stream, dtype=torch.float64) for k in (tasks.n_w, 4)]
at[1] *= 0.3  # phi scales the inputs by its exponential
STEP_SIZES = {
    "0.1": lambda n: 0.1,
    "0.5": lambda n: 0.5,
    "1": lambda n: 1.0,
    "1/N": lambda n: theory.step_size(1.0, n, "nonconvex"),
}
two_layer = study.table(
    pd.DataFrame(
        {"step": name, "N": n, "largest": float(ww.max()), "median": float(ww.median())}
        for name, alpha in STEP_SIZES.items()
        for n in STEPS
        for ww in [theory.curvature(tasks, *at, alpha(n), n).ww]
    ),
    "two_layer",
)

fig, axes = plt.subplots(1, 2, figsize=style.WIDE, sharey=True)
colours = dict(zip(STEP_SIZES, (*style.NEUTRAL, "0.45"), strict=True))
for name, rows in two_layer.groupby("step", sort=False):
    for ax, quantity in zip(axes, ("largest", "median"), strict=True):
        ax.plot(rows.N, rows[quantity], "o-", color=colours[name], label=rf"$\alpha={name}$")
        ax.set(xlabel="inner steps $N$", yscale="log", title=f"{quantity} over {config.points} points")
axes[0].set_ylabel("$L_{ww}$")
for ax in axes:
    plots.name_lines(ax)
study.figure(
    fig,
    "two_layer_head",
    "Spectral norm of the w-block of the meta-objective's Hessian, two-layer head on five tasks, at "
    f"{config.points} random points, against the number of inner steps. Ours; the paper's nonconvex experiments are "
    "on networks (notebook 03).",
    where="theory, nonconvex case",
)

# %% [markdown]
# ## 8 Claims
#
# Decided where their samples were made, above; the table stands at the end.
#
# ## 9 Where this differs from the paper
#
# - The paper's theorems, their constants and the powers of $N$ in its rates were not readable. The bounds here are
#   derived under assumptions of the same type ($\alpha\le1/L$; smooth, Lipschitz second derivatives, bounded query
#   gradients).
# - The exponential law is a worst case, attained at the cosine's maximum. Two-layer heads show it at their worst
#   points only: what a network does in training is notebook 03.
#
# ## 10 Variants to try
#
# - `SET="cosine_step=0.1"`: at $\alpha L=0.1$ ten steps amplify less than sevenfold.
# - A wider head: `TwoLayerTasks.draw(..., hidden=16)`.
# - Your own geometry: any object with `given(phi)`, which returns the `TaskLosses` at phi, goes through
#   `theory.curvature` and `theory.descend`.
#
# ## 11 Provenance

# %%
study.close()
