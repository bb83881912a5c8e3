"""Meta-training that resumes where it stopped and can be watched.

Invariants:
    * The same seed gives the same tasks to every learner: runs are paired.
    * A run that is killed and started again with the same checkpoint path ends with the same numbers.
    * Validation and what is watched draw from streams of their own; training does not depend on them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ctml.checkpoint import Checkpoint
from ctml.checks import at_least, positive
from ctml.evaluation import meta_test
from ctml.learners.base import Learner
from ctml.losses import accuracy
from ctml.rng import generator
from ctml.settings import describe
from ctml.types import TaskDistribution

Watch = Mapping[str, Callable[[Learner], float | Tensor]]
"""Names of quantities, and how each is read off the learner: a number, or a small tensor."""


class NonFiniteMetaGradient(ArithmeticError):
    """The meta-gradient holds NaN or infinity; says at which step and from which tasks."""


@dataclass(repr=False)
class History:
    """What meta-training saw.

    Attributes:
        loss: the tasks' mean loss at each step.
        validation: (steps taken, score).
        watched: by name, (steps taken, value); a tensor is kept as nested lists.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    watched: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Meta-steps taken."""
        return len(self.loss)

    def __repr__(self) -> str:
        last = f", last loss {self.loss[-1]:.4g}" if self.loss else ""
        return f"History({self.steps} steps{last}, {len(self.validation)} validations, watched: {[*self.watched]})"


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
    watch: Watch | None = None,
    watch_every: int = 100,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 250,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> History:
    """Take `steps` outer steps, each on `meta_batch` fresh tasks.

    >>> import ctml, torch
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.MAML(network, ctml.mse, inner_lr=0.01)
    >>> outer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    >>> tasks = ctml.tasks.Sinusoid()
    >>> history = ctml.meta_train(learner, tasks, optimizer=outer, steps=20, meta_batch=4, seed=0, progress=False)
    >>> history.steps
    20
    >>> sum(history.loss[-5:]) < sum(history.loss[:5])
    True

    Args:
        learner, optimizer, scheduler: the optimizer holds the learner's parameters; the scheduler steps with it.
        tasks: where the meta-batches are drawn, by the stream (seed, "meta-train").
        validation: keeps the parameters of the best score, which the learner ends with.
        watch: quantities to record before the first step, after every `watch_every` steps and after the last, such
            as `{"T": lambda learner: learner.horizon}`. A score by `meta_test` is one too: its tasks have a stream of
            their own. What is read may not change the learner.
        checkpoint: file to resume from and to write to every `checkpoint_every` steps, atomically.
        progress: show a progress bar.

    Returns:
        The history, including what an interrupted run had done.

    Raises:
        NonFiniteMetaGradient: with the step and the tasks; the last good checkpoint is kept.
        ValueError: if the checkpoint belongs to a run with other settings (of learner, optimiser, scheduler, tasks,
            validation, watch; the device is free), or has taken more steps than are asked for.
    """
    at_least("steps", steps, 0)
    at_least("meta_batch", meta_batch, 1)
    at_least("watch_every", watch_every, 1)
    at_least("checkpoint_every", checkpoint_every, 1)
    watch = dict(watch or {})
    stream = generator(seed, "meta-train")
    settings = describe(
        seed=seed, meta_batch=meta_batch, learner=learner, optimizer=optimizer, scheduler=scheduler, tasks=tasks,
        validation=validation, watch={name: watch_every for name in watch},
    )  # fmt: skip
    file = Checkpoint(checkpoint, settings)
    run = _Run(learner, optimizer, scheduler, stream, watch)
    saved = file.load(most=steps)
    if saved is not None:
        run.resume(saved)
    else:
        run.look()
    history = run.history

    for step in tqdm(
        range(history.steps, steps), initial=history.steps, total=steps, disable=not progress, leave=False
    ):
        batch = tasks.sample(meta_batch, stream).to(device)
        losses = learner.meta_gradient(batch)
        _refuse_non_finite(learner, losses, step, file)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        history.loss.append(float(losses.mean()))
        if validation is not None and (step + 1) % validation.every == 0:
            run.score(validation, seed, device)
        if (step + 1) % watch_every == 0:
            run.look()
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            file.save(step + 1, run.state())
    # Not in the file: a run that is later asked for more steps looks where one that was asked at once does.
    if history.steps % watch_every:
        run.look()
    run.restore_best()
    return history


def one_cycle(
    optimizer: torch.optim.Optimizer, rate: float, steps: int, warmup: float = 0.1
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return the schedule that rises to `rate` over a share `warmup` of the steps and falls to nearly 0 (Smith 2018).

    Both along half cosines, from rate / 25 and to rate / 250,000; Adam's first beta moves the other way, 0.95 to 0.85
    and back.
    """
    positive("rate", rate)
    at_least("steps", steps, 1)
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup={warmup}: is a share of the steps, from 0 to 1")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=warmup)
    vars(schedule)["warmup"] = warmup  # torch keeps it under a private name, where no checkpoint compares it
    return schedule


class _Run:
    """Everything a checkpoint has to hold."""

    def __init__(self, learner, optimizer, scheduler, stream, watch: Watch):
        self.learner, self.optimizer, self.scheduler = learner, optimizer, scheduler
        # A learner that draws, mini-batches say, goes on where it stopped as well.
        own = [v for module in learner.modules() for v in vars(module).values() if isinstance(v, torch.Generator)]
        self.streams = [stream, *own]
        self.watch, self.history, self.best = watch, History(watched={name: [] for name in watch}), None

    def look(self) -> None:
        """Record what is watched."""
        for name, read in self.watch.items():
            self.history.watched[name].append((self.history.steps, _plain(name, read(self.learner))))

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

    def state(self) -> dict:
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "streams": [stream.get_state() for stream in self.streams],
            "history": vars(self.history),
            "best": self.best,
        }

    def resume(self, state: dict) -> None:
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for stream, at in zip(self.streams, state["streams"], strict=True):
            stream.set_state(at)
        self.history, self.best = History(**state["history"]), state["best"]


def _plain(name: str, value: object) -> Any:
    if isinstance(value, Tensor):
        return value.detach().tolist()
    if isinstance(value, bool | int | float):
        return value
    raise TypeError(f"watch[{name!r}] gave {type(value).__name__}: must be a number or a tensor")


def _refuse_non_finite(learner: Learner, losses: Tensor, step: int, file: Checkpoint) -> None:
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    # One number decides: a sum is finite only if every term is (an overflow of the sum itself is as bad a sign).
    if torch.isfinite(sum((g.sum() for g in gradients), start=losses.sum())):
        return
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    which = (
        f"tasks {bad} of the meta-batch have a non-finite loss" if bad else "the losses are finite, the gradient is not"
    )
    kept = f"; the last good checkpoint is {file.path}" if file.exists else ""
    raise NonFiniteMetaGradient(
        f"meta-gradient at step {step} is not finite: {which}. "
        f"Try a smaller inner_lr, fewer inner_steps or a smaller outer rate{kept}"
    )
