"""The runner: execute the jobs that are stale, several at once, each in a process of its own, and publish the results.

Invariants:
    * Results of a notebook are replaced as a whole, and only after it went through to the end.
    * A notebook at a preset is executed by one runner at a time: a second one goes on with others, and then waits.
    * A notebook whose processes are killed is executed once more: its finished runs are in the cache.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ctml.companion.headless.display import Display
from ctml.companion.headless.execution import Died, Execution, Failure
from ctml.companion.headless.interrupts import undisturbed
from ctml.companion.headless.job import Job
from ctml.companion.headless.replace import recover, replace
from ctml.companion.headless.seal import seal
from ctml.companion.manifest import cores
from ctml.locks import Lock, held


@dataclass(frozen=True)
class Finished:
    """What became of a job.

    Attributes:
        status: ok, failed, or fresh (nothing was to be done).
        reason: why it ran, or why it failed.
        detail: for a failure, the cell and the end of its traceback.
    """

    job: Job
    status: str
    seconds: float
    reason: str
    detail: str = ""


def execute_stale(jobs: Sequence[Job], at_once: int, display: Display) -> list[Finished]:
    """Execute the stale ones of some jobs, `at_once` at a time, and return what became of each, in order.

    A failure does not stop the others. On KeyboardInterrupt the running notebooks are stopped and it is raised again:
    the finished runs of their studies are in the cache.
    """
    for job in jobs:
        job.check_writable()
    stale = [index for index, job in enumerate(jobs) if job.why_stale() is not None]
    at_once = max(1, min(at_once, len(stale)))
    turn = _Turn(jobs, stale, max(1, cores() // at_once), display)
    try:
        with display:
            while turn.waiting or turn.going:
                turn.start(at_once)
                turn.look()
                display.left(len(turn.done), len(jobs))
                time.sleep(0.1)
    finally:
        with undisturbed():
            turn.stop()
    return [turn.done[index] for index in range(len(jobs))]


class _Turn:
    """What waits, what goes and what is done."""

    def __init__(self, jobs: Sequence[Job], stale: Sequence[int], workers: int, display: Display) -> None:
        self.jobs, self.workers, self.display = jobs, workers, display
        self.done = {index: _fresh(job) for index, job in enumerate(jobs) if index not in stale}
        self.waiting = list(stale)
        self.going: dict[int, Execution] = {}
        self.locks: dict[int, Lock] = {}
        self.said: set[int] = set()

    def start(self, at_once: int) -> None:
        """Start as many notebooks as may go at once, leaving out those that another runner has."""
        for index in list(self.waiting):
            if len(self.going) >= at_once:
                return
            job = self.jobs[index]
            lock = Lock(job.lock)
            try:
                if not lock.take(f"{job.notebook.name} at preset {job.preset}"):
                    if index not in self.said:
                        self.said.add(index)
                        self.display.say(f"{job.notebook.name}: {lock.holder()} is at it; others first")
                    continue
                self.locks[index] = lock
                self.waiting.remove(index)
                recover(job.folder)
                reason = job.why_stale()
                if reason is None:
                    self._is_done(index, _fresh(job))
                    continue
                self.display.started(job.notebook.name, reason)
                self.going[index] = Execution(job, reason, self.workers)
            except OSError as error:
                with contextlib.suppress(ValueError):
                    self.waiting.remove(index)
                self._is_done(index, _unwritten(job, 0.0, error))

    def look(self) -> None:
        """See how far the notebooks are, publish what is done, and start once more what was killed."""
        for index, execution in list(self.going.items()):
            name = execution.job.notebook.name
            try:
                ended = execution.ended()
                if ended is None:
                    self.display.progress(name, execution.step(), execution.seconds)
                    continue
                del self.going[index]
                if isinstance(ended, Died) and not execution.second:
                    self.display.say(f"{name}: {ended.who} died of {ended.how}; once more")
                    self.going[index] = Execution(execution.job, execution.reason, self.workers, second=True)
                    continue
                finished = self._finished(execution, ended)
            except OSError as error:
                self.going.pop(index, None)
                execution.stop()
                finished = _unwritten(execution.job, execution.seconds, error)
            self._is_done(index, finished)
            self.display.finished(name, finished.status, execution.seconds)

    def stop(self) -> None:
        """End what goes, at once."""
        for execution in self.going.values():
            execution.stop()
        for lock in self.locks.values():
            lock.release()

    def _is_done(self, index: int, finished: Finished) -> None:
        self.done[index] = finished
        if lock := self.locks.pop(index, None):
            lock.release()

    def _finished(self, execution: Execution, ended: Died | Failure | str) -> Finished:
        job = execution.job
        if isinstance(ended, Died):
            line = f"{ended.who} died twice, of {ended.how} the second time: {ended.how.advice()}"
            return Finished(job, "failed", execution.seconds, line, f"  | {line}\n{ended.words}".rstrip())
        if isinstance(ended, Failure):
            return Finished(job, "failed", execution.seconds, ended.reason, ended.detail)
        with held(job.project.publishing, "publishes results"), undisturbed():
            try:
                seal(execution.order.output, execution.ingredients)
            except ValueError as error:
                return Finished(job, "failed", execution.seconds, str(error), f"  | {error}")
            replace(job.folder, execution.order.output)
            job.write_stamp(execution.ingredients)
        return Finished(job, "ok", execution.seconds, execution.reason)


def _fresh(job: Job) -> Finished:
    return Finished(job, "fresh", 0.0, "nothing changed since it ran on this machine")


def _unwritten(job: Job, seconds: float, error: OSError) -> Finished:
    place = f" {error.filename2 or error.filename}" if error.filename else ""
    line = f"cannot write{place}: {error.strerror or error}; free some space or make it writable, then start again"
    return Finished(job, "failed", seconds, line, f"  | {line}")
