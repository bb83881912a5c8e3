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

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml.agreement import angle, central_differences, relative_error
from ctml.companion import Study, choose, plots, style
from ctml.inner_solvers import ClosedForm, GradientDescent
from ctml.learners.fo_b_maml import largest_safe_nu, perturbed_estimate
from ctml.learners.imaml import implicit_estimate
from ctml.learners.proximal import fo_maml_estimate
from ctml.theory import rates
from ctml.theory.fo_b_maml import Inexact, QSuite, tuned_bias_slope

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
# | $\nabla F_i(\theta)$ | `suite.meta_gradient(theta, lam)`, `implicit_estimate(...).gradient` | `(tasks, d)` |
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
# The perturbed problem must stay convex. Downwards that bounds $\nu$; here the smallest bound over the tasks of the
# first suite:

# %%
curvatures = zip(torch.linalg.eigvalsh(drawn[0].A)[:, 0], torch.linalg.eigvalsh(drawn[0].B)[:, -1], strict=True)
min(largest_safe_nu(2, lam + float(mu), float(L)) for mu, L in curvatures)

# %% [markdown]
# ## 5 The method checked before use
#
# Three ways to the same vector: the closed form of these quadratics, $-\lambda\,d\phi_\nu/d\nu$ by automatic
# differentiation of the perturbed solution, and a central difference of $F$ itself along every coordinate. Conjugate
# gradients (iMAML) make a fourth.


# %%
def along_the_path(suite):
    """Return -lam d phi_nu / d nu at 0 by autograd."""
    return -lam * torch.func.jacfwd(lambda nu: suite.perturbed_solution(theta, lam, nu))(torch.tensor(0.0).double())


def difference_of_F(suite):
    """Return the derivative of F_i along every coordinate of theta."""
    return central_differences(lambda at: suite.query(suite.perturbed_solution(at, lam, 0.0)), theta)


def conjugate_gradients(suite):
    """Return iMAML's meta-gradient."""
    return implicit_estimate(suite, theta, suite.n_tasks, lam=lam, solver=ClosedForm()).gradient


roads = {"along the path": along_the_path, "difference of F": difference_of_F}
roads["conjugate gradients"] = conjugate_gradients
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
    f"and range over {config.suites} suites of {config.tasks} quadratic tasks. The paper's figure was not seen; here "
    "the slopes are 1, 2 and 4 until rounding takes over at about 1e-12.",
)

# %% [markdown]
# ### What inner errors do
#
# Now every solve is displaced by a random vector of length $\delta$, independently: the situation of the theory. For
# each $\delta$ there is a best $\nu$; the error there is what the exponents are about.

# %%
deltas = torch.logspace(-9, -3, 7, dtype=torch.float64)
nus = torch.logspace(-5, -0.6, 45, dtype=torch.float64)


def noisy_errors(suite, name, draws):
    """Return the mean relative error over noise draws for every (delta, nu)."""
    many = suite.take(torch.arange(suite.n_tasks).repeat(draws))
    exact = many.meta_gradient(theta, lam)
    grid = []
    for delta in deltas.tolist():
        displaced = Inexact(ClosedForm(), delta, ctml.generator(seed, f"inner errors {delta:.0e}"))
        found = (finite_difference(many, nu, ORDERS[name], displaced) for nu in nus.tolist())
        grid.append([relative_error(estimate, exact) for estimate in found])
    return torch.tensor(grid, dtype=torch.float64)


noisy = {name: [noisy_errors(s, name, config.noise_draws) for s in drawn] for name in ("forward", "symmetric")}
exponents = {name: [tuned_bias_slope(e, deltas).value for e in errors] for name, errors in noisy.items()}
study.table(pd.DataFrame(exponents).rename_axis("suite").reset_index(), "exponents")

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
left.set(xlabel=r"$\nu$", title=r"fixed $\delta=10^{-9},10^{-6},10^{-3}$")
right.set(xlabel=r"inner error $\delta$", title=r"best $\nu$ for each $\delta$")
for ax, corner in ((left, "upper right"), (right, "upper left")):
    ax.set(xscale="log", yscale="log", ylabel="relative error")
    ax.legend(loc=corner)
study.figure(
    fig,
    "bias_in_delta",
    f"Inner solutions displaced by random vectors of length delta; mean over {config.noise_draws} draws, median over "
    f"{config.suites} suites. Left: error against nu, darkest for the smallest delta. Right: error at the best nu, "
    "band: range over suites, dotted: the derived exponents. The paper states the exponent 2/3 of the symmetric "
    "estimate (abstract); its figure was not seen.",
)

# %% [markdown]
# ### From FO-MAML to the exact meta-gradient
#
# Start the perturbed solve at $\phi_0$ and take only $K$ steps of gradient descent of size $\alpha$. For $\nu\to0$
# this is a truncated Neumann series,
# $$\lambda\alpha\sum_{k<K}(I-\alpha H)^k\,\nabla f(\phi_0)\ \xrightarrow{K\to\infty}\ \lambda H^{-1}\nabla
# f(\phi_0),$$ whose first term points along $\nabla f(\phi_0)$: FO-MAML, exactly so for $\alpha=1/\lambda$. The
# number of steps leads from one to the other.


# %%
class ExactThenDescend(GradientDescent):
    """Solve the unperturbed problem exactly; take K steps on the others."""

    def solve(self, objective, start):
        return ClosedForm().solve(objective, start) if not any(objective.nus) else super().solve(objective, start)


def warm(suite, steps, rate):
    """Return the symmetric estimate whose perturbed solves take a few steps from phi_0."""
    solver = ExactThenDescend(rate=rate, steps=steps)
    found = perturbed_estimate(suite, theta, suite.n_tasks, lam=lam, nu=1e-5, order=2, solver=solver, warm_start=True)
    return found.gradient


def neumann(suite, steps, rate):
    """Return lam alpha sum_{k<K} (I - alpha H)^k grad f(phi_0)."""
    H = suite.A + lam * torch.eye(config.dim, dtype=torch.float64)
    term = torch.einsum("tde,te->td", suite.B, suite.perturbed_solution(theta, lam, 0.0) - suite.b)
    total = torch.zeros_like(term)
    for _ in range(steps):
        total, term = total + lam * rate * term, term - rate * torch.einsum("tde,te->td", H, term)
    return total


def to_exact(estimate, suite):
    """Return the angle in degrees of a mean meta-gradient to the exact one."""
    return angle(estimate.mean(0), suite.meta_gradient(theta, lam).mean(0))


lengths = [1, 2, 3, 5, 8, 12, 20, 30, 50]
safe_rate = 1 / (5 + lam)  # 5 bounds the support spectra
rows = []
for i, suite in enumerate(drawn):
    first_order = fo_maml_estimate(suite, theta, suite.n_tasks, lam=lam, solver=ClosedForm()).gradient
    rows.append({"suite": i, "K": 1, "rate": 1 / lam, "series": relative_error(warm(suite, 1, 1 / lam), first_order)})
    for K in lengths:
        found = warm(suite, K, safe_rate)
        errors = {"series": relative_error(found, neumann(suite, K, safe_rate)), "angle": to_exact(found, suite)}
        rows.append({"suite": i, "K": K, "rate": safe_rate} | errors)
    rows.append({"suite": i, "K": 0, "angle": to_exact(first_order, suite)})
interpolation = study.table(pd.DataFrame(rows), "interpolation")

# %% [markdown]
# ### Errors that cancel
#
# The law $\delta/\nu$ holds for independent errors. If all solves take the same $K$ deterministic steps from the same
# start, the estimate is the finite difference of a smooth map, and the common error drops out: the step $\nu$ may
# then be tiny at no harm.

# %%
nu = 1e-5
rows = []
for i, suite in enumerate(drawn):
    exact = suite.meta_gradient(theta, lam)
    for K in [*lengths[2:], config.inner_steps]:
        solver = GradientDescent(rate=safe_rate, steps=K)
        found = perturbed_estimate(suite, theta, suite.n_tasks, lam=lam, nu=nu, order=2, solver=solver)
        delta = float((found.phi - suite.perturbed_solution(theta, lam, 0.0)).norm())
        rows.append({"suite": i, "K": K, "error": float((found.gradient - exact).norm()), "law": lam * delta / nu})
cancelling = study.table(pd.DataFrame(rows).drop_duplicates(["suite", "K"]), "cancelling")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
spread, look = {"middle": "median", "band": "range"}, style.method("fo_b_maml").line()
angles = interpolation.dropna(subset="angle").pivot(index="K", columns="suite", values="angle")
plots.curve(left, angles.index[1:], angles.iloc[1:], **spread, **look)
left.axhline(angles.loc[0].median(), label="FO-MAML", color=style.COLOURS["fo_maml"], ls="--")
left.set(yscale="log", xlabel=r"inner steps $K$ from $\phi_0$", ylabel="angle to the exact one (degrees)")
measured = cancelling.pivot(index="K", columns="suite", values="error")
plots.curve(right, measured.index, measured, **spread, **look | {"label": "measured"})
right.plot(cancelling.groupby("K").law.median(), color="0.4", ls=":", marker="x", label=r"$\lambda\delta/\nu$")
right.set(yscale="log", xlabel=r"inner steps $K$ from $\theta$", ylabel="error of the meta-gradient")
for ax in (left, right):
    ax.legend()
study.figure(
    fig,
    "few_steps",
    f"Median and range over {config.suites} suites. Left: angle between the estimate from K warm-started steps and "
    "the exact meta-gradient; K = 1 is FO-MAML's direction. Right: error when both solves take the same K steps from "
    "theta, nu = 1e-5, beside the law for independent errors of the same size. Both derived here; the paper's "
    "figures were not seen.",
)

# %% [markdown]
# ## 8 Claims

# %%
study.claim("fo_b_maml-d01", error=checks[["along the path", "difference of F"]].to_numpy())

# %%
study.claim("fo_b_maml-d02", forward=orders["forward"], symmetric=orders["symmetric"])

# %%
study.claim("fo_b_maml-d03", forward=exponents["forward"], symmetric=exponents["symmetric"])

# %%
study.claim("fo_b_maml-d09", error=interpolation.series.dropna().to_numpy())

# %%
of_claim = cancelling[config.inner_steps == cancelling.K]
study.claim("fo_b_maml-d10", share=(of_claim.error / of_claim.law).to_numpy())

# %%
study.claim("fo_b_maml-d14", fourth=orders["order 4"])

# %% [markdown]
# ## 9 Where this differs from the paper
#
# * The paper's text was not available. That the meta-gradient is the derivative of a perturbed problem's solution,
#   the names *forward* and *symmetric*, and the exponent 2/3 are from its abstract. What it calls $\delta$ was not
#   seen; here it is the distance to the inner solution. Every formula, the exponent 1/2 and the cancelling of errors
#   are derived here.
# * The difference of order $p$ is from Chen, Li, Chayti and Zhang on general bilevel problems.
#
# ## 10 Variants to try
#
# * A weak pull makes the inner problem hard and the safe $\nu$ small: `make reproduce NB=fo_b_maml/01_two_solves
#   SET="lam=0.2"`.
# * One dimension: `SET="dim=1"`. FO-MAML's direction of one task can only be too long there, never wrong. Can the mean
#   over tasks still point the wrong way? (It does in 29 of the first 300 suites: weights that are wrong turn the sign.)
# * Order 6: add `"order 6": 6` to `ORDERS` and a colour; where does rounding stop it?
# * Replace `ClosedForm()` in `finite_difference` by `Nesterov(rate=1/6, convexity=lam, steps=500, tolerance=1e-6)`:
#   are its errors independent?
#
# ## 11 Provenance

# %%
study.close()
