"""One notebook in its process: started, watched, and how it ended."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctml.companion.headless.display import clock
from ctml.companion.headless.job import Job
from ctml.companion.headless.order import Order
from ctml.companion.presets import REHEARSAL
from ctml.companion.processes import Ended, alive, ended

_LONELY_SECONDS = 8  # that a process may go on after its kernel has died: it should notice within two


@dataclass(frozen=True)
class Died:
    """A process of the notebook was ended from outside.

    Attributes:
        who: which one.
        how: its signal and memory.
        words: what it said last.
    """

    who: str
    how: Ended
    words: str = ""


@dataclass(frozen=True)
class Failure:
    """The notebook failed: in one line, and with its cell and traceback."""

    reason: str
    detail: str


class Execution:
    """A notebook in its process, and the news it has sent so far.

    Args:
        job: what to execute.
        reason: why.
        workers: processes for its runs.
        second: an execution before it was killed.
    """

    def __init__(self, job: Job, reason: str, workers: int, *, second: bool = False) -> None:
        self.job, self.reason, self.second = job, reason, second
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
            scratch=job.scratch("kernel"),
        )
        self.errors = job.scratch("news", ".log")
        self._lonely: float | None = None
        self._abandoned = False
        for folder in (self.order.output, self.order.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        self.order.output.mkdir(parents=True)
        self.order.news_file.parent.mkdir(parents=True, exist_ok=True)
        self.order.news_file.unlink(missing_ok=True)
        self.order.executed.unlink(missing_ok=True)
        environment = {"CTML_WORKERS": str(workers), **os.environ, **self.order.environment()}
        if job.rehearsal:
            environment[REHEARSAL] = "1"
        own = str(Path(__file__).resolve().parents[3])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ctml.companion.headless.execute"],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only the runner, which then stops its notebooks
            )

    @property
    def seconds(self) -> float:
        """Return how long it has been going."""
        return time.monotonic() - self.started

    def step(self) -> str:
        """Say in a few words what the notebook is doing."""
        return words_of(self.order.news())

    def ended(self) -> Died | Failure | str | None:
        """Say how the notebook ended, "ok" if it went through, or None while it goes on."""
        how = ended(self.process)
        if how is None:
            self._end_lonely()
            return None
        shutil.rmtree(self.order.scratch, ignore_errors=True)
        if how.code == 0:
            return "ok"
        news = self.order.news()
        if died := next((n["died"] for n in news if "died" in n), None):
            return Died("its kernel", Ended(**died), self._last_words())
        failed = next((n["failed"] for n in news if "failed" in n), None)
        if failed is None and how.killed:
            who = "its kernel" if self._abandoned else "the process that executes it"
            return Died(who, how, self._last_words())
        text = failed["traceback"] if failed else self.errors.read_text(encoding="utf-8", errors="replace")
        return self._failure(text, failed["cell"] if failed else "", how)

    def stop(self) -> None:
        """End the process, which takes its kernel and its workers with it."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.order.scratch, ignore_errors=True)

    def _end_lonely(self) -> None:
        """End a process that did not notice that its kernel has died."""
        kernel = next((n["kernel"] for n in reversed(self.order.news()) if "kernel" in n), None)
        if kernel is None or alive(kernel):
            self._lonely = None
        elif self._lonely is None:
            self._lonely = time.monotonic()
        elif time.monotonic() - self._lonely > _LONELY_SECONDS:
            self._abandoned = True
            self.process.kill()

    def _failure(self, text: str, cell: str, how: Ended) -> Failure:
        lines = [line for line in text.strip().splitlines() if line.strip()]
        if not lines:
            free = shutil.disk_usage(self.job.project.build).free
            full = f"the disk of {self.job.project.build} is full: free some space, then start again to go on"
            lines = [full if free < 2**20 else str(how)]
        shown = _indented(lines[-14:])
        if cell:
            shown = f"{_indented(cell.strip().splitlines()[:12])}\n{shown}"
        where = self.order.executed if self.order.executed.is_file() else self.errors
        shown += f"\n  All of it: {where.relative_to(self.job.project.root)}"
        return Failure(lines[-1].strip(), shown)

    def _last_words(self) -> str:
        text = self.errors.read_text(encoding="utf-8", errors="replace")
        return _indented([line for line in text.splitlines() if line.strip() and "[IPKernelApp]" not in line][-3:])


def words_of(news: Sequence[Mapping[str, Any]]) -> str:
    """Say in a few words where a notebook is by its news, and when the runs it is at will be done."""
    cell = next((n["cell"] for n in reversed(news) if "cell" in n), None)
    words = "starting" if cell is None else f"cell {cell[0]}/{cell[1]}"
    if news and "runs" in news[-1]:
        what, done, total = news[-1]["runs"]
        words += f", {what} {done}/{total}"
        if done < total and (until := news[-1]["until"]) is not None:
            words += f", done about {clock(until)}"
        if remark := news[-1].get("remark"):
            words += f", {remark}"
    return words


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  | {line}" for line in lines)
