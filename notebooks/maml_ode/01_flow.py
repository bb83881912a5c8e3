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
# seen and measured: an error of order one, a wall it may jump over, a step beyond which it explodes.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.3 |
# | quick | 2 CPU cores | 0.4 |
# | long | 2 CPU cores, as paper | 3, estimated |
# | paper | 2 CPU cores | 1 |
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

import ctml
from ctml.companion import Study, choose, style
from ctml.flows.maml_field import learner_field, maml_field, maml_loss, on_batch
from ctml.flows.maml_flow import flow
from ctml.models import MLP
from ctml.tasks import CurvatureJump, Quadratic, Sinusoid
from ctml.theory import rates
from ctml.theory.maml_ode import QuadraticMaml, greatest_maml_curvature

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
alpha: float | None = None  # > 0 and < 1: inner step size
tasks: int | None = None  # >= 1: number of quadratic tasks

# %% [markdown]
# ## Configuration
# All of it is *ours*: the paper's settings could not be read.


# %%
@dataclass(frozen=True)
class Config:
    alpha: float = 0.1  # inner step size
    tasks: int = 6  # quadratic tasks, instance N4: curvatures in [1, 5], four parameters
    starts: int = 20  # initial points of the flows, integrated as one batch
    families: int = 20  # independent draws of the quadratic tasks
    picture: int = 500  # resolution of the landscape
    grid: int = 12  # trajectories in the landscape along each side


PAPER = Config()
QUICK = replace(PAPER, starts=5, families=5, picture=240, grid=8)
SMOKE = replace(QUICK, starts=2, families=2, picture=40, grid=3)
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
# | letter | code | shape |
# |---|---|---|
# | $w$ | `w` | `(*points, d)`: many initial points at once |
# | $f_i$ | `tasks.query` | points `(*points, tasks, d)` to losses `(*points, tasks)` |
# | $-\nabla F$ | `maml_field(tasks, alpha)` | points to velocities, same shape |
# | $F$ | `maml_loss(tasks, alpha, w)` | `(*points)` |
# | $w(t)$ | `flow(field, w0, times, method=...)` | `(times, *points, d)` |
# | $\alpha,\ \beta$ | `alpha`, the distance of `times` | scalars |
#
# `flow(..., method="euler")` on the times $0,\beta,2\beta,\dots$ *is* MAML; `method="dopri5"` chooses its own steps.

# %% [markdown]
# ## The field, checked before use
# Against central differences of $F$, and against the meta-gradient that the learner `ctml.MAML` takes by ordinary
# autograd on a small network with support and query sets.

# %%
quadratics = Quadratic.draw(config.tasks, 4, ctml.generator(seed, "quadratic tasks 0"))
w0 = 3 * torch.randn(config.starts, 4, generator=ctml.generator(seed, "initial points"), dtype=torch.float64)

h = 1e-5 * torch.eye(4, dtype=torch.float64)
difference = (
    maml_loss(quadratics, config.alpha, w0[:, None] + h) - maml_loss(quadratics, config.alpha, w0[:, None] - h)
) / 2e-5

batch = Sinusoid().sample(config.tasks, ctml.generator(seed, "sinusoids")).to(dtype=torch.float64)
network = MLP([1, 10, 1], activation=torch.tanh, generator=ctml.generator(seed, "weights")).double()
learner = ctml.MAML(network, ctml.mse, inner_lr=config.alpha)
point = torch.cat([p.detach().flatten() for p in network.parameters()])
explicit = maml_field(on_batch(learner, batch), config.alpha)(point)

pd.DataFrame(
    {
        "field": ["quadratics", "sinusoids, two-layer network"],
        "against": ["central differences of F", "the learner's meta-gradient"],
        "largest difference": [
            float((maml_field(quadratics, config.alpha)(w0) + difference).abs().max()),
            float((explicit - learner_field(learner, batch)(point)).abs().max()),
        ],
    }
)

# %% [markdown]
# ## Quadratic tasks, where the flow is known
# With $f_i=\tfrac12(w-c_i)^\top H_i(w-c_i)$ the MAML loss is a quadratic with Hessian $M=\mathbb E_i(I-\alpha
# H_i)H_i(I-\alpha H_i)$, so $w(t)=w_F^\ast+e^{-Mt}(w_0-w_F^\ast)$ (derived here). Started along the $k$-th eigenvector
# of $M$ the flow must decay at its eigenvalue $\lambda_k$, and since $h(1-\alpha h)^2\le 4/(27\alpha)$ no direction is
# ever faster than that: the inner step flattens steep tasks.

# %%
families = [
    Quadratic.draw(config.tasks, 4, ctml.generator(seed, f"quadratic tasks {k}")) for k in range(config.families)
]
closed = [QuadraticMaml(family, config.alpha) for family in families]
clock = torch.linspace(0, 5, 26, dtype=torch.float64)
rows = []
for family, (q, exact) in enumerate(zip(families, closed, strict=True)):
    directions = torch.linalg.eigh(exact.hessian).eigenvectors.T
    path = flow(maml_field(q, config.alpha), exact.minimiser + 3 * directions, clock)
    distance = (path - exact.minimiser).norm(dim=-1)
    rows += [
        {
            "family": family,
            "direction": k,
            "fitted rate": rates.exponential(clock, distance[:, k]).value,
            "eigenvalue of M": float(rate),
        }
        for k, rate in enumerate(exact.rates)
    ]
decay = pd.DataFrame(rows)
decay["4 / (27 alpha)"] = greatest_maml_curvature(config.alpha)
study.table(decay, "quadratic_rates")
decay.groupby("family").agg(["min", "max"])[["fitted rate", "eigenvalue of M"]]

# %%
study.claim(
    "maml_ode-a12",
    rate=decay["fitted rate"].groupby(decay["family"]).min(),
    slowest=decay["eigenvalue of M"].groupby(decay["family"]).min(),
    fastest=decay["eigenvalue of M"],
    cap=decay["4 / (27 alpha)"],
)

# %% [markdown]
# ## MAML is its Euler discretisation
# Integrate to $t=1$ in $n$ steps of $\beta=1/n$ and compare with the matrix exponential. Euler (which is MAML) must
# have an error of order $\beta$, Heun $\beta^2$, the classical Runge-Kutta method $\beta^4$.

# %%
METHODS = {"euler": ("maml", "Euler = MAML"), "heun2": ("rk2", "Heun"), "rk4": ("rk4", "Runge-Kutta 4")}
steps = torch.tensor([10, 20, 40, 80])
field, exact = maml_field(quadratics, config.alpha), closed[0].solution(1.0, w0)


def end_error(method: str, n: int) -> float:
    times = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    return float((flow(field, w0, times, method=method)[-1] - exact).norm())


errors = {method: torch.tensor([end_error(method, n) for n in steps.tolist()]) for method in METHODS}
order = {method: rates.power(1 / steps, error) for method, error in errors.items()}

fig, ax = plt.subplots(figsize=style.NARROW)
for method, (drawn_as, label) in METHODS.items():
    look = {**style.method(drawn_as).line(), "label": f"{label}: order {order[method].value:.2f}"}
    ax.loglog(1 / steps, errors[method], **look)
ax.set_xticks(1 / steps.numpy(), [f"1/{n}" for n in steps.tolist()], minor=False)
ax.minorticks_off()
ax.set(xlabel=r"outer step $\beta$", ylabel=r"$|w_n - w(1)|$")
ax.legend()
study.figure(
    fig,
    "order_of_convergence",
    f"Distance of n = 1/β outer steps from the exact flow at t = 1, over all {config.starts} initial points of "
    f"{config.tasks} quadratic tasks in "
    "float64; orders are least-squares slopes. The paper's abstract says that MAML is one discretisation of the ODE; "
    "its figures were not seen.",
)

# %%
study.claim("maml_ode-a1", euler=order["euler"].value, heun=order["heun2"].value, rk4=order["rk4"].value)

# %% [markdown]
# ## A landscape, and what a step size does to it
# Two strongly convex tasks whose MAML loss is *not* convex (instance N2 in each of two coordinates, $\alpha L=0.9$:
# notebook 02 has the details). The flow has no step size: every initial point belongs to one minimum. Gradient descent
# follows it for small $\beta$; beyond $2/\lambda_{\max}(\nabla^2F)$ of that minimum it cannot stay there and climbs
# over the ridge to a flatter one.

# %%
jumps, inner = CurvatureJump.two(), 0.9 / 4
low, high = 4.0, 17.0
axis = torch.linspace(low, high, config.picture, dtype=torch.float64)
plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
height = maml_loss(jumps, inner, plane)

side = torch.linspace(low + 0.4, high - 0.4, config.grid, dtype=torch.float64)
starts = torch.cartesian_prod(side, side)
paths = flow(maml_field(jumps, inner), starts, torch.linspace(0, 400, 801, dtype=torch.float64), rtol=1e-6, atol=1e-8)

# %% [markdown]
# One initial point, MAML with three outer steps, 150 steps each. A step that explodes would be refused with
# `NonFiniteFlow`.

# %%
start = torch.tensor([5.2, 6.0], dtype=torch.float64)
descents = {
    beta: flow(maml_field(jumps, inner), start, beta * torch.arange(151, dtype=torch.float64), method="euler")
    for beta in (2.0, 12.0, 24.0)
}
ends = paths[-1].round(decimals=2).unique(dim=0)
pd.DataFrame({f"beta = {beta:g}": path[-1].tolist() for beta, path in descents.items()}, index=["w_1", "w_2"])

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.4, 4.0), sharey=True)
levels = np.quantile(height.numpy(), np.linspace(0, 1, 22))
for ax in axes:
    ax.contourf(axis, axis, height, levels=np.unique(levels), cmap="Greys", alpha=0.55)
    ax.plot(*ends.T, "*", color="black", markersize=9, zorder=5)
    ax.set(xlabel="$w_1$", xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.grid(False)
basin = [int((ends - end).norm(dim=1).argmin()) for end in paths[-1]]
colours = [style.COLOURS[name] for name in ("maml", "anil", "reptile", "comln")]
for i, which in enumerate(basin):
    axes[0].plot(*paths[:, i].T, color=colours[which % 4], linewidth=0.9)
axes[0].set(ylabel="$w_2$", title="MAML flow: no step size")
for (beta, path), look in zip(descents.items(), ("maml", "bi_maml", "comln"), strict=False):
    drawn = style.method(look)
    axes[1].plot(
        *path.T, color=drawn.color, marker=drawn.marker, markersize=3, linewidth=0.6, label=rf"$\beta={beta:g}$"
    )
axes[1].plot(*start, "o", color="black", markersize=5)
axes[1].set_title("MAML: gradient descent")
axes[1].legend(loc="upper left", frameon=True)
study.figure(
    fig,
    "landscape",
    "Grey: level sets of the MAML loss F of two strongly convex tasks (light is low, levels are quantiles, α L = "
    "0.9); stars: its minima. "
    f"Left: the flow (dopri5) from {len(starts)} initial points, coloured by the minimum it ends in. Right: MAML "
    "from one point "
    "with three outer step sizes: the largest leaves the basin in which the flow ends. No such figure of the paper "
    "was seen.",
)

# %% [markdown]
# ## Where this differs from the paper
# The paper proves statements about the ODE; here it is integrated. Tasks, dimensions and step sizes are ours. Support
# and query sets are left out, as in the paper's analysis; `on_batch(learner, batch)` has them, and the check above
# used it.
#
# ## Variants to try
# * `SET="alpha=0.3"`: with $\alpha\lambda$ near 1 some directions of $M$ are almost flat; see $\lambda_{\min}$ fall.
# * Replace `maml_field` by `first_order_field` in the landscape: a field that is in general the gradient of nothing.
# * `learner_field(ctml.ANIL(...), batch)` makes the flow of any learner of `ctml`; the flow does not know what it
#   follows.
# * `seed = 1`: other tasks. The orders must not move.

# %%
study.close()
