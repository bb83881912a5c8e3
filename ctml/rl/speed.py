"""How fast policies train and bodies move here: wall time, since several threads are the point."""

import statistics
import time
from typing import Any

import torch

from ctml.checks import at_least
from ctml.rl.meta_policy import MetaPolicy
from ctml.rl.training import outer_step
from ctml.rl.trpo import TRPO


def iteration_seconds(
    learner: MetaPolicy,
    meta_batch: int,
    stream: torch.Generator,
    *,
    threads: int = 1,
    turns: int = 15,
    patience: float = 10.0,
) -> list[float]:
    """Return the times of whole meta-iterations, the first one left out where there are others.

    One is two batches of trajectories, two policy gradients, ten curvature products and a line search.

    Args:
        learner: trains on from where it is.
        meta_batch: tasks of an iteration.
        stream: where its draws come from.
        threads: torch's, for the time being.
        turns, patience: it ends after so many iterations or so many seconds.
    """
    at_least("turns", turns, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found: list[float] = []
    try:
        while len(found) <= turns and sum(found) < patience:
            started = time.perf_counter()
            outer_step(learner, learner.environment.sample(meta_batch, stream), TRPO(), stream)
            found.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return found[1:] or found


def fastest_iterations(learner: MetaPolicy, meta_batch: int, stream: torch.Generator) -> list[float]:
    """Return the times of iterations on one thread or on all of torch's, whichever has the smaller median.

    On a busy machine several threads wait for each other. Arguments as in `iteration_seconds`.
    """
    found = [
        iteration_seconds(learner, meta_batch, stream, threads=threads) for threads in {1, torch.get_num_threads()}
    ]
    return min(found, key=statistics.median)


def body_speeds(environment: Any, single: Any, stream: torch.Generator) -> dict[str, float]:
    """Return the steps of single bodies a second, in batches of 200 and for one Gymnasium environment by itself."""
    return {
        "bodies in batches; steps a second": steps_per_second(environment, 200, 50, stream),
        "a body in Gymnasium; steps a second": gymnasium_steps_per_second(single, 1000),
    }


def steps_per_second(environment: Any, bodies: int, steps: int, stream: torch.Generator) -> float:
    """Return how many steps of single bodies a batch takes in a second, with random actions for two tasks."""
    environment.reset(environment.sample(2, stream), bodies // 2, stream)
    started = time.perf_counter()
    for _ in range(steps):
        environment.step(2 * torch.rand(2, bodies // 2, environment.actions, generator=stream) - 1)
    return bodies * steps / (time.perf_counter() - started)


def gymnasium_steps_per_second(environment: Any, steps: int) -> float:
    """Return the same for one Gymnasium environment, stepped one at a time."""
    environment.reset(seed=0)
    started = time.perf_counter()
    for _ in range(steps):
        environment.step(environment.action_space.sample())
    return steps / (time.perf_counter() - started)
