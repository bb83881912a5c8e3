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
# # A meta-gradient from two inner solves
#
# **Paper** Chayti and Jaggi, *A New First-Order Meta-Learning Algorithm with Convergence Guarantees* (arXiv
# 2409.03682). Only its abstract and the beginning of its introduction were at hand: the idea and the exponent 2/3 are
# the paper's, the formulas below are re-derived here and say so.
#
# **Question** MAML's meta-gradient holds an inverse Hessian. Can it be had from gradients alone, and how exactly?
#
# **Answer in one line** Yes: solve the inner problem twice, with the query loss mixed in a little; the difference of
# the two solutions is the meta-gradient, up to an error that one chooses (Figures 1 to 3, verdicts in section 8).
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` | one core | < 1 |
# | `long` | one core, as `paper` | about 2 |
# | `paper` | one core, more suites and noise draws | about 2 |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, replace
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.func import jacfwd

import ctml
from ctml.agreement import central_differences, relative_error
from ctml.companion import Study, choose, plots, style
from ctml.inner_solvers import ClosedForm, GradientDescent, Nesterov
from ctml.learners.fo_b_maml import largest_safe_nu, perturbed_estimate
from ctml.learners.proximal import fo_maml_estimate
from ctml.theory import rates
from ctml.theory.fo_b_maml import QSuite, best_error, displaced_errors, neumann_series, tuned_bias_slope, warm_started

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
lam = 1.0  # > 0: pull towards theta
suites: int | None = None  # >= 1: random sets of tasks
tasks: int | None = None  # >= 1: of a suite
dim: int | None = None  # >= 1: of theta

# %% [markdown]
# ## 3 Configuration
#
# All of it is *ours*: the paper's synthetic experiment could not be read. A suite is a random set of tasks with
# quadratic losses, so that every quantity below is known in closed form.


# %%
@dataclass(frozen=True)
class Config:
    suites: int = 20  # random sets of tasks
    tasks: int = 8  # of a suite, M
    dim: int = 10  # of theta, d
    noise_draws: int = 64  # random inner errors of each length
    inner_steps: int = 20  # K of the claim about errors that cancel


PAPER = Config()
PRESETS = {
    "paper": PAPER,
    "long": PAPER,
    "quick": replace(PAPER, suites=5, noise_draws=16),
    "smoke": replace(PAPER, suites=2, tasks=3, dim=4, noise_draws=2),
}
config = choose(PRESETS, PRESET, suites=suites, tasks=tasks, dim=dim)
study = Study("fo_b_maml", "01_two_solves", PRESET, asdict(config) | {"seed": seed, "lam": lam})
config

# %% [markdown]
# ## 4 The idea
#
# Task $i$ has a support loss $\hat f_i$ and a query loss $f_i$. It adapts by the proximal problem, and the
# meta-objective is the query loss where that ends:
# $$\phi_i(\theta)=\arg\min_\phi\ \hat f_i(\phi)+\tfrac\lambda2\|\phi-\theta\|^2,\qquad F(\theta)=\tfrac1M\sum_i
# f_i(\phi_i(\theta)).$$ With $H_i=\nabla^2\hat f_i(\phi_i)+\lambda I$ its gradient is
# $\nabla F_i=\lambda H_i^{-1}\nabla f_i(\phi_i)$: a Hessian, inverted. Now mix a little of the query loss into the
# inner problem,
# $$\phi_{i,\nu}(\theta)=\arg\min_\phi\ \nu f_i(\phi)+\hat f_i(\phi)+\tfrac\lambda2\|\phi-\theta\|^2 .$$
# Its optimality condition $\nu\nabla f_i+\nabla\hat f_i+\lambda(\phi-\theta)=0$, differentiated in $\nu$ at 0, reads
# $\nabla f_i+H_i\,\tfrac{d}{d\nu}\phi_{i,\nu}=0$. Hence
# $$\boxed{\ \nabla F_i(\theta)=-\lambda\,\tfrac{d}{d\nu}\phi_{i,\nu}(\theta)\Big|_{\nu=0}\ }$$
# and a finite difference of inner solutions is an estimate of the meta-gradient that needs nothing but gradients:
#
# | estimate | formula | truncation error |
# |---|---|---|
# | forward | $\lambda(\phi_0-\phi_\nu)/\nu$ | $O(\nu)$ |
# | symmetric | $\lambda(\phi_{-\nu}-\phi_\nu)/2\nu$ | $O(\nu^2)$ |
# | order $p$ | $-\tfrac\lambda\nu\sum_j\alpha_j\,\phi_{j\nu}$ | $O(\nu^p)$ |
#
# If each solve is off by up to $\delta$, an error of order $\lambda\delta/\nu$ is added. Balancing the two gives
# $\nu\sim\delta^{1/2}$ and an error $O(\delta^{1/2})$ for the forward estimate, $\nu\sim\delta^{1/3}$ and
# $O(\delta^{2/3})$ for the symmetric one.
#
# | letter | code | shape |
# |---|---|---|
# | $\theta$ | `theta` | `(d,)`, or `(tasks, d)` |
# | $\hat f_i$, $f_i$ | `suite.support`, `suite.query` | `(tasks, d)` to `(tasks,)` |
# | $\phi_{i,\nu}(\theta)$ | `suite.perturbed_solution(theta, lam, nu)` | `(tasks, d)` |
# | $\nabla F_i(\theta)$ | `suite.meta_gradient(theta, lam)` | `(tasks, d)` |
# | estimates | `perturbed_estimate(..., nu, order).gradient` | `(tasks, d)` |

# %%
drawn = [QSuite.draw(config.tasks, config.dim, ctml.generator(seed, f"suite {i}")) for i in range(config.suites)]
theta = torch.randn(config.dim, generator=ctml.generator(seed, "theta"), dtype=torch.float64)
ORDERS = {"forward": 1, "symmetric": 2, "order 4": 4}
COLOURS = dict(zip(ORDERS, (style.COLOURS["fo_b_maml_forward"], style.COLOURS["fo_b_maml"], "#332288"), strict=True))


def finite_difference(suite, nu, order, solver=None):
    """Return the estimate of all tasks, from exact inner solutions unless told otherwise."""
    options = {"lam": lam, "nu": nu, "order": order, "solver": solver or ClosedForm()}
    return perturbed_estimate(suite, theta, suite.n_tasks, **options).gradient


# %% [markdown]
# The whole method, in ten lines, on one task with two parameters. Nothing in it but gradients:

# %%
task = QSuite.draw(1, 2, ctml.generator(seed, "picture"))
anchor = torch.tensor([[2.0, 2.0]], dtype=torch.float64)


def solve(nu, steps=200, alpha=0.1):
    """Return phi_nu: descend nu f + f^ + lam/2 |phi - theta|^2 from theta."""
    phi = anchor.clone().requires_grad_()
    for _ in range(steps):
        inner = nu * task.query(phi) + task.support(phi) + lam / 2 * (phi - anchor).square().sum(1)
        phi = (phi - alpha * torch.autograd.grad(inner.sum(), phi)[0]).detach().requires_grad_()
    return phi.detach()


found = lam * (solve(-0.1) - solve(0.1)) / (2 * 0.1)
relative_error(found, task.meta_gradient(anchor, lam))

# %%
fig, ax = plt.subplots(figsize=style.NARROW)
plots.solutions(ax, task, anchor, {nu: solve(nu) for nu in (-0.25, 0.0, 0.25)})
study.figure(
    fig,
    "two_solves",
    "One task: level lines of its inner problem at nu = 0 (grey) and of its query loss (dotted). Mixing some of the query "
    "loss into the inner problem moves the solution towards lower query loss, taking some out moves it away; the arrow "
    "between the two, over 2 nu and times lambda, is the meta-gradient.",
)

# %% [markdown]
# The perturbed problem must stay convex. Downwards that bounds $\nu$; here the smallest bound over the tasks of the
# first suite:

# %%
curvatures = zip(torch.linalg.eigvalsh(drawn[0].A)[:, 0], torch.linalg.eigvalsh(drawn[0].B)[:, -1], strict=True)
min(largest_safe_nu(2, lam + float(mu), float(L)) for mu, L in curvatures)

# %% [markdown]
# ## 5 The method checked before use
#
# Three ways to the same vector: the closed form of these quadratics, $-\lambda\,d\phi_\nu/d\nu$ by automatic
# differentiation of the perturbed solution, and a central difference of $F$ itself along every coordinate.


# %%
roads = {
    "along the path": lambda q: -lam * jacfwd(partial(q.perturbed_solution, theta, lam))(torch.tensor(0.0).double()),
    "difference of F": lambda q: central_differences(lambda at: q.query(q.perturbed_solution(at, lam, 0.0)), theta),
}
checks = pd.DataFrame(
    {"suite": i} | {name: relative_error(road(suite), suite.meta_gradient(theta, lam)) for name, road in roads.items()}
    for i, suite in enumerate(drawn)
)
study.table(checks, "checks")

# %% [markdown]
# ## 6 Data
#
# None: the tasks are drawn above.
#
# ## 7 Experiments
#
# ### How the bias falls with $\nu$
#
# The inner problems are solved exactly, so what is left is the truncation error of the finite difference.

# %%
RANGES = {"forward": (0.9e-4, 1.1e-2), "symmetric": (0.9e-4, 1.1e-2), "order 4": (0.9e-2, 1.1e-1)}
rows = []
for i, suite in enumerate(drawn):
    exact = suite.meta_gradient(theta, lam)
    for name, order in ORDERS.items():
        for nu in torch.logspace(-4, -1, 25, dtype=torch.float64).tolist():
            error = relative_error(finite_difference(suite, nu, order), exact)
            rows.append({"suite": i, "estimate": name, "nu": nu, "error": error})
bias = study.table(pd.DataFrame(rows), "bias")


def order_of(name, suite):
    """Return the slope of log error against log nu over the claim's range."""
    rows = bias[(bias.estimate == name) & (bias.suite == suite) & bias.nu.between(*RANGES[name])]
    return rates.power(torch.tensor(rows.nu.values), torch.tensor(rows.error.values)).value


orders = {name: [order_of(name, i) for i in range(config.suites)] for name in ORDERS}
study.table(pd.DataFrame(orders).rename_axis("suite").reset_index(), "orders")

# %%
fig, ax = plt.subplots(figsize=style.NARROW)
for name in ORDERS:
    by_nu = bias[bias.estimate == name].pivot(index="nu", columns="suite", values="error")
    plots.curve(ax, by_nu.index, by_nu, middle="median", band="range", color=COLOURS[name], label=name)
ax.set(xscale="log", yscale="log", xlabel=r"$\nu$", ylabel="relative error", ylim=(1e-14, 2))
ax.legend(loc="lower right")
study.figure(
    fig,
    "bias_in_nu",
    "Relative error of the estimated meta-gradient against the perturbation, inner problems solved exactly; median "
    f"and range over {config.suites} suites of {config.tasks} quadratic tasks. Here "
    "the slopes are 1, 2 and 4 until rounding takes over at about 1e-12.",
)

# %% [markdown]
# ### What inner errors do
#
# Now every solve is displaced by a random vector of length $\delta$, independently: the situation of the theory, put in
# by hand. For each $\delta$ there is a best $\nu$; the error there is what the exponents are about.
#
# Real solvers are not random. Beside them, two that stop at $\|\nabla h\|\le\delta$: their errors at $\pm\nu$ are
# nearly alike, so predict on which side of the two laws they lie.

# %%
safe_rate = 1 / (5 + lam)  # 5 bounds the support spectra
deltas = torch.logspace(-9, -3, 7, dtype=torch.float64)
nus = torch.logspace(-5, -0.6, 45, dtype=torch.float64)
grids = {"lam": lam, "deltas": deltas, "nus": nus, "draws": config.noise_draws, "seed": seed}
noisy = {
    name: [displaced_errors(suite, theta, order=ORDERS[name], **grids) for suite in drawn]
    for name in ("forward", "symmetric")
}
exponents = {name: [tuned_bias_slope(e, deltas).value for e in errors] for name, errors in noisy.items()}
study.table(pd.DataFrame(exponents).rename_axis("suite").reset_index(), "exponents")

# %%
REAL = {
    "gradient descent": GradientDescent(rate=safe_rate, steps=2000),
    "Nesterov": Nesterov(rate=safe_rate, convexity=lam, steps=2000),
}
stops = {"theta": theta, "lam": lam, "nus": nus[::6]}
real = {
    name: torch.stack([best_error(q, solver=s, deltas=deltas, **stops) for q in drawn[:2]]) for name, s in REAL.items()
}
of_real = pd.Series({name: rates.power(deltas, errors.median(0).values).value for name, errors in real.items()})
study.table(of_real.rename("exponent").rename_axis("solver").reset_index(), "real_solvers")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
for name, dashes, power, law in (("forward", "--", 1 / 2, "1/2"), ("symmetric", "-", 2 / 3, "2/3")):
    look = {"linestyle": dashes, "color": COLOURS[name]}
    errors = torch.stack(noisy[name]).median(0).values
    for k, alpha in ((0, 1.0), (3, 0.7), (6, 0.45)):
        left.plot(nus, errors[k], alpha=alpha, label=name if k == 0 else None, **look)
    best = torch.stack(noisy[name]).amin(2).T
    plots.curve(right, deltas, best, middle="median", band="range", marker="o", label=name, **look)
    guide = 0.45 * best[0].median() * (deltas / deltas[0]) ** power
    right.plot(deltas, guide, ":", color="0.4", lw=1)
    right.text(1.5 * float(deltas[-1]), float(guide[-1]), rf"$\delta^{{{law}}}$", va="center")
for (name, errors), marker in zip(real.items(), "v^", strict=True):
    right.plot(deltas, errors.median(0).values, ls="", marker=marker, color="0.35", label=name)
left.set(xlabel=r"$\nu$", title=r"fixed $\delta=10^{-9},10^{-6},10^{-3}$")
right.set(xlabel=r"inner error $\delta$", title=r"best $\nu$ for each $\delta$")
for ax, corner in ((left, "upper right"), (right, "lower right")):
    ax.set(xscale="log", yscale="log", ylabel="relative error")
    ax.legend(loc=corner)
study.figure(
    fig,
    "bias_in_delta",
    f"Inner solutions displaced by random vectors of length delta; mean over {config.noise_draws} draws, median over "
    f"{config.suites} suites. Left: error against nu, darkest for the smallest delta. Right: error at the best nu, "
    "band: range over suites, dotted: the derived exponents, grey: symmetric estimates of real solvers stopped at gradient "
    "norm delta. The paper states the exponent 2/3 of the symmetric "
    "estimate (abstract).",
)

# %% [markdown]
# The real solvers lie below both laws and fall faster than $\delta^{2/3}$ (the table): what their two errors share drops
# out of the difference. The exponents of the theory are those of independent errors, and were put in here by hand.
#
# ### From FO-MAML to the exact meta-gradient
#
# Start the perturbed solve at $\phi_0$ and take only $K$ steps of gradient descent of size $\alpha$. For $\nu\to0$
# this is a truncated Neumann series,
# $$\lambda\alpha\sum_{k<K}(I-\alpha H)^k\,\nabla f(\phi_0)\ \xrightarrow{K\to\infty}\ \lambda H^{-1}\nabla
# f(\phi_0),$$ whose first term points along $\nabla f(\phi_0)$: FO-MAML, exactly so for $\alpha=1/\lambda$. The
# number of steps leads from one to the other.


# %%
lengths = [3, 5, 8, 12, 20, 30, 50]
series = [
    relative_error(
        warm_started(suite, theta, lam=lam, rate=safe_rate, steps=K),
        neumann_series(suite, theta, lam=lam, rate=safe_rate, steps=K),
    )
    for suite in drawn
    for K in lengths
]
for suite in drawn:
    first_order = fo_maml_estimate(suite, theta, suite.n_tasks, lam=lam, solver=ClosedForm()).gradient
    series.append(relative_error(warm_started(suite, theta, lam=lam, rate=1 / lam, steps=1), first_order))
max(series)

# %% [markdown]
# ### Stopping early
#
# The law $\delta/\nu$ holds for independent errors. Let both solves take the same $K$ steps from the same start instead:
# each ends short of its solution by nearly the same vector, and the difference hardly feels it. Does *all* of the error
# go? No: the estimate is the derivative of the map that takes $K$ steps, and that is not yet the derivative of the
# solution. Before you look: what happens to the error if $\nu$ is made a hundred times smaller, and what if $K$ is
# doubled?

# %%
rows = []
for i, suite in enumerate(drawn):
    exact = suite.meta_gradient(theta, lam)
    for K in sorted({*lengths, config.inner_steps, 2 * config.inner_steps}):
        for nu in (1e-3, 1e-5):
            solver = GradientDescent(rate=safe_rate, steps=K)
            found = perturbed_estimate(suite, theta, suite.n_tasks, lam=lam, nu=nu, order=2, solver=solver)
            away = float((found.phi - suite.perturbed_solution(theta, lam, 0.0)).norm() / exact.norm())
            error = {"error": relative_error(found.gradient, exact), "law": lam * away / nu}
            rows.append({"suite": i, "K": K, "nu": nu} | error)
early = study.table(pd.DataFrame(rows), "early")

# %%
fig, ax = plt.subplots(figsize=style.NARROW)
for nu, dashes in ((1e-3, "-"), (1e-5, "--")):
    part = early[early.nu == nu]
    look = style.method("fo_b_maml").line() | {"label": rf"measured, $\nu=${nu:g}", "linestyle": dashes}
    wide = part.pivot(index="K", columns="suite", values="error")
    plots.curve(ax, wide.index, wide, middle="median", band="range", **look)
    ax.plot(part.groupby("K").law.median(), color="0.4", ls=dashes, label=rf"$\lambda\delta/\nu$, $\nu=${nu:g}")
ax.set(yscale="log", xlabel=r"inner steps $K$ from $\theta$", ylabel="relative error")
ax.legend(fontsize="small")
study.figure(
    fig,
    "few_steps",
    f"Error when both solves take the same K steps from theta, median and range over {config.suites} suites, beside the law for "
    "independent errors of the same size: the two measured curves lie on each other.",
)

# %% [markdown]
# ## 8 Claims

# %%
study.claim("fo_b_maml-d01", error=checks[list(roads)].to_numpy())

# %%
study.claim("fo_b_maml-d02", forward=orders["forward"], symmetric=orders["symmetric"])

# %%
study.claim("fo_b_maml-d03", forward=exponents["forward"], symmetric=exponents["symmetric"])

# %%
study.claim("fo_b_maml-d09", error=series)

# %%
steps = early.set_index(["K", "nu"]).error.sort_index()
coarse, fine = (steps[config.inner_steps, nu].to_numpy() for nu in (1e-3, 1e-5))
study.claim("fo_b_maml-d10", fine=fine, coarse=coarse, longer=steps[2 * config.inner_steps, 1e-5].to_numpy())

# %%
study.claim("fo_b_maml-d14", fourth=orders["order 4"])

# %% [markdown]
# ## 9 Where this differs from the paper
#
# * The paper's text was not available. That the meta-gradient is the derivative of a perturbed problem's solution,
#   the names *forward* and *symmetric*, and the exponent 2/3 are from its abstract. What it calls $\delta$ was not
#   seen; here it is the distance to the inner solution. Every formula, the exponent 1/2 and what early stopping
#   leaves are derived here.
# * The difference of order $p$ is from Chen, Li, Chayti and Zhang on general bilevel problems.
#
# ## 10 Variants to try
#
# * A weak pull makes the inner problem hard and the safe $\nu$ small: `make reproduce NB=fo_b_maml/01_two_solves
#   SET="lam=0.2"`.
# * One dimension: `SET="dim=1"`. FO-MAML's direction of one task can only be too long there, never wrong. Can the mean
#   over tasks still point the wrong way? (It does in 29 of the first 300 suites: weights that are wrong turn the sign.)
# * Order 6: add `"order 6": 6` to `ORDERS` and a colour; where does rounding stop it?
# * Which $\nu$ is best for a real solver? Print the argument of the minimum in `best_error`.
#
# ## 11 Provenance

# %%
study.close()
