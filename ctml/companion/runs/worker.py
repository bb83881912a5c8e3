"""One run in a worker, a process: its arguments come and its outcome leaves as bytes, so any transport will do."""

import contextlib
import inspect
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle

from ctml.companion import outside
from ctml.companion.processes import end_with_parent

_IDLE_SECONDS = 300  # a worker without work gives its memory back


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        result: what the function returned, None after a failure.
        seconds: the time it took.
        failure: the text of a failure.
        outside: no code is to blame for the failure (no memory, a killed process): one line says all.
    """

    result: Any
    seconds: float
    failure: str | None = None
    outside: bool = False

    def pickled(self) -> bytes:
        """Return the outcome as bytes."""
        return cloudpickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL)


def do_run(function: bytes, arguments: bytes, checkpoint: str, threads: int) -> bytes:
    """Call `function(**arguments)` and return the pickled `Outcome`; failures are part of it.

    Args:
        checkpoint: path of the run's checkpoint, which a function with a parameter `checkpoint` is given; a machine
            that does not share the disk uses a temporary folder.
        threads: torch threads of the run.
    """
    started = time.perf_counter()
    try:
        call, keywords = cloudpickle.loads(function), cloudpickle.loads(arguments)
        with torch_threads(threads):
            result = _resumed(call, keywords, _ready(Path(checkpoint))) if takes_checkpoint(call) else call(**keywords)
        outcome = Outcome(result, time.perf_counter() - started)
    except Exception as error:  # a run may fail in any way; the others go on, and the study reports it
        line = outside.reason(type(error).__name__, str(error))
        text = line or traceback.format_exc(limit=-8)
        outcome = Outcome(None, time.perf_counter() - started, text, outside=line is not None)
    return outcome.pickled()


def takes_checkpoint(function: Callable[..., Any]) -> bool:
    """Tell whether a function has a parameter named `checkpoint`."""
    return "checkpoint" in inspect.signature(function).parameters


def _resumed(call: Callable[..., Any], keywords: dict[str, Any], path: Path) -> Any:
    """Call a function with its checkpoint, and from the start if it refuses that file by a ValueError that names it.

    The file was damaged then, or written by another version: what it kept is lost, and nothing else.
    """
    try:
        return call(**keywords, checkpoint=path)
    except ValueError as error:
        if not path.exists() or str(path) not in str(error):
            raise
    path.replace(path.with_name("refused"))
    return call(**keywords, checkpoint=path)


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


def serve(handle: int, parent: int) -> None:
    """Do the runs that come through a pipe, one after another, until it is closed or nothing comes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who was asked to stop ends its workers
    end_with_parent(parent, at_once=False)
    with Connection(handle) as connection, contextlib.suppress(EOFError, BrokenPipeError):
        while connection.poll(_IDLE_SECONDS):
            connection.send_bytes(do_run(*pickle.loads(connection.recv_bytes())))
