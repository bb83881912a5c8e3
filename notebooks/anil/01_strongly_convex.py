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
# # A strongly convex inner loop forgets where it started
#
# *Executed, with its figures and verdicts:* [results/quick/anil/01_strongly_convex](../../results/quick/anil/01_strongly_convex/01_strongly_convex.ipynb)
#
# **Paper** Ji, Lee, Liang, Poor, *Convergence of Meta-Learning with Task-Specific Adaptation over Partial Parameters*
# (NeurIPS 2020), the theory of the strongly convex case. Of the paper, only its abstract and introduction were at
# hand: constants and rates below are re-derived.
#
# **Question** ANIL adapts some parameters $w$ by $N$ inner steps and leaves the others, $\phi$, to the outer loop. If
# the inner loss is strongly convex in $w$, as for a linear head with a ridge: do more inner steps make the outer
# problem easier?
#
# **Answer in one line** Yes: each step forgets a constant factor of the start $w$, so its gradient and curvature
# vanish geometrically in $N$, while the problem in $\phi$ stays as hard as it is; weighing cost, a moderate $N$ is
# best.
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` | 2 cores | about 1 |
# | `long` | 2 cores, as `paper` | 5 |
# | `paper` | as `quick`, more points, starts and iterations | 5 |

# %% [markdown]
# ## 1 Setup

# %%
import math
from dataclasses import asdict, dataclass, replace

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml.agreement import central_differences, relative_error
from ctml.companion import Study, choose, plots, style
from ctml.learners.anil_backward import Autograd, Reverse
from ctml.learners.vector import meta_gradient_vector
from ctml.theory import anil as theory
from ctml.theory import rates
from ctml.theory.anil_instances import LogCoshTasks, QuadraticTasks, TwoBlocks

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
points: int | None = None  # >= 1: where curvature is looked at
instances: int | None = None  # >= 1: of the log-cosh tasks

# %% [markdown]
# ## 3 Configuration
#
# The instances are *ours*, and so is every number below. Inner steps $N$ up to 15, so that a rate can be read off.


# %%
@dataclass(frozen=True)
class Config:
    points: int = 300  # where curvature and bounds are looked at
    instances: int = 10  # of the log-cosh tasks, for the bounds
    outer_steps: int = 300  # of gradient descent on the quadratic tasks
    inner_steps: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 15)  # N
    mu: float = 0.5  # ridge of the log-cosh tasks


PAPER = Config()
PRESETS = {
    "paper": PAPER,
    "long": PAPER,
    "quick": replace(PAPER, points=40, instances=3),
    "smoke": replace(PAPER, points=3, instances=1, outer_steps=5),
}
config = choose(PRESETS, PRESET, points=points, instances=instances)
study = Study("anil", "01_strongly_convex", PRESET, asdict(config))
STEPS = config.inner_steps
config

# %% [markdown]
# ## 4 The idea
#
# $$w^i_0=w,\qquad w^i_{m+1}=w^i_m-\alpha\nabla_w L_{S_i}(w^i_m,\phi),\qquad
# F(w,\phi)=\tfrac1M\sum_i L_{Q_i}(w^i_N,\phi)$$
#
# $$\partial_w F=\tfrac1M\sum_i\prod_{m=0}^{N-1}(I-\alpha H_m)\,\partial_w L_{Q_i},\qquad
# \partial_\phi F=\tfrac1M\sum_i\Big[\partial_\phi L_{Q_i}
# -\alpha\sum_m C_m^\top\prod_{j>m}(I-\alpha H_j)\,\partial_w L_{Q_i}\Big]$$
#
# Everything hangs on the factors $I-\alpha H_m$: strongly convex and $\alpha\le1/L$, each is at most
# $q=1-\alpha\mu<1$. (Nonconvex, they can be as large as $1+\alpha L$: notebook 02.)
#
# | paper | code | shape |
# |---|---|---|
# | $w$, task-specific | `w` | `(points, n_w)` |
# | $\phi$, common | `phi` | `(points, n_phi)` |
# | $F$ | `theory.meta_objective` | scalar |
# | $H_m=\partial^2_wL_S$, $C_m=\partial_\phi\partial_wL_S$ | inside `ANIL._reverse` | products with a vector only |
# | $\mu,L,\rho,\tau,M$ | `LogCoshTasks.constants()` | numbers |
# | $L_{ww},L_{w\phi},L_{\phi\phi}$ | `theory.curvature` | `(points,)` each |
#
# Two instances with known constants: **quadratic** tasks, everything in closed form, and **log-cosh** regression with
# the ridge $\tfrac\mu2|w|^2$, whose curvature varies.


# %%
def draw_points(n, scale=1.0):
    """Return n random (w, phi)."""
    stream = ctml.generator(seed, "points")
    return tuple(scale * torch.randn(n, k, generator=stream, dtype=torch.float64) for k in (6, 4))


quadratic = QuadraticTasks.draw(ctml.generator(seed, "quadratic"))
log_cosh = [LogCoshTasks.draw(ctml.generator(i, "log-cosh"), ridge=config.mu) for i in range(config.instances)]
constants = log_cosh[0].constants()
alpha_quadratic, alpha_log_cosh = theory.step_size(2.0, 1, "strongly-convex"), 1 / constants.L
q_quadratic, q_log_cosh = 1 - alpha_quadratic * 0.5, 1 - alpha_log_cosh * constants.mu
pd.Series(constants._asdict() | {"kappa": constants.kappa, "q": q_log_cosh}, name="log-cosh").to_frame().T.round(3)

# %% [markdown]
# ## 5 The method checked before use
#
# `ctml.ANIL` runs the two strongly convex instances as a linear model with the parameters `w` and `phi`. Its
# meta-gradient, by the reverse loop and by autograd, against `torch.func` through the instance's own formulas, and
# against central differences.


# %%
def errors(instance, steps, backward):
    """Return the relative errors of the meta-gradient: against torch.func, and along one direction by differences."""
    w, phi = draw_points(1)
    options = {"adapts": "w", "inner_lr": 0.5, "inner_steps": steps, "ridge": instance.ridge, "backward": backward}
    seen = meta_gradient_vector(ctml.ANIL(TwoBlocks(w[0], phi[0]), instance.loss, **options), instance.batch())
    exact = torch.cat(theory.meta_gradient(instance, w, phi, 0.5, steps), 1)[0]
    along = seen / seen.norm()
    slope = central_differences(
        lambda t: theory.meta_objective(instance, w[0] + t * along[:6], phi[0] + t * along[6:], 0.5, steps),
        torch.zeros(1, dtype=torch.float64),
        eps=1e-5,
    )
    return {"autodiff": relative_error(seen, exact), "differences": abs(float(slope / seen.norm()) - 1)}


checks = pd.DataFrame(
    {"tasks": type(instance).__name__, "N": steps, "backward": way} | errors(instance, steps, backward)
    for instance in (quadratic, log_cosh[0])
    for steps in (0, 1, 3, 7)
    for way, backward in {"reverse": Reverse(), "autograd": Autograd()}.items()
)
study.table(checks, "checks").groupby(["tasks", "backward"])[["autodiff", "differences"]].max()

# %%
study.claim("anil-e01", autodiff=checks.autodiff, differences=checks.differences)

# %% [markdown]
# ## 6 Data
#
# None: the tasks are drawn above.
#
# ## 7 Experiments
#
# ### Strongly convex: the start is forgotten
#
# With $|\nabla L_Q|\le M$, trajectories from two starts contract by $q$ a step, and
#
# $$|\partial_wF|\le Mq^N,\qquad L_{ww}\le Lq^{2N}+\tfrac{\rho M}{\mu}q^{N-1}(1-q^N),\qquad
# L_{w\phi}\le(1+\kappa)\big[Lq^N+\rho MN\alpha q^{N-1}\big],\qquad L_{\phi\phi}\ \text{bounded}.$$
#
# On the quadratic tasks $\rho=0$, and $L_{ww}$ falls like $q^{2N}$.


# %%
def measured(name, instance, alpha, steps, scale):
    """Return the largest gradient norms and curvatures of one instance over random points."""
    at = draw_points(config.points, scale)
    gradients = [g.norm(dim=1) for g in theory.meta_gradient(instance, *at, alpha, steps)]
    seen = [*gradients, *theory.curvature(instance, *at, alpha, steps)]
    quantities = dict(zip(theory.Bounds._fields, seen, strict=True))
    return [{"tasks": name, "N": steps, "quantity": k, "value": float(v.max())} for k, v in quantities.items()]


rows = [row for n in STEPS for row in measured("quadratic", quadratic, alpha_quadratic, n, 1.0)]
rows += [row for n in STEPS for row in measured("log-cosh 0", log_cosh[0], alpha_log_cosh, n, 3.0)]
bounds = {n: theory.strongly_convex_bounds(constants, alpha_log_cosh, n) for n in STEPS}
strongly = study.table(pd.DataFrame(rows), "strongly_convex")


def log_slope(tasks, quantity):
    """Return the slope of log(quantity) per inner step, from N = 5 on."""
    rows = strongly[(strongly.tasks == tasks) & (strongly.quantity == quantity) & (strongly.N >= 5)]
    return -rates.exponential(torch.tensor(rows.N.values, dtype=torch.float64), torch.tensor(rows.value.values)).value


BLOCKS = dict(zip(("ww", "w_phi", "phi_phi"), ("$L_{ww}$", r"$L_{w\phi}$", r"$L_{\phi\phi}$"), strict=True))
fig, axes = plt.subplots(1, 2, figsize=style.WIDE, sharey=True)
for ax, tasks in zip(axes, ("quadratic", "log-cosh 0"), strict=True):
    for (key, label), colour in zip(BLOCKS.items(), style.NEUTRAL, strict=True):
        rows = strongly[(strongly.tasks == tasks) & (strongly.quantity == key)]
        ax.plot(rows.N, rows.value, "o-", color=colour, label=label)
        if tasks != "quadratic":
            ax.plot(STEPS, [getattr(bounds[n], key) for n in STEPS], ":", color=colour, lw=1.2)
    ax.set(xlabel="inner steps $N$", yscale="log", title=f"{tasks.removesuffix(' 0')} tasks: w is forgotten")
axes[0].plot(STEPS, [0.8 * q_quadratic ** (2 * n) for n in STEPS], "k--", lw=1, label="$q^{2N}$")
axes[0].set_ylabel("spectral norm")
for ax in axes:
    plots.name_lines(ax)
study.figure(
    fig,
    "strongly_convex_curvature",
    f"Largest spectral norm of the three blocks of the meta-objective's Hessian over {config.points} random points, "
    "against the number of inner steps. Both blocks that touch w decay geometrically, the block of phi stays; the "
    "derived bounds (dotted) lie some two orders of magnitude above and fall as well. The paper states the faster "
    "convergence in words; its figure of this, if any, was not seen.",
    where="theory, strongly convex case",
)

# %%
slopes = {k: log_slope("log-cosh 0", k) for k in ("gradient_w", "ww", "w_phi")}
rows = [("quadratic", "ww", log_slope("quadratic", "ww"), 2 * math.log(q_quadratic))]
rows += [("log-cosh", quantity, slope, math.log(q_log_cosh)) for quantity, slope in slopes.items()]
study.table(pd.DataFrame(rows, columns=["tasks", "quantity", "slope", "law"]), "slopes").round(4)

# %%
study.claim(
    "anil-e02",
    quadratic_slope=log_slope("quadratic", "ww"),
    quadratic_log_q=math.log(q_quadratic),
    log_cosh_slopes=torch.tensor(list(slopes.values())),
    log_cosh_log_q=math.log(q_log_cosh),
)

# %% [markdown]
# The bounds at random points of several instances: how often is one exceeded?

# %%
violations = []
for instance in log_cosh:
    known = instance.constants()
    for n in STEPS:
        limits = theory.strongly_convex_bounds(known, 1 / known.L, n)
        seen = measured("", instance, 1 / known.L, n, 3.0)
        violations += [row["value"] > limit for row, limit in zip(seen, limits, strict=True)]
study.claim("anil-e03", violations=violations)

# %% [markdown]
# ### Strongly convex: what the outer loop feels
#
# Gradient descent on the quadratic tasks' $F$ with block steps $\beta_w=\tfrac{1}{2L_{ww}}$,
# $\beta_\phi=\tfrac{1}{2L_{\phi\phi}}$. The gradient in $w$ is what the geometry speaks about; the gradient in $\phi$
# saturates. The *sum* of both need not fall with $N$, which is why the claim is about the $w$-block.

# %%
rows = []
for n in STEPS:
    start = draw_points(1)
    blocks = theory.curvature(quadratic, *start, alpha_quadratic, n)
    steps = (0.5 / float(blocks.ww), 0.5 / float(blocks.phi_phi))
    path = theory.descend(quadratic, *start, *steps, alpha_quadratic, n, config.outer_steps)
    rows.append({"N": n, "gradient_w": float(path.gradient_w.mean()), "gradient_phi": float(path.gradient_phi.mean())})
descent = study.table(pd.DataFrame(rows), "descent")

grid = torch.arange(1, 41, dtype=torch.float64)
ratios = {30: style.NEUTRAL[0], 5: style.NEUTRAL[1]}
costs = {ratio: theory.cost_of_bound(grid, q_quadratic, 1.0, float(ratio)) for ratio in ratios}
best = {ratio: int(grid[cost.argmin()]) for ratio, cost in costs.items()}

fig, axes = plt.subplots(1, 2, figsize=style.WIDE)
axes[0].plot(descent.N, descent.gradient_w, "o-", color=style.NEUTRAL[0], label=r"$|\partial_wF|^2$")
axes[0].plot(descent.N, descent.gradient_phi, "s-", color=style.NEUTRAL[2], label=r"$|\partial_\phi F|^2$")
axes[0].set(xlabel="inner steps $N$", ylabel=f"mean over {config.outer_steps} outer steps", yscale="log")
axes[0].set_title(
    f"in w: {descent.gradient_w.iloc[0] / descent.gradient_w.iloc[-1]:,.0f} times smaller at the largest N"
)
axes[1].set_title("the promised cost is least at a moderate N")
for ratio, colour in ratios.items():
    label = f"$c_2/c_1={ratio}$:\nleast at $N={best[ratio]}$"
    axes[1].plot(grid, costs[ratio] / costs[ratio].min(), color=colour, label=label)
    axes[1].plot(best[ratio], 1, "o", color=colour)
axes[1].set(xlabel="inner steps $N$", ylabel="cost of the bound / least", yscale="log")
axes[1].set(ylim=(0.9, 20), yticks=[1, 2, 5, 10, 20])
axes[1].yaxis.set_major_formatter("{x:g}")
for ax in axes:
    plots.name_lines(ax)
study.figure(
    fig,
    "strongly_convex_descent",
    f"Left: mean squared gradients along {config.outer_steps} steps of gradient descent on the quadratic tasks' "
    "meta-objective, one start. Right: total cost (N+1)(c1 + c2 q^N)^2 that the derived bound promises, q = 0.75: "
    "more inner steps help until they only cost. A review of the paper says the same of its theorem; the curve "
    "itself is derived.",
    where="theory, strongly convex case",
)

# %%
study.claim(
    "anil-e04",
    gradient_w=descent.gradient_w,
    gradient_phi=descent.gradient_phi,
    last_but_one_phi=descent.gradient_phi.iloc[-2],
)

# %%
study.claim("anil-e05", best_at_30=best[30], best_at_5=best[5])

# %% [markdown]
# ### What makes the head's loss strongly convex
#
# A public implementation of the same laboratory adds $\lambda\sum|p|_2$, the norm itself and not its square, to the
# inner loss. Along a ray from the origin the norm has no curvature, and cross-entropy's vanishes far out; with
# $\tfrac\mu2|w|^2$ the smallest eigenvalue of the inner Hessian never falls below $\mu$.

# %%
MU, RADII = 0.1, torch.logspace(-1, 2.5, 15, dtype=torch.float64)
stream = ctml.generator(seed, "ray")
features, labels = torch.randn(25, 8, generator=stream, dtype=torch.float64), torch.arange(5).repeat(5)
direction = torch.randn(5, 8, generator=stream, dtype=torch.float64)
direction = direction / direction.norm()


def least_curvature(penalty, radius):
    """Return the smallest eigenvalue of the head's regularised inner Hessian at a distance from the origin."""

    def inner_loss(head):
        return torch.nn.functional.cross_entropy(features @ head.T, labels) + penalty(head)

    hessian = torch.func.hessian(inner_loss)(radius * direction)
    return float(torch.linalg.eigvalsh(hessian.reshape(40, 40))[0])


squared = [least_curvature(lambda head: MU / 2 * head.square().sum(), r) for r in RADII]
unsquared = [least_curvature(lambda head: MU * head.norm(), r) for r in RADII]
fig, ax = plt.subplots(figsize=style.NARROW)
ax.plot(RADII, squared, "o-", color=style.NEUTRAL[0], label=r"$\frac{\mu}{2}|w|^2$")
ax.plot(RADII, unsquared, "s-", color=style.NEUTRAL[1], label=r"$\mu|w|$")
ax.axhline(MU, color="0.4", ls="--", lw=1)
ax.set(xscale="log", xlabel="$|w|$ along a ray", ylabel="least eigenvalue of the inner Hessian")
ax.set_title(f"un-squared, {min(unsquared) / MU:.0e} of $\\mu$ is left far out")
plots.name_lines(ax)
study.figure(
    fig,
    "regularisers",
    "Smallest eigenvalue of the inner Hessian of a 5-way head on 25 random examples of 8 features, along one ray.",
)

# %%
study.claim("anil-e12", squared_over_mu=[v / MU for v in squared], unsquared=unsquared)

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
# - The instances are ours. They show the mechanism; they say nothing of networks: that is notebook 03.
# - "Faster with $N$" is claimed for the $w$-block. The total gradient need not fall with $N$ even on quadratics.
#
# ## 10 Variants to try
#
# - `SET="instances=10 points=300"`: look harder for a violated bound.
# - A better conditioned quadratic: `QuadraticTasks.draw(..., curvature=(1.9, 2.0))` forgets $w$ in two steps.
# - Your own geometry: any object with `given(phi)`, which returns the `TaskLosses` at phi, goes through
#   `theory.curvature`.
#
# ## 11 Provenance

# %%
study.close()
