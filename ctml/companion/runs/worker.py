"""One run in a worker, a process: its arguments come and its outcome leaves as bytes, so any transport will do."""

import contextlib
import inspect
import os
import pickle
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle


@dataclass(frozen=True)
class Outcome:
    """What a run gave: its result, or the text of its failure; and the seconds it took."""

    result: Any
    seconds: float
    failure: str | None = None


def do_run(function: bytes, arguments: bytes, checkpoint: str, threads: int, parent: int | None) -> bytes:
    """Call `function(**arguments)` and return the pickled `Outcome`; failures are part of it.

    Args:
        checkpoint: path of the run's checkpoint, which a function with a parameter `checkpoint` is given; a machine
            that does not share the disk uses a temporary folder.
        threads: torch threads of the run.
        parent: process that must stay alive; the worker ends with it, so that nothing is left behind by a kill.
    """
    if parent is not None:
        leave_with(parent)
    started = time.perf_counter()
    try:
        call, keywords = cloudpickle.loads(function), cloudpickle.loads(arguments)
        if takes_checkpoint(call):
            keywords["checkpoint"] = _ready(Path(checkpoint))
        with torch_threads(threads):
            outcome = Outcome(call(**keywords), time.perf_counter() - started)
    except Exception:  # a run may fail in any way; the others go on, and the study reports it
        outcome = Outcome(None, time.perf_counter() - started, traceback.format_exc(limit=-8))
    return cloudpickle.dumps(outcome, protocol=pickle.HIGHEST_PROTOCOL)


def takes_checkpoint(function: Callable[..., Any]) -> bool:
    """Tell whether a function has a parameter named `checkpoint`."""
    return "checkpoint" in inspect.signature(function).parameters


def _ready(path: Path) -> Path:
    if not path.parents[2].is_dir():
        path = Path(tempfile.gettempdir(), "ctml", *path.parts[-2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Give torch a number of threads: results of float32 sums depend on it, and so does the load of the machine."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_watched: set[int] = set()


def leave_with(parent: int) -> None:
    """End this process when `parent` is gone, even if it was killed and could say nothing."""
    if os.name != "posix" or os.getpid() == parent or parent in _watched:
        return
    _watched.add(parent)

    def watch() -> None:
        while True:
            try:
                os.kill(parent, 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()
