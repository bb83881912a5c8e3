"""Many independent runs: those that are finished come from the cache, the others go to the cores or to a cluster.

Invariant: each outcome is stored as soon as it arrives, so stopping at any moment loses at most the runs in flight;
and a run has the same number of threads whether one or all of them are still to do, so a resumed study gives the same
numbers. The number is part of the run's key.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle

from ctml.companion.manifest import cores
from ctml.companion.runs.cache import Cache
from ctml.companion.runs.fingerprint import fingerprint
from ctml.companion.runs.sources import Sources
from ctml.companion.runs.worker import Outcome, do_run

Progress = Callable[[int, int, float | None], None]  # runs done, runs in all, seconds that the others may take


class RunFailed(RuntimeError):
    """Some runs of a study failed; the finished ones are in the cache."""


def map_runs(
    function: Callable[..., Any],
    runs: Sequence[Mapping[str, Any]],
    *,
    cache: Cache,
    sources: Sources,
    threads: int = 1,
    progress: Progress = lambda done, total, left: None,
) -> list[Outcome]:
    """Return the outcome of `function(**run)` for every run, in order.

    A function with a parameter named `checkpoint` is given the file that belongs to the run alone, and that is deleted
    when the run is done; the file is no part of the run's key.

    Raises:
        TypeError: when a run is no dictionary of arguments, or gives the checkpoint itself.
        RunFailed: after all other runs are done, naming the failed ones.
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
    progress(sum(key in found for key in keys), len(keys), seconds_left(found.values(), len(missing), at_once))
    for key, data in _compute(function, missing, cache, threads):
        found[key] = cloudpickle.loads(data)
        if found[key].failure is None:
            cache.store(key, data)
        left = len(set(keys)) - len(found)
        progress(sum(key in found for key in keys), len(keys), seconds_left(found.values(), left, at_once))
    failed = [(run, found[key].failure) for key, run in zip(keys, runs, strict=True) if found[key].failure]
    if failed:
        run, failure = failed[0]
        call = f"{function.__name__}({', '.join(f'{name}={value!r:.60}' for name, value in run.items())})"
        raise RunFailed(f"{len(failed)} of {len(runs)} runs failed; the others are kept. First: {call}\n{failure}")
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


def _compute(
    function: Callable[..., Any], missing: Mapping[str, Mapping[str, Any]], cache: Cache, threads: int
) -> Iterator[tuple[str, bytes]]:
    """Yield key and pickled outcome of each run as it finishes."""
    import joblib

    if not missing:
        return
    cluster = os.environ.get("CTML_DASK")
    count = _at_once(len(missing), threads)
    parent = None if cluster or count == 1 else os.getpid()
    pickled = cloudpickle.dumps(function)
    cache.checkpoints.mkdir(parents=True, exist_ok=True)

    with _backend(cluster, threads), _quiet_bars():
        options: Any = {"batch_size": 1}  # several runs in one parcel would be lost together
        parallel: Any = joblib.Parallel(n_jobs=-1 if cluster else count, return_as="generator_unordered", **options)
        yield from parallel(_calls(missing, pickled, cache, threads, parent))


def _calls(
    missing: Mapping[str, Mapping[str, Any]], function: bytes, cache: Cache, threads: int, parent: int | None
) -> Iterator[Any]:
    import joblib

    for key, run in missing.items():
        arguments = cloudpickle.dumps(dict(run))
        yield joblib.delayed(_keyed)(key, function, arguments, str(cache.checkpoint(key)), threads, parent)


def _keyed(key: str, *call: Any) -> tuple[str, bytes]:
    return key, do_run(*call)


@contextlib.contextmanager
def _backend(cluster: str | None, threads: int) -> Iterator[None]:
    import joblib

    if not cluster:
        with joblib.parallel_config("loky", inner_max_num_threads=threads), warnings.catch_warnings():
            # loky ends a worker whose memory has grown, and gives its runs to a new one: nothing the reader must know
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
            yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise RuntimeError(
            f"CTML_DASK={cluster} needs dask: pip install -e '.[cluster]', or unset CTML_DASK."
        ) from None
    try:
        client = Client(cluster, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise RuntimeError(f"No Dask scheduler answers at CTML_DASK={cluster}: {error}") from None
    with client, joblib.parallel_config("dask", client=client):
        yield


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
