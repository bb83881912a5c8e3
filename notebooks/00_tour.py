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
# # A tour: five papers on one page, and the package in five minutes
#
# *Executed, with its figures and verdicts:* [results/quick/00_tour](../results/quick/00_tour/00_tour.ipynb)
#
# **What this is** A companion to five papers that look at gradient-based meta-learning as a differential equation, or ask how
# it converges. Each of them has notebooks of its own beside this one; here is one picture of each, made on the spot, then
# MAML trained on sinusoids, then a new learner written in a dozen lines.
#
# **Answer in one line** Gradient descent is a flow sampled in steps: outside (MAML as an Euler scheme) and inside
# (adaptation as a flow), and looking at it so tells how to integrate it better and how to differentiate it.
#
# | preset | hardware | minutes |
# |---|---|---|
# | `smoke` | one core | < 1 |
# | `quick` | 2 cores | about 1 |
# | `long` | 2 cores, as `paper` | 30 |
# | `paper` | as `quick`, 70,000 meta-steps as in Finn et al. | 30 |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, replace

import matplotlib.pyplot as plt
import pandas as pd
import torch

import ctml
from ctml.companion import Study, choose, plots, style
from ctml.flows import FixedSteps, adapt_head
from ctml.flows.maml_field import maml_field, maml_loss
from ctml.flows.maml_flow import flow
from ctml.flows.tableaus import EULER, KUTTA3, MIDPOINT, RK4
from ctml.tasks import Cosine, Embeddings, LogisticRidge, Quadratic, Sinusoid
from ctml.theory import rk_maml
from ctml.theory.anil import curvature
from ctml.theory.anil_instances import QuadraticTasks
from ctml.theory.fo_b_maml import QSuite

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seed = 0  # >= 0: of every random draw
meta_steps: int | None = None  # >= 1: outer steps

# %% [markdown]
# ## 3 Configuration
#
# Sinusoids as in Finn et al. 2017: 10 support points, one inner step of 0.01, meta-batches of 25 tasks, Adam with 0.001.
# How many meta-steps is *ours* except at `paper`.


# %%
@dataclass(frozen=True)
class Config:
    meta_steps: int = 70_000
    meta_batch: int = 25
    inner_lr: float = 0.01
    outer_lr: float = 1e-3
    test_tasks: int = 1000  # *ours*


PAPER = Config()
SMOKE = replace(PAPER, meta_steps=20, test_tasks=20)
PRESETS = {"paper": PAPER, "long": PAPER, "quick": replace(PAPER, meta_steps=3000), "smoke": SMOKE}
config = choose(PRESETS, PRESET, meta_steps=meta_steps)
study = Study("", "00_tour", PRESET, asdict(config))


def show(fig, name, caption):
    """Save the figure of one paper, each line named at its end."""
    plots.name_lines(fig.axes[0])
    study.figure(fig, name, caption, where=name)


config

# %% [markdown]
# ## 4 The ideas, and a picture of each
#
# ### Xu, Chen, Karbasi: meta-training is a flow
#
# With one inner step of size $\alpha$ the MAML loss is $F(w)=\tfrac1M\sum_i f_i(w-\alpha\nabla f_i(w))$. Gradient descent on
# it, $w_{k+1}=w_k-\beta\nabla F(w_k)$, is Euler's method for the *MAML ODE* $\dot w=-\nabla F(w)$. The flow has no step size:
# it is what all small steps $\beta$ have in common.

# %%
hessian, stream = torch.tensor([[2.4, 2.68], [2.68, 4.0]]).double(), ctml.generator(seed, "tour quadratics")
tasks = Quadratic(hessian.expand(5, 2, 2), torch.randn(5, 2, generator=stream, dtype=torch.float64))
alpha, starts = 0.05, torch.tensor([[3.0, 3.0], [-3.0, 2.5], [2.5, -3.0]], dtype=torch.float64)
field = maml_field(tasks, alpha)
smooth = flow(field, starts, torch.linspace(0, 15, 400, dtype=torch.float64))

fig, ax = plt.subplots(figsize=style.NARROW, layout="constrained")
x = torch.linspace(-3.5, 3.5, 80, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)
ax.contour(x, x, maml_loss(tasks, alpha, grid), 18, colors="0.8", linewidths=0.6)
ax.plot(*smooth.permute(2, 0, 1), color=style.COLOURS["maml_flow"], lw=2.5)
for beta, look, some in ((0.1, "o", starts), (0.6, "x-", starts[:1])):
    steps = flow(field, some, beta * torch.arange(12).double(), method="euler")
    ax.plot(*steps.permute(2, 0, 1), look, ms=4, lw=0.8, color=style.COLOURS["maml"])
    ax.annotate(rf"$\beta={beta}$", steps[1, 0], (6, -10), textcoords="offset points", color=style.COLOURS["maml"])
ax.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), title="MAML's steps sample a flow")
show(
    fig,
    "maml_ode",
    "The MAML loss of five quadratic tasks (level lines), its gradient flow from three points (green), and eleven of MAML's own "
    "steps (blue) at two step sizes: the smaller from all three points, the larger from one. More in `maml_ode/01`.",
)

# %% [markdown]
# ### Im, Jiang, Verma: MAML as a Runge-Kutta method
#
# If a step is a scheme for $\dot\theta=-\nabla L(\theta)$, it has an order: how fast its error vanishes with the step $h$. On one
# task FO-MAML, $\theta^{+}=\theta-h\nabla L(\theta-\alpha\nabla L(\theta))$ with $\alpha=h/2$, *is* the explicit midpoint rule: order 2, a member
# of the family $a_1+a_2=1$, $a_2q=\tfrac12$.

# %%
task = LogisticRidge.draw(1, ctml.generator(seed, "tour orders"))
start, counts = torch.full((5,), 3.0, dtype=torch.float64), [4, 8, 16, 32, 64]
fig, ax = plt.subplots(figsize=style.NARROW, layout="constrained")
for key, tableau in {"euler": EULER, "rk2": MIDPOINT, "rk3": KUTTA3, "rk4": RK4}.items():
    look, errors = style.method(key).line(), rk_maml.errors(task, start, 2.0, counts, tableau)
    ax.loglog([2 / n for n in counts], errors, **look | {"label": f"{look['label']}: order {tableau.order}"})
ax.set_xscale("log", base=2)
ax.set(xlabel="step $h$", ylabel="error at time 2", title="every line falls with its order")
show(
    fig,
    "rk_maml",
    "Distance from the gradient flow of one logistic task after time 2, against the step: each line falls with its order. Euler "
    "is gradient descent, RK2-MAML here FO-MAML. More in `rk_maml/01`, among it what becomes of the order with many tasks.",
)

# %% [markdown]
# ### Deleu et al.: adaptation is a flow too
#
# COMLN adapts a linear head on embeddings $\phi_m$ by $\dot W=-\nabla L(W)$ for a time $T$ that is itself learned; ANIL is Euler's
# method for it. The whole adaptation is a function of the support set's Gram matrix, so gradients with respect to
# embeddings, $W_0$ and $T$ cost little memory, however long the flow runs.

# %%
task = Embeddings(shots=5, queries=100, d=20, noise=1.5, scale=1.5).sample(1, ctml.generator(seed, "tour flow"))
(support, labels), (query, query_labels), head = task.support, task.query, torch.zeros(5, 20, dtype=torch.float64)


def query_loss(T, **options):
    """The loss after each of some times T: one task, many horizons that go through the flow together."""
    adapted = adapt_head(support.expand(len(T), -1, -1), labels.expand(len(T), -1), head, T, **options)
    return ctml.cross_entropy(query @ adapted.mT, query_labels.expand(len(T), -1))


horizons = torch.logspace(-2, 2, 60, dtype=torch.float64, requires_grad=True)
losses = query_loss(horizons)
(slopes,) = torch.autograd.grad(losses.sum(), horizons)
alpha, euler_steps = 0.5, torch.tensor([1, 2, 4, 8, 16, 32, 64])
anil = [float(query_loss(alpha * n.double()[None], solver=FixedSteps(int(n), EULER))) for n in euler_steps]
best = horizons.detach()[losses.argmin()]

fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE, layout="constrained")
left.semilogx(horizons.detach(), losses.detach(), color=style.COLOURS["comln"], label="COMLN's\nflow")
left.semilogx(alpha * euler_steps, anil, **style.method("anil").line(linestyle="", label=f"ANIL,\nsteps of {alpha}"))
left.axvline(best, color="0.6", ls=":", lw=1, label="_")
left.set(xlabel="horizon $T$", ylabel="query loss", title=f"least at T = {float(best):.1f}")
right.semilogx(horizons.detach(), horizons.detach() * slopes, color=style.COLOURS["comln"])
right.axhline(0, color="0.6", lw=0.8)
right.axvline(best, color="0.6", ls=":", lw=1)
right.set(xlabel="horizon $T$", ylabel=r"$\partial L_{\rm query}/\partial\log T$", title="where its derivative is 0")
show(
    fig,
    "comln",
    "One 5-way 5-shot task of synthetic embeddings. Left: the query loss against how long the head flows; ANIL's steps lie on the curve "
    "as far as Euler follows it. Right: the exact derivative by which COMLN learns $T$, 0 where the loss is least. More in `comln/01`.",
)

# %% [markdown]
# ### Chayti, Jaggi: a meta-gradient without second derivatives
#
# Adapt by $\phi(\theta)=\arg\min_\phi \hat f(\phi)+\tfrac\lambda2\lVert\phi-\theta\rVert^2$ and let $\phi_\nu$ solve the same problem with $\nu f$ added. Then
# $\nabla F(\theta)=-\lambda\,\frac{d}{d\nu}\phi_\nu\big|_{\nu=0}$: a difference quotient of two solves is a meta-gradient, with a bias that can be made small;
# FO-MAML's cannot.

# %%
suite, theta, lam = QSuite.draw(8, 10, ctml.generator(seed, "tour perturbed")), torch.zeros(10).double(), 1.0
truth, nus = suite.meta_gradient(theta, lam).mean(0), torch.logspace(-4, -0.5, 15)[:, None]


def mean_solution(sign):
    return torch.stack([suite.perturbed_solution(theta, lam, sign * float(nu)).mean(0) for nu in nus])


behind, here, ahead = map(mean_solution, (-1, 0, 1))
estimates = {"forward": lam * (here - ahead) / nus, "symmetric": lam * (behind - ahead) / (2 * nus)}
fo_maml = torch.einsum("tde,te->td", suite.B, suite.perturbed_solution(theta, lam, 0.0) - suite.b).mean(0)

fig, ax = plt.subplots(figsize=style.NARROW, layout="constrained")
for (name, found), dash in zip(estimates.items(), ("--", "-"), strict=True):
    error = (found - truth).norm(dim=1) / truth.norm()
    ax.loglog(nus, error, color=style.COLOURS["fo_b_maml"], ls=dash, label=f"FO-B-MAML,\n{name}")
ax.axhline(float((fo_maml - truth).norm() / truth.norm()), **style.method("fo_maml").line() | {"marker": ""})
ax.set(xlabel=r"perturbation $\nu$", ylabel="relative error", title="one bias can be made small")
show(
    fig,
    "fo_b_maml",
    "Error of first-order meta-gradients on eight quadratic tasks with known solution: the forward quotient's bias falls like "
    r"$\nu$, the symmetric one's like $\nu^2$, FO-MAML's stays. More in `fo_b_maml/01`.",
)

# %% [markdown]
# ### Ji, Lee, Liang, Poor: what the inner loop's geometry does
#
# ANIL adapts part of the parameters, $w$. Where the inner loss is strongly convex in $w$, more inner steps $N$ make tasks forget
# where they started: the meta-objective's curvature in $w$ dies out like $(1-\alpha\mu)^{2N}$. Where it is nonconvex, curvature can grow like
# $(1+\alpha L)^{2N}$, and outer steps must shrink.

# %%
inner_steps = torch.tensor([1, 2, 3, 5, 7, 10])
convex = QuadraticTasks.draw(ctml.generator(seed, "tour geometry"))
origin = torch.zeros(1, 6, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
top = torch.linspace(-3, 3, 201, dtype=torch.float64)[:, None], torch.zeros(201, 0, dtype=torch.float64)
fig, ax = plt.subplots(figsize=style.NARROW, layout="constrained")
falls = [float(curvature(convex, *origin, 0.5, int(n)).ww.max()) for n in inner_steps]
grows = [float(curvature(Cosine.of(0.3), *top, 0.3, int(n)).ww.max()) for n in inner_steps]
look = style.method("anil").line()
ax.semilogy(inner_steps, falls, **look | {"label": "strongly convex"})
ax.semilogy(inner_steps, grows, **look | {"label": "nonconvex", "linestyle": "--", "marker": "v"})
ax.set(xlabel="inner steps $N$", ylabel=r"greatest $|\partial^2F/\partial w^2|$", title="it forgets, or amplifies")
show(
    fig,
    "anil",
    r"Curvature of the meta-objective in the adapted parameters against inner steps: five strongly convex quadratic tasks ($\alpha=0.5$), and "
    r"$L_S=\cos w$ ($\alpha=0.3$, greatest over $|w|\leq 3$). More in `anil/01`.",
)

# %% [markdown]
# ## 5 The package in five minutes: MAML on sinusoids
#
# A **task distribution** draws meta-batches, a **model** works on a batch of tasks at once, a **learner** says how to adapt and
# what its meta-gradient is, and `meta_train` and `meta_test` work for every learner. A task here is a sinusoid of random amplitude
# and phase, known by ten points. These four verbs are all that a learner has to know:


# %%
def sinusoid_learner(make):
    model = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(seed, "initial weights"))
    return make(model, ctml.mse, inner_lr=config.inner_lr, inner_steps=1)


learner = sinusoid_learner(ctml.MAML)
batch = Sinusoid(shots=10).sample(4, ctml.generator(seed, "four tasks"))
adapted = learner.adapt(batch.support)  # each task's own parameters
outputs = learner.predict(adapted, batch.query.x, batch.support.x)  # needs no labels
losses = learner.meta_loss(batch)  # one per task, differentiable through the adaptation
learner.meta_gradient(batch)  # fills .grad with the mean of the tasks' meta-gradients; an optimiser does the rest
pd.DataFrame({"loss of predict": ctml.mse(outputs, batch.query.y).tolist(), "meta_loss": losses.tolist()})


# %% [markdown]
# `meta_train` takes such a gradient and an optimiser's step again and again; `meta_test` adapts to tasks that training never saw.


# %%
def train(make, checkpoint):
    """Meta-train one learner and meta-test it after 0 to 10 inner steps."""
    learner = sinusoid_learner(make)
    optimizer = torch.optim.Adam(learner.parameters(), config.outer_lr)
    history = ctml.meta_train(
        learner, Sinusoid(shots=10), optimizer=optimizer, steps=config.meta_steps, meta_batch=config.meta_batch, seed=seed,
        checkpoint=checkpoint, progress=False,
    )  # fmt: skip
    tests, options = Sinusoid(shots=10, queries=100), {"n_tasks": config.test_tasks, "metric": ctml.mse}
    scores = {k: ctml.meta_test(learner, tests, inner_steps=k, **options).scores.tolist() for k in (0, 1, 2, 5, 10)}
    return {"loss": history.loss, "test": scores, "weights": learner.state_dict()}


# %% [markdown]
# ## 6 A new learner in a dozen lines
#
# Meta-SGD (Li et al. 2017) learns a step size for every parameter along with the initialisation. All that differs from MAML
# is the inner step, so that is all there is to override: `gradient` keeps the graph wherever the meta-gradient needs it, and
# batching, exact second-order meta-gradients, training and testing come with it.


# %%
class MetaSGD(ctml.MAML):
    """MAML with a learned step size for every parameter: theta - rate * grad L_S(theta)."""

    def __init__(self, model, loss, *, inner_lr, **options):
        super().__init__(model, loss, inner_lr=inner_lr, **options)
        self.rates = torch.nn.ParameterList(torch.full_like(p, inner_lr) for p in model.parameters())

    def inner_step(self, params, support, step):
        gradient = self.gradient(params, support)
        return {k: v - rate * gradient[k] for (k, v), rate in zip(params.items(), self.rates, strict=True)}


# %%
LEARNERS = {"maml": ctml.MAML, "meta_sgd": MetaSGD}
results = dict(zip(LEARNERS, study.map(train, [{"make": make} for make in LEARNERS.values()]), strict=True))

tested = [(name, k, torch.tensor(s)) for name, result in results.items() for k, s in result["test"].items()]
rows = [(name, k, float(s.mean()), ctml.interval(s).half_width, len(s)) for name, k, s in tested]
rows = pd.DataFrame(rows, columns=["learner", "inner_steps", "mse", "ci95_over_tasks", "tasks"])
study.table(rows, "metrics")
rows.pivot(index="inner_steps", columns="learner", values="mse").round(3)

# %%
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.0), layout="constrained")
window = max(1, config.meta_steps // 60)
for name, result in results.items():
    smooth, look = pd.Series(result["loss"]).rolling(window).mean(), style.method(name).line()
    left.plot(smooth, **look | {"marker": ""})
    of = rows[rows.learner == name]
    middle.errorbar(of.inner_steps, of.mse, yerr=of.ci95_over_tasks, capsize=2, **look)
left.set(xlabel="meta-steps", ylabel="meta-training loss", title="while training")
title = "after one step: {:.2f} and {:.2f}".format(*rows[rows.inner_steps == 1].mse)
plots.name_lines(left)
middle.set(xlabel="inner steps at meta-test", ylabel="mean squared error", ylim=(0, None), title=title)
lost = [k for name, k, s in tested if name == "meta_sgd" and not (s.isfinite().all() and s.mean() < 10)]

learner.load_state_dict(results["maml"]["weights"])
task = Sinusoid(shots=10, queries=200).sample(1, ctml.generator(seed, "tour task"))
order = task.query.x[0, :, 0].argsort()
x, truth = (t[0, order, 0] for t in task.query)
with torch.no_grad():
    for k, shade in ((0, 0.25), (1, 0.55), (10, 1.0)):
        y = learner.predict(learner.with_inner_steps(k).adapt(task.support), task.query.x, task.support.x)
        right.plot(x, y[0, order, 0], color=style.COLOURS["maml"], alpha=shade, label=f"{k} steps")
right.plot(x, truth, color="0.4", ls=":", label="truth")
right.plot(task.support.x[0, :, 0], task.support.y[0, :, 0], "k.", label="support")
right.set(xlabel="$x$", ylabel="$y$", ylim=(-5.5, 8), title="one task, adapted")
right.legend(fontsize="xx-small", loc="upper left", ncols=2)
study.figure(
    fig,
    "sinusoids",
    f"MAML and the learner above on sinusoids, one seed. Left: meta-training loss, means over {window} meta-steps. Middle: error on "
    f"{config.test_tasks} unseen tasks, 95% intervals; Meta-SGD learns its step sizes for one step, more diverge (after {lost} not drawn). Right: MAML on one task.",
)

# %% [markdown]
# ## 7 Where to go next
#
# | paper | first notebook | and then |
# |---|---|---|
# | Xu, Chen, Karbasi | [the flow](maml_ode) | strongly convex tasks, BI-MAML |
# | Im, Jiang, Verma | [MAML is a Runge-Kutta method](rk_maml) | sinusoids, classification, reinforcement learning |
# | Deleu et al. | [the flow of the head](comln) | exact meta-gradients, memory and time, accuracy |
# | Chayti, Jaggi | [a meta-gradient from two solves](fo_b_maml) | who converges where, generalised smoothness, MNIST-1D |
# | Ji, Lee, Liang, Poor | [theory on known instances](anil) | experiments, cost |
# | all learners on the same tasks | [Omniglot](side_by_side/01_omniglot.ipynb) | |
#
# **Variants to try here** more meta-steps (`make reproduce NB=00_tour SET="meta_steps=20000"`), another seed (`SET="seed=1"`), first-order
# MAML (`order="first"` in `sinusoid_learner`), your own `inner_step`.
#
# ## 8 Provenance

# %%
study.close()
