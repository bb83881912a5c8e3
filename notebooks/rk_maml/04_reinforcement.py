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
# # The RK2 family in reinforcement learning
#
# **Paper** Im, Jiang, Verma 2019 (arXiv 1910.07368); only its abstract could be had: improved results in reinforcement learning, no number known.
# Tasks and settings are those of Finn, Abbeel, Levine 2017, section 5.3.
#
# **Question** Does a policy meta-trained with $a_2>0$ adapt in one policy-gradient step, does joint training, and does weight on the unadapted
# policy help?
#
# **Answer in one line** In 2-D navigation every $a_2>0$ gains 13 of return in one step, joint training 6; weight on the unadapted policy
# adds 1 at $a_2=1/2$ and next to nothing at $3/4$. In a short run half-cheetah's return after one step rises from −3 to 27, with $a_2=3/4$ to 53,
# which three seeds do not settle (Figures 1 to 3, section 8).
#
# | preset | environments | hardware | minutes |
# |---|---|---|---|
# | `smoke` | navigation, half-cheetah for one meta-iteration | one core | < 1 |
# | `quick` | navigation, 5 seeds; half-cheetah forwards/backwards, two members, 3 seeds, short | 2 cores | about 5 |
# | `long` | as `quick`, three times as long, wider batches for navigation | 2 cores | about 60, estimated |
# | `paper` | navigation; half-cheetah and ant, velocity and direction | 2 to 64 cores | days, resumable |
#
# Half-cheetah and ant need MuJoCo: `pip install "ctml[rl]"`. Without it their part is left out.

# %% [markdown]
# ## 1 Setup

# %%
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import ctml
from ctml.agreement import relative_error
from ctml.companion import Study, choose, plots, style
from ctml.flows.tableaus import EULER, rk2
from ctml.rl import TRPO, GaussianPolicy, MetaPolicy, Navigation, meta_train_policy, objective, outer_step
from ctml.rl.paths import mean_paths
from ctml.rl.speed import body_speeds, fastest_iterations
from ctml.rl.trpo import gradient_of_surrogate

try:
    from ctml.rl.mujoco import Locomotion, gymnasium_body
except ImportError as missing:
    Locomotion = None
    print(f"half-cheetah and ant are left out: {missing}")

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
PRESET = "quick"  # smoke | quick | long | paper: it holds wherever a value below is None
seeds: int | None = None  # >= 1: of navigation
order: str | None = None  # first | second

# %% [markdown]
# ## 3 Configuration
#
# `paper` holds Finn et al.'s settings (two layers of 100, α = 0.1 halved after the first step at test time, 20 trajectories, horizons 100 and 200, 20 and
# 40 tasks, 500 meta-iterations; the KL bound 0.01 is that of their published script for navigation). *Ours*: seeds, and all of `quick`: layers
# of 32 and 10 trajectories for navigation, horizon 100, 8 tasks and a wider KL bound for half-cheetah.


# %%
@dataclass(frozen=True)
class Recipe:
    a2: tuple[str, ...] = ("0", "1/2", "3/4", "1")
    seeds: int = 5  # ours
    hidden: int = 100  # two layers of this width
    tasks: int = 20
    trajectories: int = 20
    horizon: int = 100
    iterations: int = 500
    delta: float = 0.01  # KL bound of an outer step
    std: float = 1.0  # of the initial policy
    goal: str = ""  # of a body: "direction" or "velocity"
    inner_lr: float = 0.1  # alpha


NAVIGATION = Recipe()
BODY = replace(NAVIGATION, a2=("3/4", "1"), seeds=3, tasks=40, horizon=200)
BODIES_OF_PAPER = {
    "half_cheetah velocity": replace(BODY, goal="velocity"),
    "half_cheetah direction": replace(BODY, goal="direction"),
    "ant velocity": replace(BODY, goal="velocity"),
    "ant direction": replace(BODY, goal="direction", trajectories=40),
}


@dataclass(frozen=True)
class Config:
    navigation: Recipe = NAVIGATION
    bodies: dict[str, Recipe] = field(default_factory=lambda: BODIES_OF_PAPER)
    order: str = "second"
    seeds: int = 5  # ours: of navigation
    test_tasks: int = 40


PAPER = Config()
SHORT_BODY = replace(BODY, tasks=8, trajectories=10, horizon=100, iterations=100, delta=0.03, std=0.5, goal="direction")
TINY_BODY = replace(SHORT_BODY, a2=("1",), seeds=1, hidden=8, tasks=2, trajectories=2, horizon=3, iterations=2)
SHORT_NAVIGATION = replace(NAVIGATION, hidden=32, trajectories=10, iterations=40)
TINY_NAVIGATION = replace(SHORT_NAVIGATION, seeds=1, hidden=8, tasks=2, trajectories=2, horizon=5, iterations=1)
SHORT = replace(PAPER, navigation=SHORT_NAVIGATION, bodies={"half_cheetah": SHORT_BODY}, order="first")
TINY = replace(SHORT, navigation=TINY_NAVIGATION, bodies={"half_cheetah": TINY_BODY}, seeds=2, test_tasks=2)
LONG_NAVIGATION = replace(NAVIGATION, hidden=32, iterations=100)
LONG = replace(SHORT, navigation=LONG_NAVIGATION, bodies={"half_cheetah": replace(SHORT_BODY, iterations=300)})
PRESETS = {"paper": PAPER, "long": LONG, "quick": SHORT, "smoke": TINY}
config = choose(PRESETS, PRESET, seeds=seeds, order=order)
study = Study("rk_maml", "04_reinforcement", PRESET, asdict(config))
BODIES = config.bodies if Locomotion is not None else {}
pd.DataFrame({"navigation": asdict(config.navigation), **{k: asdict(v) for k, v in BODIES.items()}})

# %% [markdown]
# ## 4 The idea
#
# A stage needs trajectories of its own, $D_j$ at $\theta^{(j)}$, and they serve both the move to the next stage and the stage's part of the surrogate:
# $$k_j=-\nabla\,\mathbb E_t\log\pi_\theta(a_t|o_t)A_t,\qquad \theta^{(2)}=\theta-\alpha k_1,\qquad
# J(\theta)=-\mathbb E_\tau\sum_j a_j\,\mathbb E_t\frac{\pi_{\theta^{(j)}}(a_t|o_t)}{\pi_{\rm old}(a_t|o_t)}A_t .$$
# $J$ falls by one trust-region step (TRPO): $\mathbb E_\tau\sum_j a_j\,{\rm KL}_j\le\delta$. So $a_1>0$ costs no further sample. That the
# constraint carries the weights of the surrogate is our choice.
#
# | letter | code | shape |
# |---|---|---|
# | $D_j$ | `method.collect(goals, stream).experience[j]` | `(tasks, samples, ...)` |
# | $\theta^{(j)}$ | `method.stage_points(theta, stages)` | parameters with a leading task axis |
# | $J$, KL | `objective(method, stages)(theta)` | two numbers, in parts of some tasks each, to be summed |
# | $v\mapsto\nabla^2{\rm KL}\,v$ | `fisher(method, stages)(v)` | `(d,)` |
# | $a$, $q$, $\alpha$ | `tableau.b`, `tableau.a`, `inner_lr` | |


# %%
def make_method(place: str, recipe: Recipe, a2: str, seed: int, order: str) -> MetaPolicy:
    environment = (
        Navigation(recipe.horizon)
        if place == "navigation"
        else Locomotion(place.split()[0], recipe.goal, horizon=recipe.horizon)
    )
    policy = GaussianPolicy(
        environment.observations, environment.actions, hidden=(recipe.hidden,) * 2, std=recipe.std, generator=ctml.generator(seed, "initial weights")
    )  # fmt: skip
    tableau = rk2(Fraction(a2)) if Fraction(a2) else EULER
    return MetaPolicy(
        policy, environment, tableau, inner_lr=recipe.inner_lr, order=order, trajectories=recipe.trajectories
    )


# %% [markdown]
# ## 5 The method checked before use
#
# The surrogate's gradient at the old policy against the weighted mean of the stages' policy gradients; the divergence of one step
# against its bound; and the return of a policy that knows the goal, as the ceiling of navigation.

# %%
check = make_method("navigation", config.navigation, "3/4", 0, "first")
stream = ctml.generator(0, "check")
goals = check.environment.sample(config.navigation.tasks, stream)
stages = check.collect(goals, stream)
_, surrogate_gradient = gradient_of_surrogate(objective(check, stages), check.theta)
expected = torch.zeros_like(check.theta)
for weight, point, seen in zip((0.25, 0.75), check.stage_points(check.theta, stages), stages.experience, strict=True):
    # REINFORCE written out at the stage's own parameters, task by task in one call
    leaf = {k: v.detach().requires_grad_() for k, v in point.items()}
    log_prob = torch.func.functional_call(check.policy, leaf, (seen.observations,)).log_prob(seen.actions)
    gradients = torch.autograd.grad(-(log_prob * seen.advantages * seen.share).sum(), list(leaf.values()))
    expected += weight * torch.cat([g.mean(0).flatten() for g in gradients])
taken, _ = outer_step(check, goals, TRPO(config.navigation.delta), stream)
apart = relative_error(surrogate_gradient, expected)
print(f"surrogate's gradient against the weighted policy gradients: {apart:.1e}")
print(f"divergence of a step: {taken.divergence:.4f}, bound {config.navigation.delta}")

# %% [markdown]
# ## 6 Environments
#
# *Navigation*: start at the origin, velocity commands clipped at ±0.1, goal uniform in the unit square and never observed, reward minus the squared
# distance. *Half-cheetah, ant*: Gymnasium's bodies; all of a meta-batch are stepped in one call by MuJoCo's threads. Both are seeded by `ctml.rng`.
#
# ## 7 Experiment


# %%
def train(place: str, a2: str, seed: int, checkpoint: Path) -> dict:
    """Meta-train one member in one place; returns by stage and iteration, and after 0 to 3 steps on test tasks."""
    recipe = config.navigation if place == "navigation" else config.bodies[place]
    method = make_method(place, recipe, a2, seed, config.order)
    history = meta_train_policy(
        method, iterations=recipe.iterations, meta_batch=recipe.tasks, seed=seed, outer=TRPO(recipe.delta), checkpoint=checkpoint, progress=False
    )  # fmt: skip
    goals = method.environment.sample(config.test_tasks, ctml.generator(0, "test goals"))
    rates = [recipe.inner_lr, recipe.inner_lr / 2, recipe.inner_lr / 2]
    tested = method.returns(goals, rates, ctml.generator(seed, "test actions")).mean(1)
    return {"history": history.returns, "tested": tested.tolist(), "theta": method.theta}


recipes = {"navigation": replace(config.navigation, seeds=config.seeds), **BODIES}
runs = [{"place": p, "a2": a2, "seed": s} for p, r in recipes.items() for a2 in r.a2 for s in range(r.seeds)]
for place, recipe in BODIES.items():
    study.data(f"mujoco/{place.split()[0]} {recipe.goal}")
results = study.map(train, runs)

# %%
done = list(zip(runs, results, strict=True))
tested = [{**run, "adaptation_steps": k, "return": r} for run, found in done for k, r in enumerate(found["tested"])]
table = study.table(pd.DataFrame(tested), "test_returns")
stages = [(run, i, r) for run, found in done for i, r in enumerate(found["history"])]
trained = [{**run, "iteration": i, "before": r[0], "after": r[-1]} for run, i, r in stages]
curves = study.table(pd.DataFrame(trained), "learning_curves")
means = table.groupby(["place", "a2", "adaptation_steps"], sort=False)["return"]
means.agg(lambda r: str(ctml.interval(r.tolist()))).unstack()

# %% [markdown]
# Finn et al. 2017 report −40.41, −11.68, −3.33, −3.23 for MAML after 0 to 3 steps; the paper's own curves were not seen.

# %%
names = ("joint", "rk2_half", "rk2_three_quarters", "fo_maml" if config.order == "first" else "maml")
looks = {a2: style.method(name).line() for a2, name in zip(NAVIGATION.a2, names, strict=True)}
environment = Navigation(config.navigation.horizon)
test_goals = environment.sample(config.test_tasks, ctml.generator(0, "test goals"))
fig, (left, right) = plt.subplots(1, 2, figsize=style.WIDE)
plots.curves(left, table[table.place == "navigation"], "adaptation_steps", "return", "a2", looks, band="range")
left.axhline(float(environment.best_return(test_goals).mean()), color="0.5", lw=0.8, ls=":")
costs = curves[curves.place == "navigation"].assign(cost=lambda c: -c.after)
plots.curves(right, costs, "iteration", "cost", "a2", looks, band="none", marker="")
left.set(xlabel="policy-gradient steps", ylabel="mean return", xticks=range(4), title="navigation, test goals")
right.set(xlabel="meta-iteration", ylabel="−return at the last stage", yscale="log", title="while meta-training")
left.legend(fontsize=7, loc="lower right")
r = config.navigation
study.figure(
    fig,
    "navigation",
    f"2-D navigation, {config.seeds} seeds, {r.iterations} meta-iterations of {r.tasks} tasks × {r.trajectories} trajectories, layers of {r.hidden}, {config.order} order. Left: mean return on "
    f"{config.test_tasks} test goals before and after policy-gradient steps (α, then α/2), band: least to greatest seed; dotted: a policy that knows the goal. Right: "
    "minus the return at the last stage (after adaptation; for joint training before), mean of the seeds.",
)

# %% [markdown]
# The policy never sees the goal: only its adaptation can know where to go. Finn et al. show such paths for MAML in their Figure 4.

# %%
fig, axes = plt.subplots(1, len(looks), figsize=(8.4, 2.5), sharex=True, sharey=True)
shown = test_goals[:5]
for ax, (a2, look) in zip(axes, looks.items(), strict=True):
    method = make_method("navigation", config.navigation, a2, 0, config.order)
    method.load(results[runs.index({"place": "navigation", "a2": a2, "seed": 0})]["theta"])
    before, after = mean_paths(method, shown, [config.navigation.inner_lr], 20, ctml.generator(1, "picture"))
    plots.paths(ax, shown, after, style.COLOURS.values(), behind=before)
    ax.set(title=look["label"], xlim=(-0.9, 0.9), ylim=(-0.9, 0.9), aspect="equal", xlabel="x")
axes[0].set(ylabel="y")
study.figure(
    fig,
    "paths",
    f"Mean of 20 trajectories after one adaptation step (coloured; their goal a star of the same colour) and before (grey) for {len(shown)} test goals, seed 0.",
)

# %% [markdown]
# Finn et al. 2017 train for 500 iterations with 40 tasks × 20 × 200 steps and reach 293 after one step (half-cheetah, direction). A short run can
# only show that the curve rises, and the seeds differ widely.

# %%
if BODIES:
    fig, axes = plt.subplots(1, len(BODIES), figsize=(4.2 * len(BODIES), 3.0), squeeze=False)
    for ax, (place, recipe) in zip(axes[0], BODIES.items(), strict=True):
        rows, own = curves[curves.place == place], {a2: looks[a2] | {"marker": ""} for a2 in recipe.a2}
        plots.curves(ax, rows, "iteration", "before", "a2", own, band="none", linestyle=":", lw=1, label="")
        plots.curves(ax, rows, "iteration", "after", "a2", own, band="range", linestyle="-")
        ax.set(xlabel="meta-iteration", ylabel="return", title=f"{place.split()[0]}, {recipe.goal}".replace("_", "-"))
        ax.legend(fontsize=7)
    r = next(iter(BODIES.values()))
    study.figure(
        fig,
        "locomotion",
        f"Mean return of the training tasks before (dotted) and after one adaptation step, by meta-iteration: {r.iterations} iterations of {r.tasks} tasks × {r.trajectories} trajectories × "
        f"{r.horizon} steps, KL bound {r.delta}; mean of {r.seeds} seeds, band: least to greatest.",
    )

# %% [markdown]
# **Speed.** One meta-iteration of navigation with 20 tasks × 20 trajectories × 100 steps, for Finn et al.'s policy and the smaller one of `quick`,
# and MuJoCo's steps per second in batches against one Gymnasium environment stepped in Python. On a busy machine several threads
# wait for each other and one is faster; the claim takes the better of the two.


# %%
def seconds(hidden: int) -> list[float]:
    """Times of whole meta-iterations: two batches of trajectories, two policy gradients, ten curvature products, a line search."""
    recipe = config.navigation if PRESET == "smoke" else replace(NAVIGATION, hidden=hidden)
    method = make_method("navigation", recipe, "1", 0, "first")
    return fastest_iterations(method, recipe.tasks, ctml.generator(0, "speed"))


timed = {hidden: seconds(hidden) for hidden in (32, 100)}
speed = {f"navigation, layers of {hidden}; ms": 1000 * np.median(found) for hidden, found in timed.items()}
if BODIES:
    fleet = Locomotion("half_cheetah", "direction")
    speed |= body_speeds(fleet, gymnasium_body(fleet.body), ctml.generator(0, "speed"))
pd.Series(speed).round(0).to_frame("measured")

# %% [markdown]
# ## 8 Claims


# %%
returns = table.pivot(index="seed", columns=["place", "a2", "adaptation_steps"], values="return")


def one_step(place: str, a2: str) -> np.ndarray:
    """Return after one step, by seed; another place may have more seeds."""
    return returns[place, a2, 1].to_numpy()[: recipes[place].seeds]


gain = {a2: one_step("navigation", a2) - returns["navigation", a2, 0].to_numpy() for a2 in NAVIGATION.a2}
excess = {a2: gain[a2] - gain["0"] for a2 in NAVIGATION.a2[1:]}
by_a2 = {"half": excess["1/2"], "three_quarters": excess["3/4"], "one": excess["1"]}
study.claim("rk_maml-b13", **by_a2, excess=[e.mean() for e in excess.values()])

# %%
ours = (one_step("navigation", "1/2") + one_step("navigation", "3/4")) / 2
study.claim("rk_maml-b10-navigation", difference=ours - one_step("navigation", "1"))

# %%
study.claim("rk_maml-navigation-speed", seconds=timed[100])

# %%
study.claim("rk_maml-navigation-speed-32", seconds=timed[32])

# %%
cheetah = curves[curves.place.str.startswith("half_cheetah") & (curves.a2 == "1")]
rising = cheetah.groupby("iteration").after.mean().to_numpy()
eighth = max(2, len(rising) // 8)
study.claim("rk_maml-cheetah-learns", early=rising[:eighth], late=rising[-eighth:])


# %%
def against_maml(body: str) -> list[float]:
    places = [p for p, recipe in BODIES.items() if p.startswith(body) and "3/4" in recipe.a2]
    return [float(d) for p in places for d in one_step(p, "3/4") - one_step(p, "1")]


study.claim("rk_maml-b14-cheetah-short", difference=against_maml("half_cheetah"))

# %%
study.claim("rk_maml-b14-cheetah", difference=against_maml("half_cheetah"))

# %%
study.claim("rk_maml-b14-ant", difference=against_maml("ant"))

# %% [markdown]
# ## 9 Where this differs from the paper
#
# * The authors' algorithm, environments and numbers are not known; this is our reading of the family in Finn et al.'s experiment.
# * `quick` uses the first-order direction, smaller policies and few iterations. Neither order differentiates how the distribution of later trajectories depends on θ.
# * A meta-iteration with layers of 100 is 12 GFLOP (trajectories 1.7, inner gradient 2.5, surrogate 2.5, curvature 3.3, line search 1.7), so two cores
#   of 90 GFLOP/s each need 65 ms at the very least; the elementwise work and 200 small steps in time come on top. Layers of 32 are enough for this task.
# * The curvature is that of every tenth step of the trajectories, as a Gauss-Newton product (exact where the two policies agree); a step is tried on all.
# * Gymnasium's v5 bodies are not the 2017 ones; the control costs and the ant's survival reward are ours where Finn et al. state none; the ant does not observe contact forces.
#
# ## 10 Variants to try
#
# * Through the adaptation: `make reproduce NB=rk_maml/04_reinforcement SET="order=second"`.
# * Half-cheetah at a goal velocity: in `SHORT_BODY` replace `"direction"` by `"velocity"`; ant: name the key `"ant"`.
# * Another integrator: `RK4` instead of `rk2(...)` in `make_method` (four batches of trajectories an iteration).
#
# ## 11 Provenance

# %%
study.close()
