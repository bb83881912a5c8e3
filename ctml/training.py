"""Meta-training that resumes where it stopped, and one definition of meta-testing for all learners.

Invariants:
    * The same seed gives the same tasks to every learner: runs are paired.
    * A run that is killed and started again with the same checkpoint path ends with the same numbers.
    * Meta-test tasks come from their own stream; nothing of training depends on them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ctml.checks import at_least
from ctml.learners.base import Learner
from ctml.losses import accuracy
from ctml.rng import generator
from ctml.statistics import Interval, interval
from ctml.types import TaskBatch, TaskDistribution


class NonFiniteMetaGradient(ArithmeticError):
    """The meta-gradient holds NaN or infinity; says at which step and from which tasks."""


@dataclass
class History:
    """What meta-training saw: the tasks' mean loss at each step, and validation scores at some."""

    loss: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Meta-steps taken."""
        return len(self.loss)


@dataclass(frozen=True)
class Validation:
    """Score the learner on fixed tasks every so often and keep the best parameters.

    Args:
        tasks: tasks of the validation split, never of the test split.
        every: meta-steps between scores.
        n_tasks: tasks per score.
        metric: higher is better, one number per task.
    """

    tasks: TaskDistribution
    every: int
    n_tasks: int = 200
    metric: Callable[[Tensor, Tensor], Tensor] = accuracy


def meta_train(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    optimizer: torch.optim.Optimizer,
    steps: int,
    meta_batch: int,
    seed: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    validation: Validation | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 250,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> History:
    """Take `steps` outer steps, each on `meta_batch` fresh tasks.

    Args:
        learner, optimizer, scheduler: the optimizer holds the learner's parameters; the scheduler steps with it.
        tasks: where the meta-batches are drawn, by the stream (seed, "meta-train").
        validation: keeps the parameters of the best score, which the learner ends with.
        checkpoint: file to resume from and to write to every `checkpoint_every` steps, atomically.
        progress: show a progress bar.

    Returns:
        The history, including what an interrupted run had done.

    Raises:
        NonFiniteMetaGradient: with the step and the tasks; the last good checkpoint is kept.
        ValueError: if the checkpoint belongs to a run with other settings.
    """
    at_least("steps", steps, 0)
    at_least("meta_batch", meta_batch, 1)
    at_least("checkpoint_every", checkpoint_every, 1)
    stream = generator(seed, "meta-train")
    run = _Run(learner, optimizer, scheduler, stream, {"seed": seed, "meta_batch": meta_batch})
    checkpoint = Path(checkpoint) if checkpoint is not None else None
    if checkpoint is not None and checkpoint.exists():
        run.resume(checkpoint)
    history = run.history

    for step in tqdm(
        range(history.steps, steps), initial=history.steps, total=steps, disable=not progress, leave=False
    ):
        batch = tasks.sample(meta_batch, stream).to(device)
        losses = learner.meta_gradient(batch)
        _refuse_non_finite(learner, losses, step, checkpoint)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        history.loss.append(float(losses.mean()))
        if validation is not None and (step + 1) % validation.every == 0:
            run.score(validation, seed, device)
        if checkpoint is not None and ((step + 1) % checkpoint_every == 0 or step + 1 == steps):
            run.save(checkpoint)
    run.restore_best()
    return history


class _Run:
    """Everything a checkpoint has to hold."""

    def __init__(self, learner, optimizer, scheduler, stream, settings):
        self.learner, self.optimizer, self.scheduler, self.stream = learner, optimizer, scheduler, stream
        self.settings, self.history, self.best = settings, History(), None

    def score(self, validation: Validation, seed: int, device) -> None:
        result = meta_test(
            self.learner, validation.tasks, n_tasks=validation.n_tasks, seed=seed, metric=validation.metric,
            purpose="meta-validation", device=device,
        )  # fmt: skip
        score = result.interval.mean
        if not self.history.validation or score > max(s for _, s in self.history.validation):
            self.best = {k: v.detach().clone() for k, v in self.learner.state_dict().items()}
        self.history.validation.append((self.history.steps, score))

    def restore_best(self) -> None:
        if self.best is not None:
            self.learner.load_state_dict(self.best)

    def save(self, path: Path) -> None:
        state = {
            "settings": self.settings,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "stream": self.stream.get_state(),
            "loss": self.history.loss,
            "validation": self.history.validation,
            "best": self.best,
        }
        save_whole(state, path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] != self.settings:
            raise ValueError(
                f"checkpoint={path} was written with {state['settings']}, this run has {self.settings}; "
                "name another file or delete it"
            )
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.stream.set_state(state["stream"])
        self.history, self.best = History(state["loss"], [tuple(v) for v in state["validation"]]), state["best"]


def _refuse_non_finite(learner: Learner, losses: Tensor, step: int, checkpoint: Path | None) -> None:
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    # One number decides: a sum is finite only if every term is (an overflow of the sum itself is as bad a sign).
    if torch.isfinite(sum((g.sum() for g in gradients), start=losses.sum())):
        return
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    which = (
        f"tasks {bad} of the meta-batch have a non-finite loss" if bad else "the losses are finite, the gradient is not"
    )
    kept = f"; the last good checkpoint is {checkpoint}" if checkpoint is not None and checkpoint.exists() else ""
    raise NonFiniteMetaGradient(
        f"meta-gradient at step {step} is not finite: {which}. "
        f"Try a smaller inner_lr, fewer inner_steps or a smaller outer rate{kept}"
    )


@dataclass(frozen=True)
class MetaTest:
    """Scores of a learner on fixed tasks.

    Attributes:
        scores: one score per task.
        inner_steps: adaptation steps, None for the learner's own.
        seed: of the stream that drew the tasks; equal seeds mean the same tasks.
        norm: the model's batch-norm mode, "none" without batch norm.
    """

    scores: Float[Tensor, " tasks"]
    inner_steps: int | None
    seed: int
    norm: str

    @property
    def interval(self) -> Interval:
        """Mean and 95% interval over tasks."""
        return interval(self.scores)

    def __str__(self) -> str:
        return f"{self.interval} tasks, seed {self.seed}, norm: {self.norm}"


@torch.no_grad()
def meta_test(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    n_tasks: int = 1000,
    seed: int = 0,
    metric: Callable[[Tensor, Tensor], Tensor] = accuracy,
    inner_steps: int | None = None,
    tasks_at_once: int = 50,
    purpose: str = "meta-test",
    device: torch.device | str = "cpu",
) -> MetaTest:
    """Adapt to each support set and score on its query set.

    The tasks are the first `n_tasks` of the stream (seed, purpose): the same for every learner.

    Args:
        metric: maps outputs and targets of the query sets to one score per task.
        inner_steps: adaptation steps if they differ from training's; None keeps the learner's.
        tasks_at_once: tasks drawn and adapted together; part of the stream's definition.
    """
    at_least("n_tasks", n_tasks, 1)
    stream = generator(seed, purpose)
    was_training = learner.training
    learner.eval()  # label smoothing and the like belong to meta-training
    scores: list[Tensor] = []
    for start in range(0, n_tasks, tasks_at_once):
        batch: TaskBatch = tasks.sample(min(tasks_at_once, n_tasks - start), stream).to(device)
        for part in batch.split(learner.tasks_at_once):
            adapted = learner.adapt(part.support, inner_steps)
            scores.append(metric(learner.predict(adapted, part), part.query.y).cpu())
    learner.train(was_training)
    return MetaTest(torch.cat(scores), inner_steps, seed, getattr(learner.model, "norm", "none"))


def save_whole(state: dict, path: Path) -> None:
    """Write a checkpoint whole or not at all: a run that is killed here resumes from the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    torch.save(state, unfinished)
    os.replace(unfinished, path)
