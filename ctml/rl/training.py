"""RK-MAML for policies, the trainer: a meta-iteration gathers the stages and takes one trust-region step."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ctml.checkpoint import Checkpoint
from ctml.checks import at_least
from ctml.rl.meta_policy import MetaPolicy
from ctml.rl.objective import fisher, objective
from ctml.rl.trpo import TRPO, Taken
from ctml.rng import generator
from ctml.settings import describe


@dataclass(repr=False)
class PolicyHistory:
    """One entry per meta-iteration: mean return at each stage, divergence of the step, and whether it moved."""

    returns: list[list[float]] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    moved: list[bool] = field(default_factory=list)

    def __repr__(self) -> str:
        ends = f", returns by stage now {[round(r, 3) for r in self.returns[-1]]}" if self.returns else ""
        return f"PolicyHistory({len(self.moved)} iterations, {sum(self.moved)} moved{ends})"


def outer_step(
    learner: MetaPolicy, goals: Float[Tensor, "tasks goal"], outer: TRPO, stream: torch.Generator
) -> tuple[Taken, list]:
    """Take one meta-iteration on these tasks; return what the step did and the stages' mean returns."""
    stages = learner.collect(goals, stream)
    taken = outer.step(learner.theta, objective(learner, stages), fisher(learner, stages.thin(learner.curvature_every)))
    learner.load(taken.point)
    return taken, [float(seen.returns.mean()) for seen in stages.experience]


def meta_train_policy(
    learner: MetaPolicy,
    *,
    iterations: int,
    meta_batch: int,
    seed: int,
    outer: TRPO | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
    progress: bool = True,
) -> PolicyHistory:
    """Take `iterations` trust-region steps, each on `meta_batch` fresh tasks.

    Args:
        outer: settings of the step, `TRPO()` by default.
        checkpoint: file to resume from and to write to, atomically; a resumed run ends with the same numbers.

    Raises:
        ValueError: if the checkpoint belongs to a run with other settings, or has taken more iterations than asked for.
    """
    at_least("iterations", iterations, 0)
    at_least("meta_batch", meta_batch, 1)
    at_least("checkpoint_every", checkpoint_every, 1)
    outer, history = outer or TRPO(), PolicyHistory()
    stream = generator(seed, "meta-train policy")
    settings = describe(seed=seed, meta_batch=meta_batch, learner=learner, outer=outer)
    file = Checkpoint(checkpoint, settings)
    saved = file.load(most=iterations)
    if saved is not None:
        learner.load(saved["theta"])
        stream.set_state(saved["stream"])
        history = PolicyHistory(**saved["history"])
    for i in tqdm(range(len(history.moved), iterations), disable=not progress, leave=False):
        taken, returns = outer_step(learner, learner.environment.sample(meta_batch, stream), outer, stream)
        history.returns.append(returns)
        history.divergence.append(taken.divergence)
        history.moved.append(taken.shortened is not None)
        if (i + 1) % checkpoint_every == 0 or i + 1 == iterations:
            file.save(i + 1, {"theta": learner.theta, "stream": stream.get_state(), "history": vars(history)})
    return history
