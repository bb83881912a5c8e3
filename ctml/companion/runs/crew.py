"""Runs side by side in processes of this machine.

Why not a pool of a library: when one of its workers is killed, those that we know can say neither which run it had nor
how much memory, and give up all runs in flight. Here each worker has a pipe of its own, so one that dies is noticed at
once, alone, and by name.

Invariant: a run whose process dies is done once more in a new one; dying again, it is lost and the others go on.
"""

import atexit
import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait

from ctml.companion.processes import Ended, ended, thread_limits
from ctml.companion.runs.worker import Outcome

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from ctml.companion.runs.worker import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


@dataclass(frozen=True)
class Call:
    """A run on its way: its key, its pickled arguments, the file of its checkpoint."""

    key: str
    arguments: bytes
    checkpoint: str


class _Worker:
    """A process that does one run at a time."""

    def __init__(self, threads: int) -> None:
        self.connection, theirs = Pipe()
        environment = {**os.environ, **thread_limits(threads)}
        with theirs:
            command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches only the notebook, which then ends its workers
            )
        self.started = 0.0

    def give(self, function: bytes, call: Call, threads: int) -> None:
        self.started = time.perf_counter()
        self.connection.send_bytes(pickle.dumps((function, call.arguments, call.checkpoint, threads)))

    def end(self) -> Ended:
        """Kill the process if it still lives, and say how it ended."""
        self.connection.close()
        deadline = time.monotonic() + 1  # one that closed its pipe by dying is told from one that is killed here
        while (how := ended(self.process)) is None:
            if time.monotonic() > deadline:
                self.process.kill()
            time.sleep(0.01)
        return how


class Crew:
    """The workers of a process, kept from one map to the next since each must import torch.

    Args:
        threads: threads of the libraries in each worker.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.free: list[_Worker] = []
        atexit.register(self.dismiss)

    def compute(self, function: bytes, calls: Iterator[Call], count: int) -> Iterator[tuple[str, bytes]]:
        """Yield key and pickled outcome of each call as it is done.

        Args:
            function: the pickled function.
            calls: asked for the next one only when a worker is free.
            count: workers at once.
        """
        busy: dict[_Worker, Call] = {}
        again: list[Call] = []
        died: set[str] = set()
        try:
            while True:
                while len(busy) < count and (call := again.pop() if again else next(calls, None)):
                    busy[self._given(function, call)] = call
                if not busy:
                    return
                ready = wait([worker.connection for worker in busy])
                for worker in [w for w in busy if w.connection in ready]:
                    call = busy[worker]
                    try:
                        data = worker.connection.recv_bytes()
                    except (EOFError, OSError):
                        del busy[worker]
                        how = worker.end()
                        if call.key not in died:
                            died.add(call.key)
                            again.append(call)
                            continue
                        line = f"its process died twice, of {how} the second time: {how.advice()}"
                        data = Outcome(None, time.perf_counter() - worker.started, line, outside=True).pickled()
                    else:
                        del busy[worker]
                        self.free.append(worker)
                    yield call.key, data
        finally:
            for worker in busy:
                worker.process.kill()
            for worker in busy:
                worker.end()

    def dismiss(self) -> None:
        """End the workers that wait."""
        while self.free:
            worker = self.free.pop()
            worker.process.kill()
            worker.end()

    def _given(self, function: bytes, call: Call) -> _Worker:
        """Give a call to a free worker, or a new one: those that waited may have left or been killed."""
        while self.free:
            worker = self.free.pop()
            try:
                worker.give(function, call, self.threads)
                return worker
            except OSError:
                worker.end()
        worker = _Worker(self.threads)
        with contextlib.suppress(OSError):  # dead before its first word: the empty pipe tells
            worker.give(function, call, self.threads)
        return worker
