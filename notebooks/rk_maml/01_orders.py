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
# # MAML is a Runge-Kutta method: which one, and of what order
#
# *Executed, with its figures and verdicts:* [results/quick/rk_maml/01_orders](../../results/quick/rk_maml/01_orders/01_orders.ipynb)
#
# **Paper** Im, Jiang, Verma 2019, *Model-Agnostic Meta-Learning using Runge-Kutta Methods* (arXiv 1910.07368). Only its
# abstract could be had: it says that classic MAML is a special case of second-order Runge-Kutta. Everything below is
# derived from that sentence, and is marked so in the claims.
#
# **Question** For which flow is MAML's outer step a second-order integrator, and what has to hold for that?
#
# **Answer in one line** On one task, *first-order* MAML with inner rate half the outer rate is the midpoint rule, to the
# last bit; exact MAML needs a quarter; over many tasks both follow, to second order, a *modified* loss that rewards
# tasks for disagreeing (Figures 1 and 2, verdicts in section 8).
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` | 2 cores | < 1 |
# | `long` | 2 cores | as `paper` |
# | `paper` | 2 cores | about 2 (finer steps; nothing here needs a GPU) |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml.companion import Study, choose, plots, style
from ctml.flows.tableaus import CHAPRA_RALSTON, EULER, HEUN, KUTTA3, MIDPOINT, RALSTON, RK4, rk2
from ctml.learners.rk_maml import chain
from ctml.tasks import LogisticRidge, Quadratic
from ctml.theory import rk_maml as theory

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
tasks: int | None = None  # >= 1: where a step averages over tasks
dim: int | None = None  # >= 1
horizon: float | None = None  # > 0
finest: int | None = None  # 16 | 32 | 64 | 128 | 256 | 512 | 1024 | 2048: steps to the horizon

# %% [markdown]
# ## 3 Configuration
#
# All *ours*: the paper's experiments on orders, if it has any, are not known. Tasks are logistic regressions with a small
# ridge, so the loss is smooth, convex and not quadratic. `finest` is the largest number of steps to the time `horizon`.


# %%
@dataclass(frozen=True)
class Config:
    tasks: int = 4  # ours: where a step averages over tasks
    dim: int = 3  # ours
    horizon: float = 4.0  # ours
    finest: int = 512  # ours: steps to the horizon, a power of 2
    modified_finest: int = 256  # ours: the same for the modified loss, whose flow is another for every step


PAPER = Config()
PRESETS = {
    "paper": PAPER,
    "long": PAPER,
    "quick": replace(PAPER, finest=128, modified_finest=64),
    "smoke": replace(PAPER, tasks=2, finest=16, modified_finest=16),
}
config = choose(PRESETS, PRESET, tasks=tasks, dim=dim, horizon=horizon, finest=finest)
study = Study("rk_maml", "01_orders", PRESET, asdict(config))
config

# %% [markdown]
# ## 4 The idea
#
# Gradient descent follows the flow $\dot\theta=-\nabla L(\theta)$ by Euler's rule. An explicit Runge-Kutta method with
# weights $a$ and stage coefficients $q$ (Butcher's $b$ and $a$) takes gradients at several stages before it moves:
# $$k_1=\nabla L(\theta),\qquad k_2=\nabla L(\theta-q h\,k_1),\qquad \theta^+=\theta-h\,(a_1k_1+a_2k_2),$$
# and has order 2 exactly when $a_1+a_2=1$ and $a_2q=\tfrac12$. Read $k_1$ as the inner gradient and $k_2$ as the outer one:
# with $a_1=0$, $a_2=1$ this *is* first-order MAML with inner rate $\alpha=qh=h/2$, the midpoint rule. MAML puts all weight
# on the adapted gradient; $a_1>0$ gives some back to the unadapted one. Two readings of "gradient" are possible:
#
# | | direction for one task | at $a_2=1$ |
# |---|---|---|
# | V1, first order | $a_1\nabla L_Q(\theta)+a_2\nabla L_Q(\theta')$, $\theta'=\theta-\alpha\nabla L_S(\theta)$ | FO-MAML |
# | V2, through the adaptation | $a_1\nabla L_Q(\theta)+a_2(I-\alpha H_S)\nabla L_Q(\theta')$ | MAML |
#
# | letter | code | shape |
# |---|---|---|
# | $\theta$ | `w` | `(d,)` |
# | $a$, $q$ | `tableau.b`, `tableau.a` | one per stage; one row per stage |
# | $h$, $\alpha$ | `step`, `inner_lr` | |
# | $-d(\theta)$ | `theory.direction(tasks, w, tableau=..., order=...)` | `(d,)` to `(d,)`, the learner `RKMAML` itself |
#
# ## 5 The method checked before use
#
# FO-MAML's update, by the learner that the other notebooks train, against the midpoint rule written out.

# %%
draw = partial(LogisticRidge.draw, dim=config.dim, examples=8, ridge=0.05)
one = draw(1, ctml.generator(1, "one task"))
w0 = torch.linspace(2, -1.5, config.dim, dtype=torch.float64)
beta, float64 = 0.3, partial(torch.tensor, dtype=torch.float64)


def gradient(w):
    return torch.func.grad(lambda v: one.query(v[None]).sum())(w)


maml = ctml.MAML(theory.Point(w0), lambda w, _: one.query(w), inner_lr=beta / 2, order="first")
maml.meta_gradient(theory.as_batch(one))
learned = w0 - beta * maml.model.w.grad
midpoint = w0 - beta * gradient(w0 - beta / 2 * gradient(w0))
difference = (learned - midpoint).abs()
print(f"FO-MAML at α = β/2 against the midpoint rule: largest difference {float(difference.max()):.1e}")

# %% [markdown]
# ## 6 Tasks
#
# One task for the orders; several that disagree (spread 2 of their weights) for what changes when a step averages over
# tasks. The distance after time `horizon` to the flow, solved by an adaptive Dormand-Prince method to $10^{-12}$, is the error.

# %%
several = draw(config.tasks, ctml.generator(1, "tasks"), spread=2.0)
FAMILY = {"rk2_half": HEUN, "rk2_two_thirds": CHAPRA_RALSTON, "rk2_three_quarters": RALSTON, "fo_maml": MIDPOINT}
SCHEMES = {"euler": EULER, **FAMILY, "rk3": KUTTA3, "rk4": RK4}
ENDS = {name: FAMILY[name] for name in ("rk2_half", "fo_maml")}


def curve(label: str, kind: str, tableau, many=False, finest=config.finest, **options) -> list[dict]:
    """Errors while the step halves, as tidy rows; the slope stands in the row of the smaller step."""
    rows = theory.convergence(several if many else one, w0, config.horizon, finest, tableau, **options)
    return [{"curve": label, "kind": kind, "tableau": tableau.name, **row} for row in rows]


against_modified = {"many": True, "modified": True, "finest": config.modified_finest}
CURVES = {
    "one task": {name: {"tableau": t} for name, t in SCHEMES.items()},
    "wrong q": {f"a2 = {a2}": {"tableau": rk2(a2), "rate": float(1 / a2)} for a2 in map(Fraction, ("1/2", "3/4", "1"))},
    "MAML": {n: {"tableau": MIDPOINT, "order": "second", "rate": r} for n, r in (("half", 0.5), ("quarter", 0.25))},
    "chain": {f"K = {k}": {"tableau": chain(k)} for k in (2, 3, 5)},
    "chain, other α": {f"K = {k}, α = h/2": {"tableau": chain(k), "rate": 0.5} for k in (2, 3, 5)},
    "own stages": {name: {"tableau": t, "many": True} for name, t in ENDS.items()},
    "mean-field stages": {name: {"tableau": t, "many": True, "stages": "mean"} for name, t in ENDS.items()},
    "modified loss": {name: {"tableau": t, **against_modified} for name, t in ENDS.items()},
}
runs = [{"label": name, "kind": kind, **options} for kind, all in CURVES.items() for name, options in all.items()]
table = study.table(pd.DataFrame([row for rows in study.map(curve, runs) for row in rows]), "errors")
last = table.groupby(["kind", "curve"], sort=False).last().slope
last.round(3).to_frame("order, seen at the last halving of the step")

# %% [markdown]
# ## 7 Figures

# %%
fo_maml, maml_look, three_steps = (style.method(name) for name in ("fo_maml", "maml", "comln"))
off = {"linestyle": ":", "alpha": 0.6}  # a plausible other rate
LOOKS = {
    ("one task", "fo_maml"): fo_maml.line(label="FO-MAML, α = β/2"),
    ("wrong q", "a2 = 1"): fo_maml.line(label="FO-MAML, α = β", **off),
    ("MAML", "half"): maml_look.line(label="MAML, α = β/2", **off),
    ("MAML", "quarter"): maml_look.line(label="MAML, α = β/4"),
    ("chain", "K = 3"): three_steps.line(label="3-step FO-MAML, α = β/6"),
    ("chain, other α", "K = 3, α = h/2"): three_steps.line(label="3-step FO-MAML, α = β/2", **off),
}
drawn = partial(plots.lines, table=table, x="h", y="error", by=["kind", "curve"], markersize=3.5)

fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
drawn(left, looks={("one task", name): style.method(name).line() for name in SCHEMES})
drawn(right, looks=LOOKS)
plots.powers(left, {1: 0.04, 2: 2e-3, 3: 1e-4, 4: 3e-6})
plots.powers(right, {1: 0.5, 2: 0.02})
left.set(xlabel="step h", ylabel=f"distance to the flow at time {config.horizon:g}", title="one task, α = h / (2 a₂)")
right.set(xlabel="outer rate β = h", ylabel="distance to the flow", title="what the inner rate has to be")
left.set_ylim(1e-14, 2)
right.set_ylim(1e-8, 2)
for ax in (left, right):
    ax.legend(fontsize=7, ncols=2, loc="lower right")
caption = (
    "Error of the outer steps as integrators of one task's gradient flow (float64, one logistic-regression task, one start), "
    "against the step; grey lines: powers 1 to 4 of h. Left: the RK2 family is second order for every a₂ (its four curves lie on one another), RK3 and RK4 are of "
    "order 3 and 4. Right: FO-MAML is second order at α = β/2 alone, exact MAML at β/4 alone, K steps at β/(2K) alone; dotted: a "
    "plausible other α, order 1. The paper's figures were not seen; its abstract says that MAML is a second-order method."
)
study.figure(fig, "orders", caption, where="Abstract")

# %% [markdown]
# Over many tasks each task has its own stage point, and the mean of the moved gradients is not the moved mean gradient:
# $$\mathbb E\,\nabla L_\tau(\theta-\alpha g_\tau)=\bar g-\alpha\,\mathbb E[H_\tau g_\tau]+O(\alpha^2),\qquad \text{while the flow of }\bar L\text{ needs }\ \bar g-\alpha\bar H\bar g.$$
# Since $\mathbb E[H_\tau g_\tau]-\bar H\bar g=\tfrac12\nabla\operatorname{tr}\operatorname{Cov}_\tau(g_\tau)$, the step is of order 1 for $\bar L$, but
# of order 2 for the flow of the modified loss $\bar L-\tfrac h4\operatorname{tr}\operatorname{Cov}_\tau(g_\tau)$, for every $a_2$ alike.

# %%
pair = Quadratic(float64([[3.0, 0.4], [0.5, 2.0]]).diag_embed(), float64([[-1.0, 0.6], [1.0, -0.6]]))
h, start = 0.25, float64([0.3, 0.5])
joint, modified = theory.flows(pair, start, torch.linspace(0, 8, 81, dtype=torch.float64), h)
steps = torch.stack([start, *(theory.walk(pair, start, MIDPOINT, h, n) for n in range(1, 33))])

fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
AGAINST = {"own stages": "mean loss", "mean-field stages": "mean-field stages", "modified loss": "modified loss"}
COLOURS = {"mean-field stages": style.COLOURS["mean_stages"], "modified loss": style.COLOURS["maml_flow"]}
for name, method in zip(ENDS, map(style.method, ENDS), strict=True):
    for kind, what in AGAINST.items():
        colour = COLOURS.get(kind, method.color)
        drawn(left, looks={(kind, name): method.line(label=f"{method.label}, {what}", color=colour)})
plots.powers(left, {1: 0.5, 2: 0.1})
left.set(xlabel="step h", ylabel="distance to the flow", title=f"{config.tasks} tasks")
left.set(ylim=(1e-9, 2))
left.legend(fontsize=6, ncols=2, loc="lower right", handlelength=1.5, columnspacing=1)
plots.landscape(right, lambda w: pair.loss(w).mean(-1), (-0.9, 0.5), (-0.55, 0.6))
right.plot(*joint.T, **style.method("joint").line(marker="", label="flow of the mean loss"))
right.plot(*modified.T, **style.method("maml_flow").line(marker="", linestyle="-", label="flow of the modified loss"))
right.plot(*steps.T, **fo_maml.line(linestyle="", markersize=3, label="FO-MAML's steps"))
right.set(xlabel="θ₁", ylabel="θ₂", title=f"two quadratic tasks, h = {h}")
right.legend(fontsize=7, loc="upper left", frameon=True, edgecolor="none")
caption = (
    "What a step over several tasks follows. Left: error against the flow of the mean loss (own and mean-field stages) and "
    "against the flow of the modified loss (own stages), float64, one start. Right: contours of the mean loss of two quadratic tasks with the two flows to "
    "time 8 and FO-MAML's steps: the steps end close to the minimum of the modified loss, away from that of the mean loss. Derived here; not in the paper's abstract."
)
study.figure(fig, "modified_loss", caption)

# %% [markdown]
# What tells the members apart is the third derivative. On the line, with $L=\cosh$ (its flow is known in closed form), the error
# of one step is $-h^3[L''^2L'/6+(1/6-q/4)L'''L'^2]$; the second coefficient vanishes for $a_2=3/4$. On a quadratic it has nothing
# to act on: all members are one method, with the same stability bound $h\lambda<2$.

# %%
members = {name: float(tableau.a[1][0]) for name, tableau in FAMILY.items()}
q = float64(sorted({*members.values(), 1.5}))
w, tiny = float64(1.0), 2e-3
seen = theory.error_on_cosh(w, q, tiny)
leading = theory.local_error(torch.sinh(w), torch.cosh(w), torch.sinh(w), q, tiny)
third = (seen / -(tiny**3) - torch.cosh(w) ** 2 * torch.sinh(w) / 6) / torch.sinh(w) ** 3

same = Quadratic.draw(3, 5, ctml.generator(0, "quadratic"), shared_hessian=True)
v = torch.ones(5, dtype=torch.float64)
H, shift = same.hessian[0], v - same.centre.mean(0)
expected = same.centre.mean(0) + shift - 0.2 * H @ shift + 0.02 * H @ H @ shift
spread = [(theory.walk(same, v, t, 0.2, 1) - expected).abs().max() for t in FAMILY.values()]

fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
left.plot(q, 1 / 6 - q / 4, color="0.6", label="1/6 − q/4")
for name, at in members.items():
    left.plot(at, third[q == at], **style.method(name).line(linestyle=""))
left.set(xlabel="q = α/h = 1/(2 a₂)", ylabel="third-derivative coefficient", title="local error, L = cosh")
left.axhline(0, color="0.8", lw=0.8)
z = torch.linspace(0, 3.2, 200, dtype=torch.float64)
for name in ("euler", "fo_maml", "rk3", "rk4"):
    label = {"fo_maml": "RK2, every a₂"}.get(name, style.method(name).label)
    right.plot(z, theory.amplification(SCHEMES[name], z).abs(), **style.method(name).line(marker="", label=label))
right.axhline(1, color="0.8", lw=0.8)
right.set(xlabel="hλ", ylabel="|amplification|", title="one step on λθ²/2", ylim=(0, 2))
for ax in (left, right):
    ax.legend(fontsize=7)
caption = (
    "What a₂ changes and what it does not. Left: coefficient of the third-derivative part of the local error, measured with h = "
    f"{tiny} (markers) and derived (line). Right: amplification of one step on a parabola; the four members coincide. Derived here."
)
study.figure(fig, "what_a2_changes", caption)

# %% [markdown]
# Through the adaptation (V2) the fixed point on quadratic tasks moves from joint training's minimum to MAML's as $a_2$ goes
# from 0 to 1: $w^*=(\mathbb E[a_1H+a_2M])^{-1}\mathbb E[(a_1H+a_2M)c]$ with $M=(I-\alpha H)H(I-\alpha H)$. And to first order in $\alpha$
# only the product $a_2\alpha$ enters: $d=\bar g-a_2\alpha\,\mathbb E[Hg]$ (V1), twice the second term in V2.

# %%
alpha, nowhere = 0.12, float64([0.0, 0.0])
quadratics = Quadratic.draw(4, 2, ctml.generator(2, "optimum"), curvature=(0.5, 6.0))
weights = [Fraction(k, 8) for k in range(1, 9)]
rates = float64([0.04, 0.02, 0.01, 0.005])
paths, ends, remainders = {}, {}, {}
for order in ("first", "second"):
    paths[order] = torch.stack([theory.optimum(quadratics, float(a2), alpha, order) for a2 in weights])
    descended = [theory.walk(quadratics, nowhere, rk2(a2), 0.25, 300, inner_lr=alpha, order=order) for a2 in weights]
    ends[order] = torch.stack(descended)
    remainders |= {(order, a2): theory.remainder(several, w0, a2, rates, order) for a2 in (0.5, 1.0)}
product_slopes = torch.cat([theory.halving_slopes(r)[-1:] for r in remainders.values()])

fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
origin = theory.optimum(quadratics, 0.0, alpha)
for order, name in (("first", "fo_maml"), ("second", "maml")):
    method, version = style.method(name), f"V{1 + (order == 'second')}"
    path = torch.cat([origin[None], paths[order]])
    left.plot(*path.T, **method.line(marker="", label=f"{version}, to {method.label} at a₂ = 1"))
    left.plot(*ends[order].T, **method.line(linestyle="", label="_"))
    for a2, look in ((1.0, {}), (0.5, {"linestyle": ":", "marker": "D"})):
        right.loglog(rates, remainders[order, a2], **method.line(label=f"{version}, a₂ = {a2:g}", **look))
left.plot(*origin, **style.method("joint").line(label="joint training, a₂ = 0", linestyle=""))
left.set(xlabel="θ₁", ylabel="θ₂", title="a₂ moves the fixed point")
right.set(xlabel="a₂ α", ylabel="|d − expansion|", title=f"beyond a₂ α: order {float(product_slopes.mean()):.2f}")
right.set_xticks(rates, [f"{r:g}" for r in rates])
right.minorticks_off()
for ax in (left, right):
    ax.legend(fontsize=7)
caption = (
    "Left: fixed points of V1 and V2 for a₂ = 1/8 .. 1, closed form (lines) and end of gradient descent (markers), four quadratic tasks. "
    "Right: what is left of the direction beyond its dependence on a₂ α falls like α². Derived here."
)
study.figure(fig, "fixed_points", caption)

# %% [markdown]
# ## 8 Claims

# %%
study.claim("rk_maml-b1", difference=difference, slope=last["one task", "fo_maml"])

# %%
others = {name: last["one task", name] for name in ("euler", "rk3", "rk4")}
study.claim("rk_maml-b2", rk2=[last["one task", name] for name in FAMILY], **others)

# %%
study.claim("rk_maml-b3", slopes=last["wrong q"].to_numpy())

# %%
study.claim("rk_maml-b4", quarter=last["MAML", "quarter"], half=last["MAML", "half"])

# %%
study.claim("rk_maml-b5", relative=(seen / leading - 1).abs(), at_ralston=third[q == members["rk2_three_quarters"]])

# %%
study.claim("rk_maml-b6", spread=torch.stack(spread))

# %%
own, mean_field, changed = (last[kind].to_numpy() for kind in ("own stages", "mean-field stages", "modified loss"))
study.claim("rk_maml-b7", own=own, mean_field=mean_field, modified=changed)

# %%
study.claim("rk_maml-b8", best=last["chain"].to_numpy(), other=last["chain, other α"].to_numpy())

# %%
study.claim("rk_maml-b9", error=torch.cat([(ends[o] - paths[o]).abs().flatten() for o in ends]))

# %%
study.claim("rk_maml-r6", slopes=product_slopes)

# %% [markdown]
# ## 9 Where this differs from the paper
#
# * The paper's equations were not seen. That its stages are inner steps on the support loss and its weights act on query gradients
#   is the reading under which MAML is a member, as its abstract says; whether the authors keep the Hessian (V2) is not known.
# * Support and query loss are the same function here, so that there is one flow to compare with.
#
# ## 10 Variants to try
#
# * Another member: in section 6 add `"nine_tenths": rk2(Fraction(9, 10))` to `FAMILY`, or your own `Tableau`, which refuses coefficients that have not the order they state.
# * Tasks that agree: set `spread=0.0` in section 6; own and mean-field stages then coincide.
# * `make reproduce NB=rk_maml/01_orders SET="tasks=16"`, `SET="finest=256"`.
#
# ## 11 Provenance

# %%
study.close()
