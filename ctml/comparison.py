"""Methods compared on equal terms: one network, one stream of tasks a seed, one search, one budget of meta-steps.

    settings      of a small grid of the same size for every method, the one that scores best on validation classes
    test steps    of each run, the number that adapts best on validation tasks
    then          one meta-test, on fixed tasks of the test classes

Invariant: nothing of the test classes decides anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ctml.checks import at_least, one_of
from ctml.counting import count_gradients
from ctml.evaluation import meta_test
from ctml.learners.base import Learner
from ctml.learners.bi_maml import Switch
from ctml.learners.by_name import make_learner
from ctml.losses import cross_entropy
from ctml.models.conv4 import Conv4
from ctml.rng import generator
from ctml.tasks.few_shot import FewShot
from ctml.training import History, Validation, meta_train, one_cycle
from ctml.types import ClassPool, TaskBatch

SCHEDULES = ("one cycle", "constant")


@dataclass(frozen=True)
class Terms:
    """What all methods have in common.

    Attributes:
        meta_steps, meta_batch: outer steps, and tasks of each.
        ways, shots, queries: of a task; queries are a class's, in training.
        width, pool, norm: of the network, see `ctml.models.Conv4`.
        schedule: of the outer rate: "one cycle" (see `ctml.training.one_cycle`) or "constant".
        validate_every, validation_tasks, test_queries: of validation, whose tasks have as many queries as the test's.
        tasks_at_once: bounds memory; no number depends on it.

    Raises:
        ValueError: for an unknown schedule, or no meta-steps.
    """

    meta_steps: int = 60_000
    meta_batch: int = 32
    ways: int = 5
    shots: int = 1
    queries: int = 15
    width: int = 64
    pool: bool = False
    norm: str = "transductive"
    schedule: str = "constant"
    validate_every: int = 1000
    validation_tasks: int = 600
    test_queries: int = 15
    tasks_at_once: int | None = 32

    def __post_init__(self) -> None:
        at_least("meta_steps", self.meta_steps, 1)
        one_of("schedule", self.schedule, SCHEDULES)

    def tasks(self, pool: ClassPool, *, training: bool) -> FewShot:
        """Return the distribution of tasks over the classes of a pool."""
        return FewShot(pool, self.ways, self.shots, self.queries if training else self.test_queries)


@dataclass(frozen=True)
class Contender:
    """A method with what it is given, and the one dial of its adaptation that is searched.

    Attributes:
        method: a key of `ctml.learners.by_name.METHODS`.
        dial: the option that is searched.
        values: its values, as many for every contender.
        test_steps: numbers of inner steps to choose from when tested; empty for a method that takes none.
        fixed: the other options.
        joint_share: of BI-MAML: the share of the meta-steps that are joint training.
    """

    method: str
    dial: str
    values: tuple[float, ...]
    test_steps: tuple[int, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    joint_share: float | None = None

    def learner(self, terms: Terms, value: float, image: Sequence[int], seed: int) -> Learner:
        """Return the learner, from the same initial weights for every contender: those of the seed.

        Args:
            value: of the dial.
            image: channels, height and width.
        """
        model = Conv4(
            image[0], terms.ways, side=image[1], width=terms.width, pool=terms.pool, norm=terms.norm,
            generator=generator(seed, "initial weights"),
        )  # fmt: skip
        options = {self.dial: value, "tasks_at_once": terms.tasks_at_once, **self.fixed}
        if self.joint_share is not None:
            options["switch"] = Switch(at_most=round(self.joint_share * terms.meta_steps))
        return make_learner(self.method, model, cross_entropy, **options)


def meta_trained(
    contender: Contender, terms: Terms, value: float, outer_lr: float, seed: int, train: ClassPool, val: ClassPool, *,
    checkpoint: str | Path | None = None, device: torch.device | str = "cpu",
) -> tuple[Learner, History]:  # fmt: skip
    """Meta-train a contender by Adam and return it with the parameters of its best validation, and its history.

    Args:
        value, outer_lr: of the dial, and the rate of Adam.
        seed: of the initial weights and of the stream of tasks.
        train, val: classes of the two splits.
        checkpoint, device: see `meta_train`.
    """
    learner = contender.learner(terms, value, train.examples.shape[1:], seed).to(device)
    optimizer = torch.optim.Adam(learner.parameters(), outer_lr)
    cycle = one_cycle(optimizer, outer_lr, terms.meta_steps) if terms.schedule == "one cycle" else None
    tasks, fixed = (terms.tasks(pool.to(device), training=pool is train) for pool in (train, val))
    validation = Validation(fixed, min(terms.validate_every, terms.meta_steps), terms.validation_tasks)
    history = meta_train(
        learner, tasks, optimizer=optimizer, scheduler=cycle, steps=terms.meta_steps, meta_batch=terms.meta_batch,
        seed=seed, validation=validation, checkpoint=checkpoint, device=device, progress=False,
    )  # fmt: skip
    return learner, history


def compete(
    contender: Contender, terms: Terms, value: float, outer_lr: float, seed: int, splits: Mapping[str, ClassPool], *,
    test_tasks: int, checkpoint: str | Path | None = None, device: torch.device | str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Meta-train a contender, choose its test steps on validation tasks, and meta-test it once.

    Args:
        splits: the classes of "train", "val" and "test".
        test_tasks: fixed tasks of the test classes.

    Returns:
        `validation` [(meta-steps, accuracy)], `by steps` {inner steps: validation accuracy}, `steps` the chosen number,
        `test` the accuracy on each test task.
    """
    learner, history = meta_trained(
        contender, terms, value, outer_lr, seed, splits["train"], splits["val"], checkpoint=checkpoint, device=device
    )
    adapted = by_test_steps(contender, learner, terms, splits["val"], device)
    steps = max(adapted, key=lambda k: adapted[k])
    tasks = terms.tasks(splits["test"].to(device), training=False)
    scores = meta_test(learner, tasks, n_tasks=test_tasks, inner_steps=steps, device=device).scores.tolist()
    return {"validation": history.validation, "by steps": adapted, "steps": steps, "test": scores}


def gradients_a_task(learner: Learner, batch: TaskBatch) -> float:
    """Return what a task costs in a meta-step, in gradients of its loss; see `ctml.counting` for what is not seen."""
    with count_gradients(learner) as count:
        learner.meta_gradient(batch)
    return count.units / batch.n_tasks


def by_test_steps(
    contender: Contender, learner: Learner, terms: Terms, val: ClassPool, device: torch.device | str = "cpu"
) -> dict[int | None, float]:
    """Return the accuracy on validation tasks after each number of inner steps; None is the learner's own way."""
    tasks = terms.tasks(val.to(device), training=False)
    return {
        steps: meta_test(
            learner, tasks, n_tasks=terms.validation_tasks, inner_steps=steps, purpose="test steps", device=device
        ).interval.mean
        for steps in contender.test_steps or (None,)
    }


def grid(contenders: Mapping[str, Contender], outer_rates: Sequence[float]) -> list[dict[str, Any]]:
    """Return every setting to try: each value of the dial with each outer rate, of each contender.

    Raises:
        ValueError: if one contender would be searched more thoroughly than another.
    """
    sizes = {name: len(contender.values) for name, contender in contenders.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"contenders={sizes}: every dial must have as many values as the others")
    return [
        {"name": name, "value": value, "outer_lr": rate}
        for name, contender in contenders.items()
        for value in contender.values
        for rate in outer_rates
    ]


def winners(tried: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> dict[str, dict[str, float]]:
    """Return, by name, the setting of the best score; of equal ones the first.

    Args:
        tried: as `grid` lists them.
        scores: one of each, higher is better.
    """
    best: dict[str, tuple[float, dict[str, float]]] = {}
    for setting, score in zip(tried, scores, strict=True):
        if setting["name"] not in best or score > best[setting["name"]][0]:
            best[setting["name"]] = score, {k: setting[k] for k in ("value", "outer_lr")}
    return {name: setting for name, (_, setting) in best.items()}
