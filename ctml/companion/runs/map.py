"""Many independent runs: those that are finished come from the cache, the others go to the cores or to a cluster.

Invariants:
    * Each outcome is stored as soon as it arrives, so stopping at any moment loses at most the runs in flight; and a
      run has the same number of threads whether one or all of them are still to do, so a resumed study gives the same
      numbers. The number is part of the run's key.
    * No run is done by two processes at once: each is locked while it is done, and whoever comes second does other runs
      or waits, and takes the result from the cache.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle

from ctml.companion.manifest import cores
from ctml.companion.project import Refusal, available_data
from ctml.companion.runs import cluster
from ctml.companion.runs.cache import Cache
from ctml.companion.runs.crew import Call, Crew
from ctml.companion.runs.fingerprint import fingerprint, reached
from ctml.companion.runs.needs import Needs
from ctml.companion.runs.sources import Sources
from ctml.companion.runs.worker import Outcome, do_run
from ctml.locks import Lock

# runs done, runs in all, seconds that the others may take, and whom some of them wait for
Progress = Callable[[int, int, float | None, str], None]

_crews: dict[int, Crew] = {}


class RunFailed(RuntimeError):
    """Some runs of a study failed; the finished ones are in the cache."""


class RunLost(Refusal):
    """Some runs could not be done for reasons outside their code; the finished ones are in the cache."""


def map_runs(
    function: Callable[..., Any],
    runs: Sequence[Mapping[str, Any]],
    *,
    cache: Cache,
    sources: Sources,
    threads: int = 1,
    data: Sequence[str] = (),
    progress: Progress = lambda done, total, left, remark: None,
) -> list[Outcome]:
    """Return the outcome of `function(**run)` for every run, in order.

    A function with a parameter named `checkpoint` is given the file that belongs to the run alone, and that is deleted
    when the run is done; the file is no part of the run's key.

    Args:
        data: names of the data sets that the runs read, which a worker on another machine must have.

    Raises:
        TypeError: when a run is no dictionary of arguments, or gives the checkpoint itself.
        RunFailed: after all other runs are done, naming the failed ones.
        RunLost: likewise, when no code is to blame: no memory, a process that was killed.
    """
    for run in runs:
        if not isinstance(run, Mapping):
            raise TypeError(f"study.map takes dictionaries of arguments, as in dict(seed=0), not {run!r}.")
        if "checkpoint" in run:
            raise TypeError(f"study.map gives each run its own checkpoint: leave checkpoint={run['checkpoint']!r} out.")
    keys = [fingerprint(function, run, sources, threads) for run in runs]
    found: dict[str, Outcome] = {}
    for key in dict.fromkeys(keys):
        outcome = cache.load(key)
        if isinstance(outcome, Outcome):
            found[key] = outcome
    missing = {key: run for key, run in zip(keys, runs, strict=True) if key not in found}

    at_once = _at_once(len(missing), threads)

    def tell(remark: str = "") -> None:
        left = len(set(keys)) - len(found)
        progress(sum(key in found for key in keys), len(keys), seconds_left(found.values(), left, at_once), remark)

    tell()
    if missing:
        needs = None
        if cluster.address():
            modules, packages = reached(function, list(missing.values()), sources)
            needs = Needs(modules, packages, tuple(name for name in available_data() if name in data))
        transport = _Transport(function, threads, at_once, needs)
        with contextlib.closing(_shared(missing, transport, cache, tell)) as arriving:
            for key, outcome in arriving:
                found[key] = outcome
                tell()
    failed = [(run, found[key]) for key, run in zip(keys, runs, strict=True) if found[key].failure]
    if failed:
        run, outcome = next(((r, o) for r, o in failed if not o.outside), failed[0])
        call = f"{function.__name__}({', '.join(f'{name}={value!r:.60}' for name, value in run.items())})"
        head = f"{len(failed)} of {len(runs)} runs failed; the others are kept. First: {call}"
        raise RunLost(f"{head}: {outcome.failure}") if outcome.outside else RunFailed(f"{head}\n{outcome.failure}")
    return [found[key] for key in keys]


def workers() -> int:
    """Return how many runs go at once: CTML_WORKERS, else the cores, else two for each GPU that torch sees."""
    if given := os.environ.get("CTML_WORKERS"):
        if not given.isdigit() or given == "0":
            raise ValueError(f"CTML_WORKERS={given!r} is no number of processes: give 1 or more.")
        return int(given)
    torch = sys.modules.get("torch")
    gpus = torch.cuda.device_count() if torch is not None and torch.cuda.is_available() else 0
    return min(cores(), 2 * gpus) if gpus else cores()


def seconds_left(finished: Collection[Outcome], left: int, at_once: int) -> float | None:
    """Return about how long the runs that are left will take, by the mean of those that are finished, cached or not.

    Runs that have begun count as not begun, so that the estimate errs on the late side; None before the first is done.
    """
    if left == 0:
        return 0.0
    if not finished:
        return None
    mean = sum(outcome.seconds for outcome in finished) / len(finished)
    return mean * left / min(at_once, left)


def _at_once(runs: int, threads: int) -> int:
    return max(1, min(workers() // threads, runs))


def _shared(
    missing: Mapping[str, Mapping[str, Any]], transport: "_Transport", cache: Cache, tell: Callable[[str], None]
) -> Generator[tuple[str, Outcome], None, None]:
    """Yield the outcome of each missing run: done here, or by another process that came first."""
    waiting = dict(missing)
    mine: dict[str, Lock] = {}
    done_elsewhere: list[tuple[str, Outcome]] = []

    def claimed() -> Iterator[Call]:
        for key in list(waiting):
            lock = Lock(cache.lock(key))
            if not lock.take(f"run {key[:8]}"):
                tell(f"some in {lock.holder()}")
                continue
            mine[key] = lock
            outcome = cache.load(key)
            if isinstance(outcome, Outcome):
                mine.pop(key).release()
                del waiting[key]
                done_elsewhere.append((key, outcome))
                continue
            yield Call(key, cloudpickle.dumps(dict(missing[key])), str(cache.checkpoint(key)))

    try:
        while waiting:
            before = len(waiting)
            with contextlib.closing(transport.compute(claimed())) as arriving:
                for key, data in arriving:
                    outcome = cloudpickle.loads(data)
                    if outcome.failure is None:
                        cache.store(key, data)
                    mine.pop(key).release()
                    del waiting[key]
                    yield key, outcome
            yield from done_elsewhere
            done_elsewhere.clear()
            if waiting and len(waiting) == before:
                time.sleep(0.2)
    finally:
        for lock in mine.values():
            lock.release()


class _Transport:
    """The way to whoever does the runs: this process, others on this machine, or a cluster."""

    def __init__(self, function: Callable[..., Any], threads: int, count: int, needs: Needs | None) -> None:
        self.function, self.name = cloudpickle.dumps(function), function.__name__
        self.threads, self.needs = threads, needs
        self.count = count if os.name == "posix" else 1  # elsewhere a pipe cannot be handed on like this

    def compute(self, calls: Iterator[Call]) -> Generator[tuple[str, bytes], None, None]:
        """Yield key and pickled outcome of each run as it finishes."""
        with _quiet_bars():
            if self.needs is not None:
                yield from cluster.compute(self.function, self.name, calls, self.threads, self.needs)
            elif self.count == 1:
                for call in calls:
                    yield call.key, do_run(self.function, call.arguments, call.checkpoint, self.threads)
            else:
                crew = _crews.setdefault(self.threads, Crew(self.threads))
                yield from crew.compute(self.function, calls, self.count)


@contextlib.contextmanager
def _quiet_bars() -> Iterator[None]:
    """Keep the progress bars of single runs out of the notebook: several at once only garble each other."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
