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
# # MAML's outer loop is a flow
#
# **Paper:** Xu, Chen, Karbasi, *Meta Learning in the Continuous Time Limit*, AISTATS 2021 (the MAML ODE).
#
# **Question:** what is left of MAML when the outer step size goes to zero?
#
# **Answer:** a gradient flow. MAML's gradient descent is its Euler discretisation, and what a finite step adds can be
# seen and measured: an error of order one where the network is smooth, a wall it may jump over, a step beyond which it
# explodes. Where units switch, as in ReLU networks, MAML follows
# the flow for a while and then only roughly.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.3 |
# | quick | 2 CPU cores | 1.5 |
# | long | 2 CPU cores, as paper | 10, estimated |
# | paper | 2 CPU cores | 10 |
#
# ## What the abstract says, under which conditions it is true, where it stops
#
# | the abstract | true here under | where it stops | notebook |
# |---|---|---|---|
# | the MAML ODE is the limit of MAML, which is one discretisation of it | $F$ twice differentiable, $\beta$ below $2/\lambda_{\max}(\nabla^2F)$ | ReLU networks have a kink wherever a unit switches, and $F$ jumps there; Finn's Omniglot runs have $\alpha/\beta=400$: the *inner* step is the coarse one | 01 |
# | the MAML loss is non-convex though the tasks are strongly convex | one task suffices | small $\alpha$: it is convex where inner gradients are small | 02 |
# | linear rate to an approximate stationary point | $\mu$-strongly convex tasks, $\alpha<1/L$, $\lambda_A>0$: rate $\lambda_A\mu$ or better, up to a distance $O(\alpha\sigma)$; one task: $2\mu(1-\alpha L)^2$ all the way | several minima above a fold in $\alpha L$; nothing without strong convexity | 02 |
# | BI-MAML cuts the computational burden | far start, MAML as the rival, gradients counted | with tuned steps it saves cost, not iterations; first-order MAML, which the abstract does not name, is a rival of its own; with labels permuted per task a joint phase learns nothing | 03, 04 |
#
# *What is the paper's here:* that MAML's outer dynamics have an ODE limit of which MAML is a discretisation (its
# abstract). The body of the paper could not be read. The formula is written out from the definition of one-step MAML,
# and every experiment is ours.

# %%
from dataclasses import asdict, dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from ipywidgets import FloatSlider, interact

import ctml
from ctml import data
from ctml.companion import Study, choose, style
from ctml.flows.maml_field import learner_field, maml_field, maml_loss, on_batch
from ctml.flows.maml_flow import flow
from ctml.models import MLP, Conv4
from ctml.tasks import CurvatureJump, FewShot, Quadratic, Sinusoid
from ctml.theory import rates

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
alpha: float | None = None  # > 0 and < 1: inner step size on sinusoids
tasks: int | None = None  # >= 1: number of sinusoids

# %% [markdown]
# ## Configuration
# The networks and inner step sizes are Finn et al.'s (2017); the rest is *ours*.


# %%
@dataclass(frozen=True)
class Config:
    alpha: float = 0.01  # inner step size on sinusoids
    tasks: int = 25  # sinusoids of a draw
    draws: int = 20  # of tasks and initial weights; *ours*
    dataset: str = "omniglot or glyphs"
    image_draws: int = 5  # *ours*
    image_tasks: int = 8  # *ours*
    width: int = 64  # filters of a convolution
    horizon: float = 0.5  # ODE time; *ours*
    steps: tuple = (8, 16, 32, 64)  # outer steps until then; *ours*
    picture: int = 500  # resolution of the landscape
    grid: int = 12  # trajectories in the landscape along each side


PAPER = Config()
QUICK = replace(PAPER, image_draws=3, image_tasks=4, width=8, picture=240, grid=6)
SMOKE = replace(
    QUICK,
    tasks=3,
    draws=2,
    dataset="glyphs",
    image_draws=2,
    image_tasks=2,
    width=2,
    steps=(2, 4, 8),
    picture=40,
    grid=3,
)
PRESETS = {"paper": PAPER, "long": PAPER, "quick": QUICK, "smoke": SMOKE}
config = choose(PRESETS, PRESET, alpha=alpha, tasks=tasks)
study = Study("maml_ode", "01_flow", PRESET, {**asdict(config), "seed": seed})
config

# %% [markdown]
# ## The idea
# One inner step, a finite set of tasks, and each task a function $f_i$ of the parameters alone (the paper's analysis
# treats every task as an oracle: no support, no query); $\mathbb E_i$ is the mean over the tasks:
#
# $$F(w)=\mathbb E_i f_i\bigl(w-\alpha\nabla f_i(w)\bigr),\qquad
# \nabla F(w)=\mathbb E_i\bigl(I-\alpha\nabla^2 f_i(w)\bigr)\,\nabla f_i\bigl(w-\alpha\nabla f_i(w)\bigr).$$
#
# MAML by gradient descent is $w_{k+1}=w_k-\beta\,\nabla F(w_k)$. Read $t=k\beta$ and let $\beta\to0$:
#
# $$\frac{dw}{dt}=-\nabla F(w)\qquad\text{(MAML ODE)}.$$
#
# **Why the limit is worth having.** It has no step size, so what it does is a property of the loss alone; it falls
# without fail, so every rise of MAML's loss is the step's doing; and it can be solved to any accuracy by any method, so
# there is something to measure MAML against.
#
# | letter | code | shape |
# |---|---|---|
# | $w$ | `w` | `(*points, d)`: many initial points at once |
# | $f_i$ | `tasks.query` | points `(*points, tasks, d)` to losses `(*points, tasks)` |
# | $-\nabla F$ | `maml_field(tasks, alpha)` | points to velocities, same shape |
# | $F$ | `maml_loss(tasks, alpha, w)` | `(*points)` |
# | $w(t)$ | `flow(field, w0, times, method=...)` | `(times, *points, d)` |
# | $\alpha,\ \beta$ | `alpha`, the distance of `times` | scalars |
#
# The field is these lines, with `gradients` and `hessian_vector_products` by autograd for all tasks at once:
#
# ```python
# def field(w):
#     shared = expand(w, losses.n_tasks)
#     v = gradients(losses.query, shared - alpha * gradients(losses.support, shared))
#     _, hv = hessian_vector_products(losses.support, shared, v)
#     return -(v - alpha * hv).mean(-2)
# ```
#
# `flow(..., method="euler")` on the times $0,\beta,2\beta,\dots$ *is* MAML; `method="dopri5"` chooses its own steps.

# %% [markdown]
# ## The field, checked before use
# Against central differences of $F$ on quadratics, and against the meta-gradient that the learner `ctml.MAML` takes by
# ordinary autograd on a small network with support and query sets.

# %%
quadratics = Quadratic.draw(6, 4, ctml.generator(seed, "quadratic tasks"))
w0 = 3 * torch.randn(5, 4, generator=ctml.generator(seed, "initial points"), dtype=torch.float64)
h = 1e-5 * torch.eye(4, dtype=torch.float64)
difference = (maml_loss(quadratics, 0.1, w0[:, None] + h) - maml_loss(quadratics, 0.1, w0[:, None] - h)) / 2e-5

batch = Sinusoid().sample(config.tasks, ctml.generator(seed, "sinusoids")).to(dtype=torch.float64)
network = MLP([1, 10, 1], activation=torch.tanh, generator=ctml.generator(seed, "weights")).double()
learner = ctml.MAML(network, ctml.mse, inner_lr=config.alpha)
point = torch.cat([p.detach().flatten() for p in network.parameters()])
explicit = maml_field(on_batch(learner, batch), config.alpha)(point)
found = {
    "quadratics, central differences of F": maml_field(quadratics, 0.1)(w0) + difference,
    "network, the learner's meta-gradient": explicit - learner_field(learner, batch)(point),
}
pd.Series({what: float(d.abs().max()) for what, d in found.items()}, name="largest difference").to_frame()

# %% [markdown]
# ## Real networks: as $\beta$ falls, MAML's curves collapse on the flow
# Finn et al.'s network on 25 sinusoids, with their ReLUs and with $\tanh$; and Conv-4 on 5-way 1-shot tasks of letters,
# $\alpha=0.4$. The meta-batch is fixed. Over $t=k\beta$ every $\beta$ must give one curve, and the distance to the flow
# at the end must halve with $\beta$. The flow itself is integrated by the classical Runge-Kutta method.

# %%
name = data.first_available(config.dataset)
source = study.data(data.pool(name, "train").source)
NETWORKS = {"2x40, tanh": config.draws, "2x40, ReLU": config.draws, "Conv-4": config.image_draws}


def follow(kind: str, draw: int, data_name: str) -> dict:
    """Return MAML's loss along MAML with each outer step, and the distances to the flow at the end."""
    stream, weights = ctml.generator(seed + draw, "tasks"), ctml.generator(seed + draw, "weights")
    if kind == "Conv-4":
        tasks = FewShot(data.pool(data_name, "train"), ways=5, shots=1, queries=2)
        network, loss, alpha, n = (
            Conv4(1, 5, width=config.width, pool=False, generator=weights),
            ctml.cross_entropy,
            0.4,
            config.image_tasks,
        )
    else:
        activation = torch.relu if "ReLU" in kind else torch.tanh
        tasks, loss, alpha, n = Sinusoid(), ctml.mse, config.alpha, config.tasks
        network = MLP([1, 40, 40, 1], activation=activation, generator=weights)
    losses = on_batch(
        ctml.MAML(network.double(), loss, inner_lr=alpha), tasks.sample(n, stream).to(dtype=torch.float64)
    )
    field, w0 = maml_field(losses, alpha), torch.cat([p.detach().flatten() for p in network.parameters()])
    exact = flow(field, w0, torch.linspace(0, config.horizon, config.steps[-1] + 1).double(), method="rk4")
    errors, curves = (
        [],
        {"flow": [float(maml_loss(losses, alpha, w)) for w in exact[:: config.steps[-1] // config.steps[0]]]},
    )
    for steps in config.steps:
        path = flow(field, w0, torch.linspace(0, config.horizon, steps + 1).double(), method="euler")
        errors.append(float((path[-1] - exact[-1]).norm() / (exact[-1] - w0).norm()))
        curves[steps] = [float(maml_loss(losses, alpha, w)) for w in path]
    return {"network": kind, "draw": draw, "errors": errors, "curves": curves}


jobs = [{"kind": kind, "draw": k, "data_name": name} for kind, draws in NETWORKS.items() for k in range(draws)]
runs = study.map(follow, jobs)
betas = config.horizon / torch.tensor(config.steps, dtype=torch.float64)
orders = pd.DataFrame({"network": run["network"], "draw": run["draw"], "order": rates.power(betas, torch.tensor(run["errors"])).value,
                       **{f"beta={b:.4g}": e for b, e in zip(betas.tolist(), run["errors"], strict=True)}} for run in runs)  # fmt: skip
study.table(orders, "networks").drop(columns="draw").groupby("network", sort=False).agg(["mean", "std"]).round(3).T

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.0))
for ax, kind in zip(axes, ("2x40, ReLU", "Conv-4"), strict=False):
    curves = next(run["curves"] for run in runs if run["network"] == kind)
    for (what, losses), colour in zip(curves.items(), ("maml_flow", "comln", "anil", "rk2", "maml"), strict=False):
        label = "flow" if what == "flow" else rf"$\beta={config.horizon / what:.3g}$"
        t = np.linspace(0, config.horizon, len(losses))
        ax.plot(
            t,
            losses,
            color=style.COLOURS[colour],
            label=label,
            lw=3 if what == "flow" else 1.2,
            zorder=0 if what == "flow" else 2,
        )
    ax.set(xlabel=r"$t=k\beta$", title=kind)
axes[0].set_ylabel("MAML loss on the meta-batch")
axes[0].legend(fontsize="x-small")
for kind, colour in zip(NETWORKS, ("maml", "comln", "rk2"), strict=True):
    rows = orders[orders["network"] == kind]
    axes[2].loglog(
        betas,
        rows.filter(like="beta=").mean(),
        "o-",
        color=style.COLOURS[colour],
        label=f"{kind}: {rows['order'].mean():.2f}",
    )
axes[2].set(xlabel=r"outer step $\beta$", title="order")
axes[2].set_xticks(betas, [f"{float(beta):.2g}" for beta in betas], fontsize="x-small")
axes[2].minorticks_off()
axes[2].set_ylabel("distance to the flow / its length", fontsize="small")
axes[2].legend(fontsize="x-small")
study.figure(
    fig,
    "networks",
    f"MAML on a fixed meta-batch in ODE time. Left: {config.tasks} sinusoids; middle: {config.image_tasks} tasks of {source}, "
    f"width {config.width}; one draw each. Right: distance to the flow at t = {config.horizon:g}, mean over {config.draws} draws "
    f"({config.image_draws} of Conv-4), with the mean order. The paper's abstract says that MAML is one discretisation of the "
    "ODE; its figures were not seen.",
)

# %%
order = {kind: orders.loc[orders["network"] == kind, "order"] for kind in NETWORKS}
study.claim("maml_ode-a1", order=order["2x40, tanh"])

# %%
study.claim("maml_ode-a1-relu", order=order["2x40, ReLU"])

# %%
study.claim("maml_ode-a1-conv4", order=order["Conv-4"])

# %% [markdown]
# Where the network is smooth, the order is one. With ReLUs the curves collapse as well at first, but a finer step does
# not always come nearer: $f$ has kinks, its gradient jumps there, so does the adapted point $w-\alpha\nabla f(w)$, and
# $F$ with it. Two paths that meet such a wall on different sides go apart for good. The ODE is then no limit of MAML in
# the strict sense, and $\alpha$ decides how high the walls are: far higher at Conv-4's 0.4 than at 0.01.
#
# ## A landscape, and what a step size does to it
# Two strongly convex tasks whose MAML loss is *not* convex for large $\alpha L$ (instance N2 in each of two coordinates:
# notebook 02 has the details). The flow has no step size: every initial point belongs to one minimum. Gradient descent
# follows it for small $\beta$; beyond $2/\lambda_{\max}(\nabla^2F)$ of that minimum it cannot stay there and climbs
# over the ridge to a flatter one. In JupyterLab the next cell has a slider for $\alpha L$.

# %%
jumps = CurvatureJump.two()
low, high = 4.0, 17.0
axis = torch.linspace(low, high, config.picture, dtype=torch.float64)
plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
side = torch.linspace(low + 0.4, high - 0.4, config.grid, dtype=torch.float64)
starts = torch.cartesian_prod(side, side)


def landscape(share: float, ax=None) -> None:
    """Draw the MAML loss at alpha L = share, the flows from a grid of points, and where they end."""
    ax = ax or plt.subplots(figsize=(4, 4))[1]
    field, height = maml_field(jumps, share / 4), maml_loss(jumps, share / 4, plane)
    paths = flow(field, starts, torch.linspace(0, 400, 401, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    ends = paths[-1].round(decimals=1).unique(dim=0)
    levels = np.unique(np.quantile(height.numpy(), np.linspace(0, 1, 22)))
    ax.contourf(axis, axis, height, levels=levels, cmap="Greys", alpha=0.55)
    for path in paths.movedim(1, 0):
        basin = int((ends - path[-1]).norm(dim=1).argmin())
        ax.plot(
            *path.T,
            color=[style.COLOURS[name] for name in ("maml", "anil", "reptile", "comln")][basin % 4],
            linewidth=0.9,
        )
    ax.plot(*ends.T, "*", color="black", markersize=9, zorder=5)
    ax.set(
        xlabel="$w_1$",
        ylabel="$w_2$",
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        title=rf"flow, $\alpha L={share:g}$",
    )
    ax.grid(False)


if study.order is None:  # by hand; the headless run draws the figure below
    interact(landscape, share=FloatSlider(0.9, min=0.05, max=0.95, step=0.05, continuous_update=False))

# %%
inner, start = 0.9 / 4, torch.tensor([5.2, 6.0], dtype=torch.float64)
fig, axes = plt.subplots(2, 2, figsize=(7.4, 7.6))
for ax, share in zip(axes.flat, (0.5, 0.7, 0.9, 0.9), strict=True):
    landscape(share, ax)
for line in axes[1, 1].lines[:-1]:
    line.remove()
for beta, look in ((2.0, "maml"), (12.0, "bi_maml"), (24.0, "comln")):
    path = flow(maml_field(jumps, inner), start, beta * torch.arange(151, dtype=torch.float64), method="euler")
    drawn = {"color": style.COLOURS[look], "marker": style.MARKERS[look], "markersize": 3, "linewidth": 0.6}
    axes[1, 1].plot(*path.T, **drawn, label=rf"$\beta={beta:g}$")
axes[1, 1].set_title(r"MAML, $\alpha L=0.9$")
axes[1, 1].legend(loc="upper left", frameon=True)
study.figure(
    fig,
    "landscape",
    "Grey: level sets of the MAML loss F of two strongly convex tasks (light is low, levels are quantiles); stars: its "
    f"minima. The flow (dopri5) from {len(starts)} initial points, coloured by the minimum it ends in, for three inner step "
    "sizes; lower right: MAML, 150 steps from one point, with three outer step sizes: the largest leaves the basin in "
    "which the flow ends. No such figure of the paper was seen.",
)

# %% [markdown]
# ## The answer
# What is left is the gradient flow of $F$. MAML is its Euler discretisation, of order one where $F$ is smooth (a
# network of $\tanh$); with ReLUs, and the more so the larger $\alpha$, the two stay near each other without converging
# cleanly. A large $\beta$ does what no flow does: it leaves the basin.
#
# ## Where this differs from the paper
# The paper proves statements about the ODE; here it is integrated. Tasks, dimensions and step sizes are ours. Support
# and query sets are left out in the paper's analysis; the networks here have them (`on_batch(learner, batch)`).
#
# ## Variants to try
# * `SET="tasks=5"`: fewer sinusoids, fewer kinks.
# * Another `start` in the last figure, such as (15, 6): MAML from another basin.
# * `SET="seed=1"`: other tasks and weights. The order must not move.
#
# ## Exercises
# 1. On one quadratic of curvature $h$, what is MAML's error at $t=1$ for small $\beta$?
# 2. For which $\beta$ does MAML explode there, and which $\beta$ is safe for every $h\le\frac{4}{3\alpha}$?
# 3. Why can $F$ of a ReLU network jump although the network's loss is continuous?
#
# <details>
# <summary>Solutions</summary>
#
# 1. With $m=h(1-\alpha h)^2$: $(1-\beta m)^{1/\beta}-e^{-m}\approx-\tfrac12\beta m^2e^{-m}$ of the initial distance: order one.
#
# ```python
# import math
#
# h, alpha = 0.8, 0.3
# m = h * (1 - alpha * h) ** 2
# for beta in (0.01, 0.001):
#     error = (1 - beta * m) ** round(1 / beta) - math.exp(-m)
#     assert abs(error / (-beta * m**2 * math.exp(-m) / 2) - 1) < beta
# ```
#
# 2. For $\beta>2/m$; since $m\le\frac4{27\alpha}$ there, $\beta<\frac{27}2\alpha$ is always safe.
# 3. Its gradient jumps where a unit switches on, so the adapted point $w-\alpha\nabla f(w)$ jumps, and the loss there with it.
#
# </details>

# %%
study.close()
