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
# # Exact meta-gradients, four ways
#
# **Paper:** Deleu et al., *Continuous-Time Meta-Learning with Forward Mode Differentiation* (COMLN), ICLR 2022, sections
# 3.2 and 3.3, equations 10 to 13.
#
# **Question:** what is the derivative of the adapted head $W(T)$ with respect to the embeddings, the initial head and the
# adaptation time, and can it be had exactly without storing the path?
#
# **Answer:** yes: it decomposes into small matrices $B$ and $z$ that are carried forward with the flow (the paper), or
# into one small cotangent that is carried back over the stored steps (ours). Both equal plain autograd to the last digits.
#
# | preset | hardware | minutes |
# |---|---|---|
# | smoke | 1 CPU core | 0.3 |
# | quick | 2 CPU cores | 0.7 |
# | long | 2 CPU cores, as paper | 5, estimated |
# | paper | 2 CPU cores | 2 |

# %%
from dataclasses import asdict, dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import ctml
from ctml.agreement import relative_error
from ctml.companion import Study, choose, style
from ctml.flows import Adaptive, Adjoint, BackwardFlow, FixedSteps, ForwardMode, Unrolled, adapt_head
from ctml.flows.tableaus import DORMAND_PRINCE, EULER, KUTTA3, MIDPOINT, RK4
from ctml.models import MLP
from ctml.tasks import Embeddings
from ctml.theory import rates
from ctml.theory.comln import carried_forward

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
tasks: int | None = None  # >= 1: of every check
noise: float | None = None  # > 0: more noise means an earlier best time to stop

# %% [markdown]
# ## Configuration
# The paper proves these statements and shows no experiment on them; all settings are *ours*.


# %%
@dataclass(frozen=True)
class Config:
    tasks: int = 20  # ours: independent tasks of every check
    noise: float = 2.5  # ours: spread within a class; the classes' centres have spread 1
    horizon: float = 10.0  # ours: of the checks
    steps: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)  # ours: fixed steps, for the order of convergence
    longest: float = 1e4  # ours: horizon of the stability check
    meta_steps: int = 600  # ours: of the learning of T
    starts: tuple[float, ...] = (1.0, 30.0, 3000.0)  # ours: where T starts


PAPER = Config()
PRESETS = {
    "paper": PAPER,
    "long": PAPER,
    "quick": replace(PAPER, tasks=5, meta_steps=150),
    "smoke": replace(PAPER, tasks=2, steps=(4, 8), longest=1e2, meta_steps=2, starts=(1.0,)),
}
config = choose(PRESETS, PRESET, tasks=tasks, noise=noise)
study = Study("comln", "02_exact_meta_gradients", PRESET, {**asdict(config), "seed": seed})
config

# %% [markdown]
# ## The idea
# $W(T)=W_0-s(T)^\top\Phi$ depends on $\Phi$ and $W_0$ directly and through $s$. Differentiating $ds_i/dt=(p_i-y_i)/M$ gives
# linear equations for the sensitivities of $s$, all with the same $A_i=(\mathrm{diag}(p_i)-p_ip_i^\top)/M$:
#
# $$\frac{dB[i,j]}{dt}=A_i\Bigl(\mathbb 1_{i=j}I-\sum_kG_{ik}B[k,j]\Bigr),\qquad
# \frac{dz[i,m,j]}{dt}=-A_i\Bigl(\mathbb 1_{i=m}s_j+\mathbb 1_{i=j}s_m+\sum_kG_{ik}z[k,m,j]\Bigr).$$
#
# $$\frac{dW(T)}{dW_0}=I-\sum_{ij}B[i,j]\otimes\phi_i\phi_j^\top\quad(10,11)$$
# $$\frac{dW(T)}{d\phi_m}=-\Bigl(s_m\otimes I+\sum_iB[i,m]W_0\otimes\phi_i+\sum_{ij}z[i,m,j]\,\phi_j^\top\otimes\phi_i\Bigr)\quad(12)$$
# $$\frac{d\mathcal L_{test}}{dT}=-\Bigl\langle\nabla_W\mathcal L_{test}(W(T)),\nabla_W\mathcal L_{train}(W(T))\Bigr\rangle\quad(13)$$
#
# | letter | code | shape |
# |---|---|---|
# | $s$ | `s` | `(tasks, M, N)` |
# | $B$ | `B` | `(tasks, M, N, M, N)`: $B[i,j]_{nn'}$ is `B[:, i, n, j, n']` |
# | $z$ | `z` | `(tasks, M, N, M, M)`: $z[i,m,j]_n$ is `z[:, i, n, m, j]` |
# | $A_i$ | `A` | `(tasks, M, N, N)` |
# | $G$ | `G` | `(tasks, M, M)` |
#
# All five are what `carried_forward` returns (`ctml.theory.comln`; the equations stand in `ctml.flows.gradient_flow.forward`).
# Nothing here grows with the number of steps, nor with $d$. **Ours, besides:** keep $s_n$ before each step ($MN$ numbers)
# and transpose the steps, last first; see `ctml.flows.gradient_flow.adjoint`.

# %% [markdown]
# ## Tasks
# Synthetic and 5-way 5-shot: unit-norm embeddings of noisy classes, float64. The checks of whole Jacobians use small ones.


# %%
def stream(purpose="tasks"):
    return ctml.generator(seed, purpose)


def seconds(value):
    return torch.tensor(float(value), dtype=torch.float64)


few_shot = Embeddings(ways=5, shots=5, queries=15, d=64, noise=config.noise)
small = replace(few_shot, ways=3, shots=2, d=5)

# %% [markdown]
# ## Equations 10 to 12, letter by letter
# $B$ and $z$ are integrated by Runge-Kutta steps and put into the formulas as they stand; the whole Jacobians are compared
# with plain autograd through the same steps.

# %%
solver, T = FixedSteps(40, RK4), seconds(config.horizon)
phi, y = small.sample(config.tasks, stream()).support
W_0 = 2 * small.head(stream("head"))
s, B, z, _, _ = carried_forward(phi, y, W_0, config.horizon, solver)
I_N, I_d = torch.eye(small.ways, dtype=torch.float64), torch.eye(small.d, dtype=torch.float64)

dW_dW0 = torch.einsum("nk,ab->nakb", I_N, I_d) - torch.einsum("tinjk,tia,tjb->tnakb", B, phi, phi)
dW_dphi = -(
    torch.einsum("tmn,ab->tnamb", s, I_d)
    + torch.einsum("tinmk,kb,tia->tnamb", B, W_0, phi)
    + torch.einsum("tinmj,tjb,tia->tnamb", z, phi, phi)
)

eq10, eq12 = [], []
for t in range(config.tasks):
    walk = {"solver": solver, "gradient": Unrolled()}
    unrolled = lambda p, w, t=t, walk=walk: adapt_head(p[None], y[t : t + 1], w, T, **walk)[0]  # noqa: E731
    of_phi, of_W0 = torch.autograd.functional.jacobian(unrolled, (phi[t], W_0))
    eq10.append(relative_error(dW_dW0[t], of_W0))
    eq12.append(relative_error(dW_dphi[t], of_phi))
checked = pd.DataFrame({"equation 10, 11": eq10, "equation 12": eq12}, index=pd.RangeIndex(config.tasks, name="task"))
checked.map("{:.1e}".format)

# %% [markdown]
# ## Equation 13
# Against central differences in $T$, at three horizons.


# %%
batch, W_0 = few_shot.sample(config.tasks, stream()), few_shot.head(stream("head"))
phi, y = batch.support


def test_loss(phi, W_0, T, batch=batch, **options):
    W_T = adapt_head(phi, batch.support.y, W_0, T, **options)
    return ctml.cross_entropy(batch.query.x @ W_T.mT, batch.query.y).sum()


eq13 = []
for horizon in (0.3, 3.0, 30.0):
    T = seconds(horizon).requires_grad_()
    loss = test_loss(phi, W_0, T, solver=Adaptive(1e-10, 1e-12), gradient=ForwardMode())
    (derivative,) = torch.autograd.grad(loss, T)
    eps, very_tight = 1e-3 * horizon, Adaptive(1e-13, 1e-15)
    after, before = (test_loss(phi, W_0, seconds(horizon + sign * eps), solver=very_tight) for sign in (1, -1))
    eq13.append(float(abs(derivative * 2 * eps / (after - before) - 1)))
pd.Series(eq13, index=pd.Index([0.3, 3.0, 30.0], name="T"), name="relative difference").to_frame()

# %% [markdown]
# ## Four methods, one answer
# Meta-gradients of the test loss by each method, with the same fixed RK4 steps, relative to plain autograd. *Forward* and
# *adjoint* are exact in $\Phi$ and $W_0$. In $T$ the adjoint differentiates the steps and forward mode the flow (equation
# 13): they differ by the solver's error. The textbook adjoint is right to the solver's error as long as $T$ is short.


# %%
def meta_gradients(horizon, solver, gradient):
    """Return the gradients of the test loss in Phi, W_0 and T."""
    leaves = phi.clone().requires_grad_(), W_0.clone().requires_grad_(), seconds(horizon).requires_grad_()
    return torch.autograd.grad(test_loss(*leaves, solver=solver, gradient=gradient), leaves)


rows = []
for steps in (10, 40):
    reference = meta_gradients(config.horizon, FixedSteps(steps), Unrolled())
    for method, gradient in {"adjoint": Adjoint(), "forward": ForwardMode(), "backward_flow": BackwardFlow()}.items():
        found = meta_gradients(config.horizon, FixedSteps(steps), gradient)
        wrong = [relative_error(f, r) for f, r in zip(found, reference, strict=True)]
        rows.append({"RK4 steps": steps, "method": method, **dict(zip(("Phi", "W_0", "T"), wrong, strict=True))})
four = study.table(pd.DataFrame(rows), "four_methods")
four.set_index(["RK4 steps", "method"]).map("{:.1e}".format)

# %% [markdown]
# ## Order of convergence
# The meta-gradient of a scheme of order $p$ converges with order $p$ to that of the flow, as $W(T)$ does: exact
# derivatives of the steps are consistent derivatives of the flow.

# %%
exact_W = adapt_head(phi, y, W_0, seconds(config.horizon), solver=Adaptive(1e-13, 1e-15))
exact_gradient = meta_gradients(config.horizon, Adaptive(1e-13, 1e-15), Adjoint())[0]
rows = []
for tableau in (EULER, MIDPOINT, KUTTA3, RK4, DORMAND_PRINCE):
    for steps in config.steps:
        W = adapt_head(phi, y, W_0, seconds(config.horizon), solver=FixedSteps(steps, tableau))
        gradient = meta_gradients(config.horizon, FixedSteps(steps, tableau), Adjoint())[0]
        errors = {"W": relative_error(W, exact_W), "meta-gradient": relative_error(gradient, exact_gradient)}
        rows.append({"scheme": tableau.name, "order": tableau.order, "steps": steps, **errors})
order = study.table(pd.DataFrame(rows), "order_of_convergence")
looks = {"Euler": "euler", "Kutta 3": "rk3", "RK4": "rk4", "RK2, a2 = 1": "rk2", "Dormand-Prince 5(4)": "comln"}

fig, axes = plt.subplots(1, 2, figsize=style.WIDE, sharey=True)
for ax, column, title in zip(axes, ("W", "meta-gradient"), ("$W(T)$", r"$d\mathcal{L}_{test}/d\Phi$"), strict=True):
    for name, group in order.groupby("scheme", sort=False):
        label = {"label": f"{name.replace('RK2, a2 = 1', 'midpoint')} (order {group['order'].iloc[0]})"}
        ax.plot(config.horizon / group["steps"], group[column], **style.method(looks.get(name, name)).line() | label)
    ax.set(xscale="log", yscale="log", xlabel="step size", title=title, ylim=(1e-15, 1))
axes[0].set_ylabel("relative error")
beside = {"ncols": 5, "fontsize": "small", "handlelength": 1.5, "columnspacing": 1}
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", **beside)
study.figure(
    fig,
    "order_of_convergence",
    f"Relative error of the adapted head and of the meta-gradient against the step size at T = {config.horizon:g}, over "
    f"{config.tasks} tasks together. Ours; the paper has no such figure.",
)


# %%
def order_seen(group, column):
    """Slope where the error is between rounding and saturation."""
    good = group[(group[column] > 1e-12) & (group[column] < 3e-2)]
    return -rates.power(*good[["steps", column]].to_numpy().T).value if len(good) > 2 else np.nan


by_scheme = order.groupby(["scheme", "order"], sort=False)
pd.DataFrame({c: by_scheme.apply(order_seen, c, include_groups=False) for c in ("W", "meta-gradient")}).round(2)

# %% [markdown]
# ## Stability
# The paper states (appendix D, not readable here) that the augmented system is stable. The argument, ours: with
# $\mathcal A=\mathrm{blockdiag}(A_i)$ and $\mathcal G=G\otimes I$, both positive semi-definite,
# $\dot B=\mathcal A(I-\mathcal GB)$. The rates are the eigenvalues of $\mathcal A\mathcal G$, real and non-negative. And with
# $Y=\mathcal G^{1/2}B\,\mathcal G^{1/2}$ one has $\frac{d}{dt}(I-Y)=-\mathcal G^{1/2}\mathcal A\mathcal G^{1/2}(I-Y)$: the
# distance $\lVert I-Y\rVert$ (Frobenius, relative to its start) can only fall from 1.

# %%
tiny = replace(small, d=8)
given = *tiny.sample(1, stream()).support, tiny.head(stream("head"))
horizons = np.logspace(-1, np.log10(config.longest), 11)
rows = [{"T": T, **carried_forward(*given, T, Adaptive(1e-8, 1e-10)).stability()} for T in horizons]
stable = study.table(pd.DataFrame(rows), "stability")
largest_A = 0.5 / (tiny.ways * tiny.shots)  # of any probabilities: diag(p) - p p^T has norm at most 1/2
stable.round(4)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
left.plot(stable["T"], stable["B"], **style.method("comln").line() | {"label": r"$\|B\|$"})
left.plot(stable["T"], stable["z"], "s--", color=style.COLOURS["comln_adjoint"], label=r"$\|z\|$")
left.plot(stable["T"], stable["T"] * largest_A, "k:", label=r"$T\max\|A\|$")
left.set(xscale="log", yscale="log", xlabel="adaptation time $T$", title="sensitivities")
left.legend()
right.plot(stable["T"], stable["contraction"], **style.method("comln").line() | {"label": r"$\|I-Y\|$"})
right.plot(stable["T"], stable["fastest"], "o--", color=style.COLOURS["euler"], label=r"fastest rate at $T$")
right.set(xscale="log", xlabel="adaptation time $T$", ylim=(-0.05, 1.05), title="contraction")
right.legend()
study.figure(
    fig,
    "stability",
    "Left: size of B and z carried forward to T, and the bound. Right: distance of Y from the identity, and the fastest rate "
    "of the system at T, which fades as the head becomes sure of its labels. One 3-way 2-shot task. The paper states stability; here it is measured.",
    where="Appendix D",
)

# %% [markdown]
# ## ANIL is explicit Euler
# Two learners on one network and the same tasks: ANIL, unrolled by autograd in weight space, and COMLN with Euler steps.

# %%
twenty = replace(few_shot, d=20).sample(config.tasks, stream())


def network():
    model = MLP([20, 30, 10, 5], torch.tanh, generator=ctml.generator(seed, "network")).double()
    model.head.bias.data.zero_()
    return model


rows = []
for rate, steps in ((0.1, 1), (0.1, 10), (0.5, 100)):
    anil = ctml.ANIL(network(), ctml.cross_entropy, inner_lr=rate, inner_steps=steps, adapts="head.weight")
    euler = ctml.COMLN(network(), ctml.cross_entropy, horizon=rate * steps, solver=FixedSteps(steps, EULER))
    wrong = relative_error(euler.adapt(twenty.support)["weight"], anil.adapt(twenty.support)["weight"])
    flat = []
    for learner in (euler, anil):
        learner.meta_gradient(twenty)
        named = learner.model.named_parameters()
        flat.append(torch.cat([p.grad.flatten() for name, p in named if name != "head.bias"]))
    rows.append({"rate x steps": f"{rate} x {steps}", "weights": wrong, "meta-gradients": relative_error(*flat)})
walks = pd.DataFrame(rows).set_index("rate x steps")
walks.map("{:.1e}".format)

# %% [markdown]
# ## Learning when to stop
# Only $T$ is learned here, by Adam on $\log T$ with fresh tasks at every step (the same from every start); features and
# head are fixed. From below and from above it finds the time where the mean test loss is least. (With learned features:
# notebook 04.)


# %%
def learn_horizon(start):
    """Return T before the first meta-step and after each."""
    model = MLP([few_shot.d, few_shot.ways]).double().requires_grad_(False)  # no hidden layer: the features are given
    model.head.weight.copy_(W_0)
    learner = ctml.COMLN(model, ctml.cross_entropy, horizon=start)
    history = ctml.meta_train(
        learner, few_shot, optimizer=torch.optim.Adam([learner.log_horizon], lr=0.1), steps=config.meta_steps,
        meta_batch=8, seed=seed, watch={"T": lambda learner: learner.horizon}, watch_every=1, progress=False,
    )  # fmt: skip
    return [T for _, T in history.watched["T"]]


learned = study.map(learn_horizon, [{"start": start} for start in config.starts])
times = torch.logspace(-0.5, 4, 30, dtype=torch.float64)
many = few_shot.sample(40, stream("loss against T"))
curve = [float(test_loss(many.support.x, W_0, T, many) / 40) for T in times]

fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE, sharex=False)
for start, seen, dash in zip(config.starts, learned, ("-", "--", "-.", ":") * 2, strict=False):
    left.plot(seen, color=style.COLOURS["comln"], ls=dash, label=f"from T = {start:g}")
left.axhline(float(times[int(np.argmin(curve))]), color="k", ls=":", label="least test loss")
left.set(yscale="log", xlabel="meta-step", ylabel="adaptation time $T$")
left.legend(fontsize="small")
right.plot(times, curve, color=style.COLOURS["comln"])
right.set(xscale="log", xlabel="adaptation time $T$", ylabel="mean test loss")
study.figure(
    fig,
    "learned_horizon",
    f"Left: T while it is learned, from {len(config.starts)} starts, one run each. Right: the test loss that it descends, mean over 40 synthetic tasks. "
    "The paper reports that T is learned and grows (section 5.1, appendix E.3, not readable here); here it may also shrink.",
)

# %% [markdown]
# ## Claims

# %%
study.claim("comln-eq10", error=eq10)

# %%
study.claim("comln-eq12", error=eq12)

# %%
study.claim("comln-eq13", error=eq13)

# %%
measured = {"rate": stable["slowest"], "imaginary": stable["imaginary"], "contraction": stable["contraction"]}
study.claim("comln-stable", **measured, size_of_B=stable["B"], bound_of_B=stable["T"] * largest_A)

# %%
study.claim("comln-anil", weights_error=walks["weights"], gradient_error=walks["meta-gradients"])

# %% [markdown]
# ## Where this differs from the paper
# - The paper's proofs (appendices B, D) could not be read; the equations are derived again and checked as above.
# - $z$ is indexed $[i,m,j]$ here so that all three sums of equation 12 read alike; the numbers are the same.
# - Forward mode takes the steps that $s$ alone asks for, so its gradients in $\Phi$ and $W_0$ are exact for those steps. The
#   authors' code controls the error of the whole system instead.
#
# ## Variants to try
# - `SET="noise=1"`: classes that are easy to tell apart want a longer time, until no time is too long.
# - In *Order of convergence*, add `THREE_EIGHTHS` or your own `Tableau`: one that has not the order it states is refused.
# - Give `carried_forward` in the stability check `loss=SquaredError()`: the rates no longer fade.
#
# ## Provenance

# %%
study.close()
