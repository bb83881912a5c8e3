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
# | `paper` | as `quick`, 70,000 meta-steps as in Finn et al. | 30 |

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

import ctml
from ctml.companion import Study, choose, style
from ctml.flows import FixedSteps, adapt_head
from ctml.flows.maml_field import maml_field
from ctml.flows.maml_flow import flow
from ctml.flows.tableaus import EULER, KUTTA3, MIDPOINT, RK4
from ctml.models import MLP
from ctml.tasks import Cosine, Quadratic, Sinusoid
from ctml.theory.anil import curvature
from ctml.theory.anil_instances import QuadraticTasks
from ctml.theory.fo_b_maml import QSuite

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"
seed = 0
meta_steps: int | None = None

# %% [markdown]
# ## 3 Configuration
#
# Sinusoids as in Finn et al. 2017: 10 support points, one inner step of 0.01, meta-batches of 25 tasks, Adam with 0.001.
# How many meta-steps is *ours* except at `paper`.


# %%
@dataclass(frozen=True)
class Config:
    meta_steps: int
    test_tasks: int
    meta_batch: int = 25
    inner_lr: float = 0.01
    outer_lr: float = 1e-3


PRESETS = {"smoke": Config(20, 20), "quick": Config(3000, 1000), "paper": Config(70_000, 1000)}
config = choose(PRESETS, PRESET, meta_steps=meta_steps)
study = Study("", "00_tour", PRESET, asdict(config))
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
stream = ctml.generator(seed, "tour quadratics")
axes, _ = torch.linalg.qr(torch.randn(2, 2, generator=stream, dtype=torch.float64))
hessian = axes @ torch.diag(torch.tensor([0.4, 6.0], dtype=torch.float64)) @ axes.T
tasks = Quadratic(hessian.expand(5, 2, 2), torch.randn(5, 2, generator=stream, dtype=torch.float64))
alpha = 0.05
field = maml_field(tasks, alpha)
starts = torch.tensor([[3.0, 3.0], [-3.0, 2.5], [2.5, -3.0]], dtype=torch.float64)
smooth = flow(field, starts, torch.linspace(0, 15, 400, dtype=torch.float64))

fig, ax = plt.subplots(figsize=style.NARROW, layout="constrained")
x = torch.linspace(-3.5, 3.5, 80, dtype=torch.float64)
grid = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)
adapted = grid[..., None, :] - alpha * tasks.gradient(grid)
ax.contour(x, x, tasks.query(adapted).mean(-1), 18, colors="0.8", linewidths=0.6)
for i, start in enumerate(starts):
    ax.plot(*smooth[:, i].T, color=style.COLOURS["maml_flow"], label="MAML ODE" if i == 0 else None)
    for beta, marker in ((0.1, "."), (0.6, "x")):
        path = [start]
        for _ in range(25):
            path.append(path[-1] + beta * field(path[-1]))
        label = rf"MAML, $\beta={beta}$" if i == 0 else None
        ax.plot(*torch.stack(path).T, marker=marker, ms=4, lw=0.5, color=style.COLOURS["maml"], label=label)
ax.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
ax.grid(False)
ax.legend(fontsize="x-small", loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")
study.figure(
    fig,
    "maml_ode",
    "The MAML loss of five quadratic tasks (level lines), its gradient flow from three points, and MAML's own steps at two step "
    "sizes: the smaller follows the flow, the larger jumps across the valley. More in `maml_ode/01`.",
    where="maml_ode",
)

# %% [markdown]
# ### Im, Jiang, Verma: MAML as a Runge-Kutta method
#
# If a step is a scheme for $\dot\theta=-\nabla L(\theta)$, it has an order: how fast its error vanishes with the step $h$. On one
# task FO-MAML, $\theta^{+}=\theta-h\nabla L(\theta-\alpha\nabla L(\theta))$ with $\alpha=h/2$, *is* the explicit midpoint rule: order 2, a member
# of the family $a_1+a_2=1$, $a_2q=\tfrac12$.


# %%
def integrate(tableau, steps, horizon=2.0):
    """Take Runge-Kutta steps down the loss of a small logistic regression, in float64."""
    stream = ctml.generator(seed, "tour orders")
    data = torch.randn(20, 3, generator=stream, dtype=torch.float64)
    theta, h = torch.ones(3, dtype=torch.float64), horizon / steps

    def slope(w):
        return -data.T @ torch.tanh(data @ w - data[:, 0]) / 20  # log-cosh regression

    for _ in range(steps):
        k = []
        for row in tableau.a:
            k.append(slope(theta + h * sum((float(a) * k_j for a, k_j in zip(row, k, strict=True)), torch.zeros(3))))
        theta = theta + h * sum(float(b) * k_j for b, k_j in zip(tableau.b, k, strict=True))
    return theta


exact = integrate(RK4, 4000)
counts = torch.tensor([4, 8, 16, 32, 64])
schemes = {"euler": EULER, "rk2": MIDPOINT, "rk3": KUTTA3, "rk4": RK4}
fig, ax = plt.subplots(figsize=style.NARROW, layout="constrained")
for key, tableau in schemes.items():
    errors = [float((integrate(tableau, int(n)) - exact).norm()) for n in counts]
    label = {"euler": "gradient descent", "rk2": "FO-MAML"}.get(key, tableau.name)
    line = style.METHODS.get(key, style.METHODS["rk4"]).line() | {"label": f"{label} (order {tableau.order})"}
    ax.loglog(2.0 / counts, errors, **line | ({"marker": "x", "linestyle": ":"} if key == "rk3" else {}))
ax.set_xscale("log", base=2)
ax.set(xlabel="step $h$", ylabel="error at time 2")
ax.legend(fontsize="x-small")
study.figure(
    fig,
    "rk_maml",
    "Distance from the gradient flow of one log-cosh regression task after time 2, against the step: each line falls with its "
    "order. More in `rk_maml/01`, among it what becomes of the order with many tasks.",
    where="rk_maml",
)

# %% [markdown]
# ### Deleu et al.: adaptation is a flow too
#
# COMLN adapts a linear head on embeddings $\phi_m$ by $\dot W=-\nabla L(W)$ for a time $T$ that is itself learned; ANIL is Euler's
# method for it. The whole adaptation is a function of the support set's Gram matrix, so gradients with respect to
# embeddings, $W_0$ and $T$ cost little memory, however long the flow runs.

# %%
stream = ctml.generator(seed, "tour flow")
means = torch.randn(5, 20, generator=stream, dtype=torch.float64)


def embed(shots):
    noise = 1.5 * torch.randn(5, shots, 20, generator=stream, dtype=torch.float64)
    return (means[:, None] + noise).flatten(0, 1)[None], torch.arange(5).repeat_interleave(shots)[None]


(support, labels), (query, query_labels) = embed(5), embed(100)
horizons = torch.logspace(-2, 2, 60, dtype=torch.float64, requires_grad=True)
head = torch.zeros(5, 20, dtype=torch.float64)


def query_loss(adapted):
    return ctml.cross_entropy(query @ adapted.mT, query_labels.expand(len(adapted), -1))


many = len(horizons)  # one task, sixty horizons: they go through the flow together
adapted = adapt_head(support.expand(many, -1, -1), labels.expand(many, -1), head, horizons)
losses = query_loss(adapted)
(slopes,) = torch.autograd.grad(losses.sum(), horizons)
alpha, euler_steps = 0.5, torch.tensor([1, 2, 4, 8, 16, 32, 64])
anil = torch.stack(
    [
        query_loss(adapt_head(support, labels, head, alpha * n.double(), solver=FixedSteps(int(n), EULER)))[0]
        for n in euler_steps
    ]
)
best = horizons.detach()[losses.argmin()]

fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE, layout="constrained")
left.semilogx(horizons.detach(), losses.detach(), color=style.COLOURS["comln"], label="COMLN's flow")
left.semilogx(
    alpha * euler_steps, anil.detach(), **style.method("anil").line() | {"linestyle": "", "label": "ANIL, steps of 0.5"}
)
left.axvline(best, color="0.6", ls=":", lw=1)
left.set(xlabel="horizon $T$", ylabel="query loss")
left.legend(fontsize="x-small")
right.semilogx(horizons.detach(), horizons.detach() * slopes, color=style.COLOURS["comln"])
right.axhline(0, color="0.6", lw=0.8)
right.axvline(best, color="0.6", ls=":", lw=1)
right.set(xlabel="horizon $T$", ylabel=r"$\partial L_{\rm query}/\partial\log T$")
study.figure(
    fig,
    "comln",
    "One 5-way 5-shot task of Gaussian embeddings. Left: the query loss against how long the head flows; ANIL's steps lie on the "
    "curve as far as Euler follows it. Right: the exact derivative by which COMLN learns $T$; it changes sign where the loss is least "
    "(dotted). More in `comln/01`.",
    where="comln",
)

# %% [markdown]
# ### Chayti, Jaggi: a meta-gradient without second derivatives
#
# Adapt by $\phi(\theta)=\arg\min_\phi \hat f(\phi)+\tfrac\lambda2\lVert\phi-\theta\rVert^2$ and let $\phi_\nu$ solve the same problem with $\nu f$ added. Then
# $\nabla F(\theta)=-\lambda\,\frac{d}{d\nu}\phi_\nu\big|_{\nu=0}$: a difference quotient of two solves is a meta-gradient, with a bias that can be made small;
# FO-MAML's cannot.

# %%
suite, lam = QSuite.draw(8, 10, ctml.generator(seed, "tour perturbed")), 1.0
theta = torch.zeros(10, dtype=torch.float64)
truth = suite.meta_gradient(theta, lam).mean(0)
solution = suite.perturbed_solution(theta, lam, 0.0)
steps = torch.logspace(-4, -0.5, 15, dtype=torch.float64)
ahead, behind = (
    torch.stack([suite.perturbed_solution(theta, lam, float(sign * nu)).mean(0) for nu in steps]) for sign in (1, -1)
)
bias = {
    "forward": (lam * (solution.mean(0) - ahead) / steps[:, None] - truth).norm(dim=1),
    "symmetric": (lam * (behind - ahead) / (2 * steps[:, None]) - truth).norm(dim=1),
}
fo_maml = torch.einsum("tde,te->td", suite.B, solution - suite.b).mean(0)

fig, ax = plt.subplots(figsize=style.NARROW, layout="constrained")
for (name, values), dash in zip(bias.items(), ("--", "-"), strict=True):
    ax.loglog(steps, values / truth.norm(), color=style.COLOURS["fo_b_maml"], ls=dash, label=f"FO-B-MAML, {name}")
ax.axhline(float((fo_maml - truth).norm() / truth.norm()), **style.method("fo_maml").line() | {"marker": ""})
ax.set(xlabel=r"perturbation $\nu$", ylabel="relative error")
ax.legend(fontsize="x-small")
study.figure(
    fig,
    "fo_b_maml",
    "Error of first-order meta-gradients on eight quadratic tasks with known solution: the forward quotient's bias falls like "
    r"$\nu$, the symmetric one's like $\nu^2$, FO-MAML's stays. More in `fo_b_maml/01`.",
    where="fo_b_maml",
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
ax.semilogy(inner_steps, falls, **style.method("anil").line() | {"label": "strongly convex"})
ax.semilogy(
    inner_steps, grows, **style.method("anil").line() | {"label": "nonconvex", "linestyle": "--", "marker": "v"}
)
ax.set(xlabel="inner steps $N$", ylabel=r"greatest $|\partial^2F/\partial w^2|$")
ax.legend(fontsize="x-small")
study.figure(
    fig,
    "anil",
    r"Curvature of the meta-objective in the adapted parameters against inner steps: five strongly convex quadratic tasks ($\alpha=0.5$), and "
    r"$L_S=\cos w$ ($\alpha=0.3$, greatest over $|w|\leq 3$). More in `anil/01`.",
    where="anil",
)

# %% [markdown]
# ## 5 The package in five minutes: MAML on sinusoids
#
# A **task distribution** draws meta-batches, a **model** works on a batch of tasks at once, a **learner** says how to adapt and
# what its meta-gradient is, and `meta_train` and `meta_test` work for every learner. A task here is a sinusoid of random amplitude
# and phase, known by ten points.


# %%
def sinusoid_learner(make):
    model = MLP([1, 40, 40, 1], generator=ctml.generator(seed, "initial weights"))
    return make(model, ctml.mse, inner_lr=config.inner_lr, inner_steps=1)


def train(make, checkpoint):
    """Meta-train one learner and meta-test it after 0 to 10 inner steps."""
    learner = sinusoid_learner(make)
    history = ctml.meta_train(
        learner,
        Sinusoid(shots=10),
        optimizer=torch.optim.Adam(learner.parameters(), config.outer_lr),
        steps=config.meta_steps,
        meta_batch=config.meta_batch,
        seed=seed,
        checkpoint=checkpoint,
        progress=False,
    )
    tests = {
        k: ctml.meta_test(
            learner, Sinusoid(shots=10, queries=100), n_tasks=config.test_tasks, metric=ctml.mse, inner_steps=k
        )
        for k in (0, 1, 2, 5, 10)
    }
    return {
        "loss": history.loss,
        "test": {k: result.scores.tolist() for k, result in tests.items()},
        "weights": {k: v.tolist() for k, v in learner.state_dict().items()},
    }


# %% [markdown]
# ## 6 A new learner in a dozen lines
#
# Meta-SGD (Li et al. 2017) learns a step size for every parameter along with the initialisation. All that differs from MAML
# is the inner step; batching, exact second-order meta-gradients, training and testing come with it.


# %%
class MetaSGD(ctml.MAML):
    """MAML with a learned step size for every parameter: theta - rate * grad L_S(theta)."""

    def __init__(self, model, loss, *, inner_lr, **options):
        super().__init__(model, loss, inner_lr=inner_lr, **options)
        rates = {k.replace(".", "/"): nn.Parameter(torch.full_like(p, inner_lr)) for k, p in model.named_parameters()}
        self.rates = nn.ParameterDict(rates)

    def inner_step(self, params, support, step):
        gradient = self.gradient(params, support)
        return {k: v - self.rates[k.replace(".", "/")] * gradient[k] for k, v in params.items()}


# %%
LEARNERS = {"maml": ctml.MAML, "meta_sgd": MetaSGD}
results = dict(zip(LEARNERS, study.map(train, [{"make": make} for make in LEARNERS.values()]), strict=True))

rows = pd.DataFrame(
    {
        "learner": name,
        "inner_steps": k,
        "mse": float(torch.tensor(scores).mean()),
        "ci95_over_tasks": ctml.interval(torch.tensor(scores)).half_width,
        "tasks": len(scores),
    }
    for name, result in results.items()
    for k, scores in result["test"].items()
)
study.table(rows, "metrics")
rows.pivot(index="inner_steps", columns="learner", values="mse").round(3)

# %%
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.0), layout="constrained")
looks = {
    "maml": style.method("maml").line(),
    "meta_sgd": {"label": "Meta-SGD (above)", "color": style.COLOURS["comln"], "marker": "P", "linestyle": "--"},
}
window = max(1, config.meta_steps // 60)
for name, result in results.items():
    smooth = torch.tensor(result["loss"]).unfold(0, window, window).mean(1)
    left.plot(window * (1 + torch.arange(len(smooth))), smooth, **looks[name] | {"marker": ""})
    of = rows[rows.learner == name]
    middle.errorbar(of.inner_steps, of.mse, yerr=of.ci95_over_tasks, capsize=2, **looks[name])
left.set(xlabel="meta-steps", ylabel="meta-training loss")
middle.set(xlabel="inner steps at meta-test", ylabel="mean squared error", ylim=(0, None))
middle.legend(fontsize="x-small")

learner = sinusoid_learner(ctml.MAML)
learner.load_state_dict({k: torch.tensor(v) for k, v in results["maml"]["weights"].items()})
task = Sinusoid(shots=10, queries=1).sample(1, ctml.generator(seed, "tour task"))
x = torch.linspace(-5, 5, 200).view(1, -1, 1)
with torch.no_grad():
    for k, shade in ((0, 0.25), (1, 0.55), (10, 1.0)):
        y = learner.predict(learner.with_inner_steps(k).adapt(task.support), x, task.support.x)
        right.plot(x[0, :, 0], y[0, :, 0], color=style.COLOURS["maml"], alpha=shade, label=f"{k} steps")
basis = torch.cat([task.support.x[0].sin(), task.support.x[0].cos()], 1)  # the true curve, from its ten exact points
a, b = torch.linalg.lstsq(basis, task.support.y[0]).solution[:, 0]
right.plot(x[0, :, 0], a * x[0, :, 0].sin() + b * x[0, :, 0].cos(), color="0.4", ls=":", label="truth")
right.plot(task.support.x[0, :, 0], task.support.y[0, :, 0], "k.", label="support")
right.set(xlabel="$x$", ylabel="$y$", ylim=(-5.5, 8))
right.legend(fontsize="xx-small", loc="upper left", ncols=2)
study.figure(
    fig,
    "sinusoids",
    f"MAML and the learner above on sinusoids, one seed. Left: meta-training loss, means over {window} meta-steps. Middle: error on "
    f"{config.test_tasks} unseen tasks against inner steps, 95% intervals over tasks. Right: one unseen task before and after adapting MAML.",
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
study.folder.name, study.parameters
