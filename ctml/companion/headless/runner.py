"""The runner: execute the jobs that are stale, several at once, each in a process of its own, and publish the results.

Invariant: results of a notebook are replaced as a whole, and only after it went through to the end.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctml.companion.headless.display import Display, clock
from ctml.companion.headless.job import Job
from ctml.companion.headless.order import Order
from ctml.companion.manifest import cores


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


class _Execution:
    """A notebook in its process, and the news it has sent so far."""

    def __init__(self, job: Job, reason: str, workers: int) -> None:
        self.job, self.reason = job, reason
        self.started = time.monotonic()
        self.ingredients = job.ingredients()  # of the code that runs: an edit during the run makes the result stale
        self.order = Order(
            runner=os.getpid(),
            root=job.project.root,
            notebook=job.notebook.name,
            source=job.notebook.source,
            preset=job.preset,
            changed=job.changed,
            output=job.scratch("staging"),
            executed=job.scratch("executed", ".ipynb"),
            news_file=job.scratch("news", ".jsonl"),
        )
        self.errors = job.scratch("news", ".log")
        shutil.rmtree(self.order.output, ignore_errors=True)
        self.order.output.mkdir(parents=True)
        self.order.news_file.parent.mkdir(parents=True, exist_ok=True)
        self.order.news_file.unlink(missing_ok=True)
        environment = {"CTML_WORKERS": str(workers), **os.environ, **self.order.environment()}
        own = str(Path(__file__).resolve().parents[3])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ctml.companion.headless.execute"],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only the runner, which then stops its notebooks in order
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def step(self) -> str:
        """Say in a few words what the notebook is doing."""
        return words_of(self.order.news())

    def finish(self) -> Finished:
        """Publish the results, or say what failed."""
        if self.process.returncode == 0:
            _replace(self.job.folder, self.order.output)
            self.job.write_stamp(self.ingredients)
            return Finished(self.job, "ok", self.seconds, self.reason)
        failed = next((n["failed"] for n in self.order.news() if "failed" in n), None)
        text = failed["traceback"] if failed else self.errors.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.strip().splitlines() if line.strip()] or [f"exit code {self.process.returncode}"]
        cell = _indented(failed["cell"].strip().splitlines()[:12]) if failed and failed["cell"] else ""
        detail = f"{cell}\n{_indented(lines[-14:])}" if cell else _indented(lines[-14:])
        where = self.order.executed if self.order.executed.is_file() else self.errors
        detail += f"\n  All of it: {where.relative_to(self.job.project.root)}"
        return Finished(self.job, "failed", self.seconds, lines[-1].strip(), detail)

    def stop(self) -> None:
        """Ask the process to stop its kernel and go; insist after some seconds."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=8)
        except subprocess.TimeoutExpired:
            self.process.kill()


def execute_stale(jobs: Sequence[Job], at_once: int, display: Display) -> list[Finished]:
    """Execute the stale ones of some jobs, `at_once` at a time, and return what became of each, in order.

    A failure does not stop the others. On KeyboardInterrupt the running notebooks are stopped and it is raised again:
    the finished runs of their studies are in the cache.
    """
    for job in jobs:
        job.check_writable()
    done: dict[int, Finished] = {}
    waiting: list[tuple[int, Job, str]] = []
    for index, job in enumerate(jobs):
        reason = job.why_stale()
        if reason is None:
            done[index] = Finished(job, "fresh", 0.0, "nothing changed since it ran on this machine")
        else:
            waiting.append((index, job, reason))
    at_once = max(1, min(at_once, len(waiting)))
    going: dict[int, _Execution] = {}
    try:
        with display:
            while waiting or going:
                while waiting and len(going) < at_once:
                    index, job, reason = waiting.pop(0)
                    display.started(job.notebook.name, reason)
                    going[index] = _Execution(job, reason, max(1, cores() // at_once))
                for index, execution in list(going.items()):
                    if execution.process.poll() is None:
                        display.progress(execution.job.notebook.name, execution.step(), execution.seconds)
                    else:
                        done[index] = execution.finish()
                        del going[index]
                        display.finished(execution.job.notebook.name, done[index].status, execution.seconds)
                display.left(len(done), len(jobs))
                time.sleep(0.1)
    finally:
        for execution in going.values():
            execution.stop()
    return [done[index] for index in range(len(jobs))]


def words_of(news: Sequence[Mapping[str, Any]]) -> str:
    """Say in a few words where a notebook is by its news, and when the runs it is at will be done."""
    cell = next((n["cell"] for n in reversed(news) if "cell" in n), None)
    words = "starting" if cell is None else f"cell {cell[0]}/{cell[1]}"
    if news and "runs" in news[-1]:
        what, done, total = news[-1]["runs"]
        words += f", {what} {done}/{total}"
        if done < total and (until := news[-1]["until"]) is not None:
            words += f", done about {clock(until)}"
    return words


def _replace(folder: Path, new: Path) -> None:
    """Put `new` in the place of `folder`; the old results are deleted only after the new ones are in place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = new.with_name(new.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        shutil.move(folder, old)
    shutil.move(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  | {line}" for line in lines)
