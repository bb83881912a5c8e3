"""Time of several pieces of work that take turns, so that a machine that is busy for a while slows all of them."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

Name = TypeVar("Name", bound=Hashable)


def in_turns(
    works: Mapping[Name, Callable[[], object]],
    turns: int,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Return the seconds of each work at each turn, after one turn that is not counted.

    Args:
        works: what to time, by name.
        turns: how often; compare the least of them (what others took from the machine only ever adds).
        device: where the work runs; an accelerator is waited for.
        clock: `time.process_time` counts this process alone, which neighbours disturb least (no accelerator).

    Raises:
        ValueError: if there is no turn.
    """
    if turns < 1:
        raise ValueError(f"turns={turns}: must be at least 1")
    on_gpu = torch.device(device).type == "cuda"
    seconds: dict[Name, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            if on_gpu:
                torch.cuda.synchronize(device)
            start = clock()
            work()
            if on_gpu:
                torch.cuda.synchronize(device)
            if turn > 0:
                seconds[name].append(clock() - start)
    return seconds


def median_seconds(work: Callable[[], object], turns: int, device: torch.device | str = "cpu") -> float:
    """Return the median time of one work: of this process alone, or on an accelerator the wall's."""
    on_gpu = torch.device(device).type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    return statistics.median(in_turns({"work": work}, turns, device, clock)["work"])
