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
# # Strongly convex tasks, a non-convex MAML loss, and still a linear rate
#
# **Paper:** Xu, Chen, Karbasi, *Meta Learning in the Continuous Time Limit*, AISTATS 2021 (the convergence result).
#
# **Question:** each task is strongly convex. Is MAML's loss? And how fast does the MAML ODE converge, and to what?
#
# **Answer:** the loss need not be convex and can have several minima. Yet the flow falls at a linear rate, straight
# through stretches where the loss curves downwards, until it is as near the joint minimum as the tasks' disagreement
# allows; how near is of order $\alpha$ in the parameters, $\alpha^2$ in the loss.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.3 |
# | quick | 2 CPU cores | 0.7 |
# | long | 2 CPU cores, as paper | 3, estimated |
# | paper | 2 CPU cores | 2 |
#
# *What is the paper's here:* the statements "the MAML loss may be non-convex" and "linear rate to an approximate
# stationary point" (its abstract). Its theorems and constants could not be read. **All constants below (T0, T1, T1',
# T3) and all instances (N1, N2, N3) are derived by us**, from the definition of one-step MAML.

# %%
from dataclasses import asdict, dataclass, replace

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml.companion import Study, choose, style
from ctml.flows.maml_field import hessian, heterogeneity, joint_field, maml_field, maml_loss, mean_inner_gradient_norm
from ctml.flows.maml_flow import flow, rest_points, settle
from ctml.tasks import CurvatureJump, LogisticRidge, expand, side_by_side
from ctml.theory import rates
from ctml.theory.maml_ode import Bounds, greatest_turn, least_turned_product, symmetric_part
from ctml.theory.maml_ode_instances import fold, through_concavity

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
spreads: list[float] | None = None  # each >= 0: heterogeneity of the logistic tasks
fractions: list[float] | None = None  # each > 0 and < 1: alpha L of the linear-rate experiment

# %% [markdown]
# ## Configuration
# All of it is *ours*.


# %%
@dataclass(frozen=True)
class Config:
    families: int = 100  # random families of tasks on the line
    draws: int = 20  # of eight logistic tasks
    spreads: tuple = (0.3, 1.0, 3.0)  # standard deviation of the logistic tasks' weights around the common ones
    fractions: tuple = (0.4, 0.2, 0.1, 0.05, 0.025)  # alpha L on the logistic tasks
    times: int = 601  # marks on [0, 12] at which the bounds are checked
    grid: int = 400_001  # points on the line for the one-dimensional instances


PAPER = Config()
QUICK = replace(PAPER, times=151, grid=40_001)
SMOKE = replace(QUICK, families=4, draws=2, spreads=(1.0,), fractions=(0.1, 0.05, 0.025), times=31, grid=4001)
PRESETS = {"paper": PAPER, "long": PAPER, "quick": QUICK, "smoke": SMOKE}
config = choose(PRESETS, PRESET, spreads=spreads, fractions=fractions)
study = Study("maml_ode", "02_strongly_convex", PRESET, {**asdict(config), "seed": seed})
config

# %% [markdown]
# ## The idea
# $f_i$ is $\mu$-strongly convex and $L$-smooth, $\alpha<1/L$, so the eigenvalues of $I-\alpha\nabla^2f_i$ lie in
# $[a,b]$ with $a=1-\alpha L$, $b=1-\alpha\mu$; $\mathbb E_i$ is the mean over the tasks, $f=\mathbb E_if_i$ the *joint*
# loss and $\sigma^2=\mathbb E_i|\nabla f_i-\nabla f|^2$ the tasks' disagreement, its largest value on the path.
#
# **Why a non-convex loss has a linear rate.** The gradient after the inner step is $(I-\alpha\bar H_i)\nabla f_i$, with
# $\bar H_i$ the mean Hessian along that step; pulled back through the step it is bent by
# $A_i=(I-\alpha H_i)(I-\alpha\bar H_i)$. Both factors lie between $a$ and $b$, so $A_i$ is nearly a positive number and
# turns a vector by less than a right angle. One task: $F$ falls whenever $f$ does. Many tasks: what is left of their
# disagreement is how differently the $A_i$ turn.
#
# $$x^\top A_i\,x\ \ge\ \lambda_A|x|^2,\qquad \lambda_A=a^2\ \text{ if } 3a\ge b,\ \text{ else }\
# \tfrac{(a+b)^2}8-\tfrac{(b-a)^2}4 \tag{T0}$$
#
# $$\sqrt{f(w(t))-f^\ast}\ \le\ \varepsilon+e^{-\lambda_A\mu t}\Bigl(\sqrt{f(w_0)-f^\ast}-\varepsilon\Bigr)_+,\qquad
# \varepsilon=\frac{\kappa\,\sigma}{\lambda_A\sqrt{2\mu}},\quad \kappa=b^2-m^2,\quad m=\tfrac{a+b}2 \tag{T1}$$
#
# *Proof.* Write $\nabla f_i=\nabla f+d_i$. Since $\mathbb E_id_i=0$, any multiple of the identity may be subtracted
# where $A_i$ meets $d_i$:
# $$\nabla F=\mathbb E_iA_i\nabla f_i=\mathbb E_iA_i\,\nabla f+\mathbb E_i(A_i-m^2I)\,d_i .$$
# Both factors of $A_i$ are $mI+rS$ with $|S|\le1$, $r=\tfrac{b-a}2$, so $A_i-m^2I=mr(S+T)+r^2ST$ has norm at most
# $(m+r)^2-m^2=\kappa$. Hence, with $x=|\nabla f|$, $\dot f=-\langle\nabla f,\nabla F\rangle\le-\lambda_Ax^2+\kappa\sigma
# x$. Where $f-f^\ast>\varepsilon^2$, strong convexity gives $x\ge\sqrt{2\mu(f-f^\ast)}>\kappa\sigma/\lambda_A$, and there
# the right side falls in $x$; so $u=\sqrt{f-f^\ast}$ obeys $\dot u\le-\lambda_A\mu(u-\varepsilon)$. $\square$
#
# $\sigma$ may also be replaced by the largest disagreement *still to come*, which never rises: $\dot
# u\le-\lambda_A\mu(u-\varepsilon(t))$ is then solved along the path (`joint_gap_along`). At a stationary point of $F$ the same line reads $|\nabla f|\le\kappa\sigma/\lambda_A$. Without the subtraction $b^2$
# would stand for $\kappa$, and the bound on the plateau would not shrink with $\alpha$; but
# $\kappa=\alpha(L-\mu)+O(\alpha^2)$.
#
# | letter | code | shape |
# |---|---|---|
# | $\mu,L,\rho$ | `tasks.ridge`, `tasks.smoothness`, `tasks.hessian_lipschitz` | scalars |
# | $\sigma(w)$ | `heterogeneity(tasks, w)` | `(*points)` |
# | $\lambda_A,\ \kappa$ | `Bounds(...).descent`, `.turning` | scalars |
# | T1, $\varepsilon^2$, $\kappa\sigma/\lambda_A$ | `Bounds(...).joint_gap(t, gap0)`, `.floor`, `.stationary_radius` | `(times,)`, scalars |
# | $\nabla^2F$ | `hessian(maml_field(tasks, alpha), w)` | `(*points, d, d)` |

# %% [markdown]
# ## Both constants, checked before use
# The worst symmetric matrices are two-dimensional and turned against each other: all angles by brute force.

# %%
lemma = pd.DataFrame([(0.5, 0.99), (0.2, 0.95), (0.1, 0.9), (0.01, 0.9)], columns=["a", "b"])
lemma["lambda_A"] = [symmetric_part(a, b) for a, b in lemma[["a", "b"]].values]
lemma["by brute force"] = [least_turned_product(a, b) for a, b in lemma[["a", "b"]].values]
lemma["kappa"] = [Bounds(1 - b, 1 - a, 1.0).turning for a, b in lemma[["a", "b"]].values]
lemma["by brute force, too"] = [greatest_turn(a, b) for a, b in lemma[["a", "b"]].values]
lemma

# %%
differences = pd.concat([lemma["lambda_A"] - lemma["by brute force"], lemma["kappa"] - lemma["by brute force, too"]])
study.claim("maml_ode-a5", difference=differences)

# %% [markdown]
# ## One strongly convex task, a non-convex MAML loss (N1)
# A task on the line whose curvature jumps from $\mu=1$ to $L=4$ at $w=3$. Just right of the jump the inner step throws
# $w$ back over it, and $F=f(w-\alpha f'(w))$ bends downwards. It still has a single stationary point, since $F'=A f'$
# with $A>0$. What keeps the rate is gradient dominance, for every $\alpha<1/L$, convex or not:
#
# $$|\nabla F_i|^2\ \ge\ 2\mu(1-\alpha L)^2\,(F_i-f_i^\ast),\qquad\text{so}\quad -\tfrac d{dt}\ln(F_i-f_i^\ast)\ \ge\
# 2\mu(1-\alpha L)^2\ \text{ along the flow}. \tag{T1'}$$
#
# The flow starts at 8 and runs through the concave stretch: N1 itself, and as many random tasks of its kind.

# %%
inner, start = 0.1, 8.0
clock = torch.linspace(0, 12, config.times, dtype=torch.float64)


def run(families: list[CurvatureJump]) -> dict:
    """Follow the MAML ODE of all families at once; a row of `path` holds a point of each."""
    both = side_by_side(families)
    field = maml_field(both, inner)
    w0 = torch.full((len(families), 1), start, dtype=torch.float64)
    path = flow(field, w0, clock, rtol=1e-7, atol=1e-9)
    least = settle(joint_field(both), path[-1])
    height = both.query(expand(torch.cat([path, least[None]]), both.n_tasks)).mean(-1)
    run = {"tasks": both, "field": field, "path": path, "least": least, "gap": height[:-1] - height[-1]}
    return run | {"curvature": hessian(field, path)[..., 0, 0]}


one = CurvatureJump.one()
alone = [one, *through_concavity(config.families, ctml.generator(seed, "single tasks"), tasks=1)]
single = run(alone)
of_minimum = single["tasks"].query(expand(single["least"], 1)).mean(-1)
excess = maml_loss(single["tasks"], inner, single["path"]) - of_minimum
rate = single["field"](single["path"])[..., 0] ** 2 / excess
promised = torch.tensor([2 * Bounds(1.0, float(task.smoothness), inner).gradient_dominance for task in alone])
ratio = torch.where(excess > 1e-6, rate / promised, torch.inf).min(0).values
print(
    f"N1: F'' down to {single['curvature'][:, 0].min():.3f}, rate down to {ratio[0] * promised[0]:.4f}, promised {promised[0]:.4f}"
)

# %%
line = torch.linspace(2.4, 3.6, 2001, dtype=torch.float64)[:, None]
bent = hessian(maml_field(one, inner), line)[:, 0, 0]
points = torch.linspace(-1, start, config.grid // 10, dtype=torch.float64)[:, None, None].expand(-1, len(alone), -1)
of_maml = hessian(single["field"], points)[..., 0, 0]  # of every task, at every point
of_task = hessian(joint_field(single["tasks"]), points)
fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.9))
axes[0].plot(line, one.query(line[:, None])[:, 0], color=style.COLOURS["joint"], linestyle=":", label="task $f$")
axes[0].plot(line, maml_loss(one, inner, line), color=style.COLOURS["maml"], label="MAML loss $F$")
axes[0].legend()
axes[1].plot(line, hessian(joint_field(one), line)[:, 0, 0], color=style.COLOURS["joint"], linestyle=":")
axes[1].plot(line, bent, color=style.COLOURS["maml"])
axes[1].axhline(0, color="black", linewidth=0.8)
concave = single["curvature"][:, 0] < 0
for ax, x, where in ((axes[0], line[:, 0], bent < 0), (axes[1], line[:, 0], bent < 0), (axes[2], clock, concave)):
    shade = {"color": style.COLOURS["comln"], "alpha": 0.15, "linewidth": 0, "transform": ax.get_xaxis_transform()}
    ax.fill_between(x, 0, 1, where=where, **shade)
axes[0].set(xlabel="$w$", ylabel="loss")
axes[1].set(xlabel="$w$", ylabel="curvature")
kept = excess[:, 0] > 1e-6
axes[2].plot(clock[kept], rate[kept, 0], color=style.COLOURS["maml_flow"])
axes[2].axhline(float(promised[0]), color="black", linestyle=":", label=r"$2\mu(1-\alpha L)^2$")
axes[2].set(xlabel="ODE time from $w=8$", ylabel=r"$-\frac{d}{dt}\ln(F-f^*)$", ylim=(0, None))
axes[2].legend()
study.figure(
    fig,
    "one_task",
    "N1, α = 0.1. Left and middle: loss and curvature of one strongly convex task and of its MAML loss; shaded: where F "
    "bends downwards. Right: the rate at which the flow falls, through that stretch, and the least that T1' allows. No "
    "randomness. The paper's abstract says that F may be non-convex and the rate linear; the instance is ours.",
)

# %%
study.claim("maml_ode-a2", maml_curvature=of_maml.min(0).values, task_curvature=of_task)

# %%
study.claim("maml_ode-a6", ratio=ratio)

# %% [markdown]
# ## Several tasks that disagree: T1
# Families of two tasks with their own jumps and centres, $\sigma>0$. Every mark of every path must lie below the bound,
# and every end must be as near the joint minimum as $|\nabla f|\le\kappa\sigma/\lambda_A$ says.

# %%
families = through_concavity(config.families, ctml.generator(seed, "families"))
several = run(families)
ends = settle(several["field"], several["path"][-1])
spread = {
    "path": heterogeneity(several["tasks"], several["path"]).max(0).values,
    "end": heterogeneity(several["tasks"], ends),
}
constants = {
    where: [Bounds(1.0, float(f.smoothness.max()), inner, float(s)) for f, s in zip(families, sigma, strict=True)]
    for where, sigma in spread.items()
}
along = heterogeneity(several["tasks"], several["path"])
rows = zip(constants["path"], several["gap"][0].tolist(), along.T, strict=True)
bound = torch.stack([b.joint_gap_along(clock, gap, sigma) for b, gap, sigma in rows], dim=1)
radius = torch.tensor([b.stationary_radius for b in constants["end"]], dtype=torch.float64)
nearness = joint_field(several["tasks"])(ends).norm(dim=-1) / radius
lowest = several["curvature"].min(0).values
found = pd.DataFrame({"sigma": spread["path"], "least F''": lowest, "|grad f| / radius": nearness})
found["marks above the bound"] = (several["gap"] > bound * (1 + 1e-6) + 1e-9).sum(0)
study.table(found, "random_families").describe().loc[["min", "50%", "max"]]

# %%
study.claim("maml_ode-a3", violations=found["marks above the bound"], nearness=nearness, curvature=lowest)

# %%
study.claim("maml_ode-a3-sharp", nearness=nearness)

# %% [markdown]
# ## How near: the plateau falls like $\alpha^2$ (N3)
# Eight logistic tasks with a ridge, five parameters, 40 examples each. The flow ends at $w_F^\ast$, whose joint loss
# lies $f(w_F^\ast)-f^\ast$ above the least. Halving $\alpha$ must quarter this, and quarters the bound.


# %%
def plateau(spread: float, fraction: float) -> list[dict]:
    draws = [
        LogisticRidge.draw(8, ctml.generator(seed, f"logistic tasks {k}"), spread=spread) for k in range(config.draws)
    ]
    together, smoothness = side_by_side(draws), max(tasks.smoothness for tasks in draws)
    centre = settle(joint_field(together), torch.zeros(len(draws), 5, dtype=torch.float64))
    field = maml_field(together, fraction / smoothness)
    w = settle(field, flow(field, centre, torch.tensor([0.0, 20.0]).double(), rtol=1e-5, atol=1e-7)[-1])
    gap = together.query(expand(torch.stack([w, centre]), 8)).mean(-1).diff(dim=0).neg()[0]
    rows = []
    for draw, (tasks, sigma) in enumerate(zip(draws, heterogeneity(together, w).tolist(), strict=True)):
        bounds = Bounds(tasks.ridge, smoothness, fraction / smoothness, sigma)
        floor = bounds.floor if bounds.descent > 0 else float("nan")  # where it is not, T1 says nothing
        row = {"spread": spread, "alpha L": fraction, "draw": draw, "plateau": float(gap[draw]), "floor": floor}
        rows.append(row | {"crude": floor * (bounds.b**2 / bounds.turning) ** 2})
    return rows


cells = study.map(plateau, [{"spread": s, "fraction": a} for s in config.spreads for a in config.fractions])
law = study.table(pd.DataFrame([row for cell in cells for row in cell]), "plateaus")
small = law[law["alpha L"] <= 0.1]
slopes = [
    rates.power(cell["alpha L"].to_numpy(), cell["plateau"].to_numpy()).value
    for _, cell in small.groupby(["spread", "draw"])
    if len(cell) > 2
]
law.groupby(["spread", "alpha L"])[["plateau", "floor", "crude"]].median()

# %%
fig, axes = plt.subplots(1, 2, figsize=style.WIDE)
for k, name in zip(lowest.argsort()[:3].tolist(), ("maml", "anil", "comln"), strict=False):
    color, inside = style.COLOURS[name], several["curvature"][:, k] < 0
    axes[0].semilogy(clock, several["gap"][:, k].clamp_min(1e-12), color=color)
    axes[0].semilogy(clock, bound[:, k], color=color, linestyle=":", linewidth=1.1)
    axes[0].semilogy(clock[inside], several["gap"][inside, k], color=color, linewidth=5, alpha=0.3)
axes[0].plot([], [], color="0.4", linestyle=":", label="bound T1")
axes[0].set(xlabel="ODE time $t$", ylabel="$f(w(t))-f^*$", ylim=(1e-8, None), title="two tasks on the line")
axes[0].legend()
for spread, name in zip(config.spreads, ("maml", "anil", "comln"), strict=False):
    rows = law[law["spread"] == spread].groupby("alpha L").median()
    axes[1].loglog(rows.index, rows["plateau"], "o-", color=style.COLOURS[name], label=f"spread {spread:g}")
    axes[1].loglog(rows.index, rows["floor"], ":", color=style.COLOURS[name], linewidth=1.1)
    axes[1].loglog(rows.index, rows["crude"], "--", color=style.COLOURS[name], linewidth=0.8)
for dash, label in ((":", r"$\varepsilon^2$, with $\kappa$"), ("--", r"with $b^2$ for $\kappa$")):
    axes[1].plot([], [], color="0.4", linestyle=dash, label=label)
axes[1].set(xlabel=r"$\alpha L$", ylabel="$f(w_F^*)-f^*$", title="logistic tasks")
axes[1].set(ylim=(None, 3e3))
axes[1].set_xticks(config.fractions, [f"{a:g}" for a in config.fractions])
axes[1].minorticks_off()
axes[1].legend(fontsize="x-small", ncol=2, loc="upper left")
study.figure(
    fig,
    "linear_rate",
    "Left: gap of the joint loss along the MAML ODE (solid; thick: where F curves downwards) and its bound T1 (dotted), "
    f"the three most concave of {config.families} random families. Right: where the flow ends, against the bound's floor, "
    f"median of {config.draws} draws. The paper's abstract states the linear rate; constants and experiment are ours.",
)

# %%
study.claim("maml_ode-a4", slopes=slopes, plateau=law["plateau"], floor=law["floor"])

# %% [markdown]
# ## Two strongly convex tasks, several minima (N2)
# So an unqualified "converges to *the* stationary point" would be false for large $\alpha L$; for small $\alpha L$
# there is one. The others appear in a fold, where $F'=F''=0$.

# %%
two = CurvatureJump.two()
_, folded = fold(two, 10.3, 0.6)
wide = torch.linspace(-5, 30, config.grid, dtype=torch.float64)[:, None]
shares = {"below": [0.1, 0.5, folded - 0.002], "above": [folded + 0.002, 0.7, 0.9]}
counts = {side: [sum(map(len, rest_points(maml_field(two, s / 4), wide))) for s in of] for side, of in shares.items()}

fig, ax = plt.subplots(figsize=style.NARROW)
shown = wide[(wide[:, 0] > 3) & (wide[:, 0] < 18)]
for share, drawn in {0.9: "comln", 0.7: "anil", folded: "reptile", 0.1: "maml"}.items():
    color, (minima, _) = style.COLOURS[drawn], rest_points(maml_field(two, share / 4), wide)
    ax.plot(shown[:, 0], maml_loss(two, share / 4, shown), color=color, label=rf"$\alpha L={share:.3g}$")
    ax.plot(minima[:, 0], maml_loss(two, share / 4, minima), "o", color=color)
ax.set(xlabel="$w$", ylabel="MAML loss $F$", xlim=(3, 23), ylim=(2.4, 5))
ax.legend(loc="upper right", fontsize="small")
study.figure(
    fig,
    "two_tasks",
    f"MAML loss of the same two strongly convex tasks for four inner step sizes, one of them at the fold, αL = {folded:.4f}; "
    "dots: minima. No randomness. Ours, derived: no such figure of the paper was seen.",
)

# %%
study.claim("maml_ode-a7", below=counts["below"], above=counts["above"], folded=folded)

# %% [markdown]
# ## How concave it can get (T3)
# Differentiating $\nabla F_i=(I-\alpha H_i)\nabla f_i(w_i)$ once more leaves one term that can be negative, the change of
# $H_i$ along the inner gradient. With $\rho$ the Lipschitz constant of the Hessians,
# $$\nabla^2F\ \succeq\ \mu(1-\alpha L)^2-\alpha\rho(1-\alpha\mu)\,\mathbb E_i|\nabla f_i(w)| ,$$
# so $F$ is strongly convex where inner gradients are small, which is what a switch by gradients (notebook 03) is for.
# Is the second term as large as that? On the random single tasks, at every point of the line, measured against it.

# %%
many = single["tasks"]
drop = torch.tensor([b.mu * b.a**2 for b in (Bounds(1.0, float(task.smoothness), inner) for task in alone)])
drop = drop - of_maml
lipschitz = torch.stack([(task.smoothness - task.mu) / (2 * task.width) for task in alone])[:, 0]
allowed = inner * lipschitz * (1 - inner) * mean_inner_gradient_norm(many, points)
share = torch.where(allowed > 1e-3, drop / allowed, -torch.inf).max(0).values
study.claim("maml_ode-a8", share=share)

# %% [markdown]
# ## The answer
# Non-convexity does not cost the rate: on one task the flow falls at the promised $2\mu(1-\alpha L)^2$ or faster, right
# through a stretch where $F''$ is negative, and the constant is nearly attained. With several tasks the joint loss is
# the measure of progress, and the flow stops within $O(\alpha\sigma)$ of the joint minimum. What the theorem does not
# give: uniqueness ($\alpha L$ above the fold), a rate for $\lambda_A\le0$, or anything without strong convexity.
#
# ## Where this differs from the paper
# The paper's assumptions and constants are unknown to us; ours may be weaker or stronger. `sigma` is measured on the
# path, so T1 is checked as a statement about each run.
#
# ## Variants to try
# * `SET="fractions=[0.8,0.9,0.95]"`: $\lambda_A$ becomes negative, and the bound refuses to speak (no dotted line).
# * `SET="spreads=[0.0,2.0,4.0]"`: with common weights the tasks still differ by their examples.
# * Let the jumps be gentler: replace `CurvatureJump.one()` by `CurvatureJump.of((1, 4, 3, 0.2, 0, 1))`.
#
# ## Exercises
# 1. Two tasks on the line, $f_1=\frac\mu2w^2$ and $f_2=\frac L2(w-1)^2$. How near 1 does $|\nabla f|\lambda_A/(\kappa\sigma)$ come at the MAML minimum?
# 2. At which $\alpha$ does $\lambda_A$ turn negative if $L\gg\mu$?
# 3. Why does $\sigma$ not vanish at the joint minimum, and what would the MAML ODE do if it did?
#
# <details>
# <summary>Solutions</summary>
#
# 1. To 1, as $\alpha\to0$: with $\mu=1$, $L=4$ it is 0.90 at $\alpha L=0.1$ and 0.99 at $\alpha L=0.01$. The bound on
#    stationary points is sharp.
#
# ```python
# import torch
# from ctml.flows.maml_field import heterogeneity, joint_field
# from ctml.tasks import Quadratic
# from ctml.theory.maml_ode import Bounds, QuadraticMaml
#
# curvatures, centres = torch.tensor([1.0, 4.0]).double().view(2, 1, 1), torch.tensor([[0.0], [1.0]]).double()
# tasks = Quadratic(curvatures, centres)
# for share, expected in ((0.1, 0.90), (0.01, 0.99)):
#     w = QuadraticMaml(tasks, share / 4).minimiser
#     bounds = Bounds(1.0, 4.0, share / 4, float(heterogeneity(tasks, w)))
#     assert abs(float(joint_field(tasks)(w).norm()) / bounds.stationary_radius - expected) < 0.005
# ```
#
# 2. $\lambda_A=0$ means $(a+b)^2=2(b-a)^2$, so $a/b=3-2\sqrt2\approx0.172$; with $b\approx1$ that is $\alpha L\approx0.83$.
# 3. It is the spread of the tasks' gradients, whose *mean* vanishes there. If all of them vanished, every task would
#    have the same minimiser, $\nabla F=\mathbb E_iA_i\nabla f_i$ would vanish there too, and the flow would end in it.
#
# </details>

# %%
study.close()
