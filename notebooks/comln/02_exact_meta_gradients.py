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
# **Answer:** yes. It is made of two small arrays, $B$ and $z$, that are carried forward with the flow (the paper). Or one
# small array is carried back over the steps that were stored (ours). Both equal plain automatic differentiation (autograd)
# to the last digits.
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
import torch.nn.functional as F

import ctml
from ctml.agreement import relative_error
from ctml.companion import Study, choose, plots, style
from ctml.flows import Adaptive, Adjoint, BackwardFlow, FixedSteps, ForwardMode, Unrolled, adapt_head
from ctml.flows.tableaus import DORMAND_PRINCE, EULER, KUTTA3, MIDPOINT, RK4
from ctml.tasks import Embeddings
from ctml.theory import rates
from ctml.theory.comln import carried_forward, growth_of_a_nudge

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
    nudges: int = 20  # ours: random pushes of the state, for the stability check


PAPER = Config()
PRESETS = {
    "paper": PAPER,
    "long": PAPER,
    "quick": replace(PAPER, tasks=5),
    "smoke": replace(PAPER, tasks=2, steps=(4, 8), longest=1e2, nudges=2),
}
config = choose(PRESETS, PRESET, tasks=tasks, noise=noise)
study = Study("comln", "02_exact_meta_gradients", PRESET, {**asdict(config), "seed": seed})
config

# %% [markdown]
# ## The idea
# A task gives $M$ labelled examples to adapt on, its *support set*, and others to be tested on, its *query set*. The
# features $\phi_m$ of the support set are the rows of $\Phi$; their table of inner products $G=\Phi\Phi^\top$ is the *Gram
# matrix*. Notebook 01 writes the adapted head as $W(T)=W_0-s(T)^\top\Phi$: the number $s_{mn}$ says how much of example $m$
# has been taken away from the weights of class $n$. So $W(T)$ depends on $\Phi$ and $W_0$ directly, and through $s$.
#
# How $s$ depends on them is told by two arrays of derivatives:
#
# - $B[i,j]$: how the coefficients of example $i$ move when the starting *logits* (the scores before the softmax) of example
#   $j$ are nudged;
# - $z[i,m,j]$: how the coefficients of example $i$ move when the *similarity* of the examples $m$ and $j$, the entries
#   $G_{mj}$ and $G_{jm}$, is nudged.
#
# Both start at zero. Differentiating $ds_i/dt=(p_i-y_i)/M$ gives linear equations for them, with the same
# $A_i=(\mathrm{diag}(p_i)-p_ip_i^\top)/M$, the derivative of the softmax:
#
# $$\frac{dB[i,j]}{dt}=A_i\Bigl(\mathbb 1_{i=j}I-\sum_kG_{ik}B[k,j]\Bigr),\qquad
# \frac{dz[i,m,j]}{dt}=-A_i\Bigl(\mathbb 1_{i=m}s_j+\mathbb 1_{i=j}s_m+\sum_kG_{ik}z[k,m,j]\Bigr).$$
#
# With them the derivatives of the adapted head are sums of *Kronecker products* ($\otimes$: a matrix of matrices, each entry
# of the first factor times the whole second one), and the derivative in $T$ is one inner product:
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
# Nothing here grows with the number of steps, nor with $d$. **Ours, besides:** keep $s$ as it was before each step ($MN$
# numbers), and go through the steps once more, last first, carrying the derivative of the test loss back over each. Such
# a derivative is called an *adjoint*; see `ctml.flows.gradient_flow.adjoint`.

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
# ## Ten lines
# The three equations, as Euler steps on one 5-way 1-shot task, one line each. The axes of the code are the letters of the
# table above. The package computes the same numbers in another order; they agree to rounding.


# %%
def ten_lines(phi, y, W_0, T, steps):
    """Carry s, B and z forward by Euler steps."""
    (M, _), N, h = phi.shape, len(W_0), T / steps
    G, L_0, Y, I_M, I_N = phi @ phi.T, phi @ W_0.T, F.one_hot(y, N), torch.eye(M).double(), torch.eye(N).double()
    s, B, z = torch.zeros(M, N).double(), torch.zeros(M, N, M, N).double(), torch.zeros(M, N, M, M).double()
    for _ in range(steps):
        p = (L_0 - G @ s).softmax(-1)
        A = (torch.einsum("in,nk->ink", p, I_N) - torch.einsum("in,ik->ink", p, p)) / M
        source_z = torch.einsum("im,jn->inmj", I_M, s) + torch.einsum("ij,mn->inmj", I_M, s)
        dB = torch.einsum(
            "ink,ikjl->injl", A, torch.einsum("ij,kl->ikjl", I_M, I_N) - torch.einsum("im,mkjl->ikjl", G, B)
        )
        dz = -torch.einsum("ink,ikmj->inmj", A, source_z + torch.einsum("il,lkmj->ikmj", G, z))
        s, B, z = s + h * (p - Y) / M, B + h * dB, z + h * dz
    return s, B, z


one_shot = replace(few_shot, shots=1)
phi, y = (part[0] for part in one_shot.sample(1, stream()).support)
W_0 = one_shot.head(stream("head"))
written = ten_lines(phi, y, W_0, config.horizon, 50)
package = carried_forward(phi[None], y[None], W_0, config.horizon, FixedSteps(50, EULER))
ten = {name: relative_error(w, p[0]) for name, w, p in zip("sBz", written, package, strict=False)}
assert max(ten.values()) < 1e-12, ten
pd.Series(ten, name="relative difference").map("{:.1e}".format).to_frame()

# %%
fig, axes = plt.subplots(1, 3, figsize=(style.WIDE[0], 3.2), width_ratios=(1, 2.4, 2.4))
titles = {"s": "class $n$", "B": "logit of example $j$, class $n'$", "z": "similarity of $m$ and $j$"}
for ax, (name, across), array in zip(axes, titles.items(), written, strict=True):
    plots.heat(ax, array.reshape(len(y) * (1 if name == "s" else 5), -1), blocks=0 if name == "s" else 5)
    ax.set(title=f"${name}$", xlabel=across)
axes[0].set_ylabel("example $m$")
axes[1].set_ylabel("coefficient of example $i$, class $n$")
study.figure(
    fig,
    "what_is_carried",
    f"One 5-way 1-shot task at T = {config.horizon:g}. s: each example is taken away from the weights of the wrong classes (red) and "
    "given to its own (blue). B: a nudge of an example's logit moves mostly its own coefficients (diagonal blocks), the others by "
    "way of their similarity. z: rows as in B, a block of columns for each m; it is symmetric in m and j. Ours.",
    where="Equations 10-12",
)

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
looks = {"Euler": "euler", "RK2, a2 = 1": "rk2", "Kutta 3": "rk3", "RK4": "rk4", "Dormand-Prince 5(4)": "comln"}

fig, axes = plt.subplots(1, 2, figsize=style.WIDE, sharey=True)
named = order.assign(h=config.horizon / order["steps"])
lines = {s: style.method(look).line(label=s.replace("RK2, a2 = 1", "midpoint")) for s, look in looks.items()}
for ax, column, title in zip(axes, ("W", "meta-gradient"), ("$W(T)$", r"$d\mathcal{L}_{test}/d\Phi$"), strict=True):
    plots.lines(ax, named, "h", column, "scheme", lines)
    ax.set(
        xscale="log", yscale="log", xlabel="step size", title=f"{title}: errors fall with the order", ylim=(1e-15, 1)
    )
axes[0].set_ylabel("relative error")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
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
# ## Stability: push, and watch
# The paper states (appendix D, not readable here) that the system of $s$, $B$ and $z$ is stable. The argument, ours: put
# $\mathcal A=\mathrm{blockdiag}(A_i)$ and $\mathcal G=G\otimes I$, both positive semi-definite. Then
# $\dot B=\mathcal A(I-\mathcal GB)$ has the rates of $\mathcal A\mathcal G$, which are real and not negative; and in the
# norm $\lVert v\rVert_G=\sqrt{v^\top\mathcal Gv}$ two solutions can only come closer. To see it, the state is pushed at
# $t=0$ at random and followed to $T$ beside the path that was not pushed: once $s$, once $B$ and $z$.
#
# Bounded they are as well. With $\kappa$ the condition number of $G$ (its largest over its least eigenvalue):
# $\lVert B\rVert\le\min(\sqrt\kappa\,T/2M,\ 2/\lambda_{\min}(G))$ and, with no limit in $T$,
# $\lVert z\rVert\le\sqrt{\kappa(1+1/M)}\,T^2/2M$: each has its own bound.

# %%
tiny = replace(small, d=8)
given = *tiny.sample(1, stream()).support, tiny.head(stream("head"))
rows = []
for T in np.logspace(-1, np.log10(config.longest), 11):
    tight = Adaptive(1e-8, 1e-10)
    carried = carried_forward(*given, T, tight)
    growth = growth_of_a_nudge(*given, T, tight, nudges=config.nudges, stream=stream("nudges"))
    bounds = {f"bound of {name}": bound for name, bound in carried.bounds(T).items()}
    rows.append({"T": T, **carried.stability(), **bounds, **{f"push of {name}": g for name, g in growth.items()}})
stable = study.table(pd.DataFrame(rows), "stability")
stable.round(4)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
for name, look in (("B", style.method("comln")), ("z", style.method("comln_adjoint"))):
    left.plot(stable["T"], stable[name], look.marker, ls="-", color=look.color, label=f"size of ${name}$")
    left.plot(stable["T"], stable[f"bound of {name}"], ":", color=look.color, label="its bound")
left.set(
    xscale="log", yscale="log", xlabel="adaptation time $T$", ylim=(1e-4, 1e4), title="both stay below their bounds"
)
for name, look in (("s", "euler"), ("B and z", "comln")):
    right.plot(stable["T"], stable[f"push of {name}"], **style.method(look).line(label=f"push of {name}"))
right.set(xscale="log", xlabel="adaptation time $T$", ylim=(0, 1.1), ylabel="what is left of it", title="no push grows")
left.legend()
right.legend()
study.figure(
    fig,
    "stability",
    "Left: size of B (spectral norm) and z (Frobenius norm) carried forward to T, dotted their bounds. Right: the largest of "
    f"{config.nudges} random pushes at t = 0 that is left at T, relative to its start, in the norm of G. One 3-way 2-shot task. "
    "The paper states stability; here it is tried.",
    where="Appendix D",
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
signs = {name: stable[name] for name in ("imaginary", "contraction")} | {"rate": stable["slowest"]}
size, bound = (stable[[f"{what}{name}" for name in ("B", "z")]].to_numpy() for what in ("", "bound of "))
study.claim("comln-stable", push=stable[["push of s", "push of B and z"]], size=size, bound=bound, **signs)

# %% [markdown]
# ## Where this differs from the paper
# - The paper's proofs (appendices B, D) could not be read; the equations are derived again and checked as above.
# - $z$ is indexed $[i,m,j]$ here so that all three sums of equation 12 read alike; the numbers are the same.
# - Forward mode takes the steps that $s$ alone asks for, so its gradients in $\Phi$ and $W_0$ are exact for those steps. The
#   authors' code controls the error of the whole system instead.
#
# ## The answer in plain words
# The derivative of an adaptation of any length fits into two arrays whose size depends on the support set alone, not on
# the number of steps and not on the width of the network. The equations of the paper hold to rounding. The arrays can be
# carried forward without harm: a push at the start fades. Whether to carry arrays forward or one derivative backward is a matter of cost: notebook 03.
#
# ## Exercises
# 1. Two examples of a task are the same image with the same label. What does $B$ say of a nudge of one's logits and of the
#    other's?
#
# <details><summary>Solution</summary>
#
# The two have equal rows in $G$ and equal logits, so swapping them changes nothing: a nudge of either moves the
# coefficients of all other examples alike.
#
# ```python
# import torch
# from ctml import generator
# from ctml.flows import Adaptive
# from ctml.tasks import Embeddings
# from ctml.theory.comln import carried_forward
#
# tasks = Embeddings(ways=3, shots=2, queries=0, d=8)
# phi, y = tasks.sample(1, generator(0, "tasks")).support
# phi[:, 1] = phi[:, 0]  # the two examples of the first class
# B = carried_forward(phi, y, tasks.head(generator(0, "head")), 10.0, Adaptive(1e-9, 1e-11)).B[0]
# assert torch.allclose(B[2:, :, 0], B[2:, :, 1])
# ```
#
# </details>
#
# 2. Equation 13 is minus an inner product of two gradients. What is the sign of $d\mathcal L/dT$ when the query set is
#    the support set?
#
# <details><summary>Solution</summary>
#
# It is minus the square of the gradient's norm: longer is always better on the data one adapts to. A best time to stop
# exists only because the query set is another one.
#
# ```python
# import torch
# import ctml
# from ctml.flows import adapt_head
# from ctml.tasks import Embeddings
#
# tasks = Embeddings(ways=3, shots=2, queries=0, d=8)
# phi, y = tasks.sample(1, ctml.generator(0, "tasks")).support
# W_0, T = tasks.head(ctml.generator(0, "head")), torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
# W_T = adapt_head(phi, y, W_0, T)
# ctml.cross_entropy(phi @ W_T.mT, y).sum().backward()
# slope = ((phi @ W_T.mT).softmax(-1) - torch.nn.functional.one_hot(y, 3)).mT @ phi / 6
# assert torch.isclose(T.grad, -slope.square().sum(), rtol=1e-3)
# ```
#
# </details>
#
# 3. Reverse the sign of the system of $s$, $B$ and $z$, as the textbook adjoint does with the path. Does a push still fade?
#
# <details><summary>Solution</summary>
#
# It grows, at the rates at which it faded before.
#
# ```python
# from ctml import generator
# from ctml.flows import Adaptive
# from ctml.flows.gradient_flow.forward import Sensitivities
# from ctml.tasks import Embeddings
# from ctml.theory.comln import growth_of_a_nudge
#
#
# class Reversed(Sensitivities):
#     def slope(self, state, out):
#         super().slope(state, out)
#         out.neg_()
#
#
# tasks = Embeddings(ways=3, shots=2, queries=0, d=8)
# given = *tasks.sample(1, generator(0, "tasks")).support, tasks.head(generator(0, "head"))
# options = {"solver": Adaptive(1e-6, 1e-8), "nudges": 5}
# forward, backward = (
#     growth_of_a_nudge(*given, 10.0, stream=generator(0, "nudges"), system=system, **options)
#     for system in (Sensitivities, Reversed)
# )
# assert max(forward.values()) < 1 < 2 < min(backward.values())
# ```
#
# </details>
#
# More to vary: `SET="noise=1"`; in *Order of convergence* add `THREE_EIGHTHS` or your own `Tableau`; one that has not the
# order it states is refused.
#
# ## Provenance

# %%
study.close()
