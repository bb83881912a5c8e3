"""A preset that takes a night: stopped at any time it goes on where it was, and it says when it will be done."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ctml.companion.headless.display import clock
from ctml.companion.headless.execution import words_of
from ctml.companion.runs.map import seconds_left
from ctml.companion.runs.worker import Outcome

Call = Callable[..., "subprocess.CompletedProcess[str]"]

SLOW = """
def fit(seed):
    import time
    with open({log!r}, "a") as file:
        file.write(f"{{seed}}\\n")
    time.sleep(0.4)
"""


def test_a_killed_night_goes_on_where_it_was(root: Path, environment: dict[str, str], ctml: Call) -> None:
    path, log = root / "notebooks" / "demo" / "01_line.py", root / "log"
    path.write_text(path.read_text().replace("\ndef fit(seed):\n", SLOW.format(log=str(log))))
    command = [sys.executable, "-m", "ctml.companion", "reproduce", "--preset", "long"]
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL)
    runs, deadline = root / ".build" / "cache", time.monotonic() + 90
    while len(list(runs.rglob("*.run"))) < 2:
        assert time.monotonic() < deadline, "two of six runs should be done by now"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (root / "results").exists()
    before = started(log)
    while started(log) != before or len(before) < 3:  # the run in flight may end before its worker sees the kill
        before = started(log)
        time.sleep(1)
    finished = len(list(runs.rglob("*.run")))
    assert 2 <= finished < 6

    done = ctml("reproduce", "--preset", "long")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(started(log)) - len(before) == 6 - finished, "a finished run is not run again"
    table = (root / "results" / "long" / "demo" / "01_line" / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["seed", *"012345"]
    news = [json.loads(line) for line in (root / ".build/news/long/demo/01_line.jsonl").read_text().splitlines()]
    estimates = [n["until"] for n in news if "runs" in n and n["runs"][1] < n["runs"][2]]
    assert estimates and all(estimates), "what was finished before the kill tells how long the rest will take"


def started(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize(
    "seconds, left, at_once, expected",
    [([], 4, 2, None), ([60.0], 4, 2, 120.0), ([30.0, 90.0], 1, 2, 60.0), ([60.0], 0, 1, 0.0)],
)
def test_the_rest_takes_as_long_as_what_is_finished(
    seconds: list[float], left: int, at_once: int, expected: float | None
) -> None:
    assert seconds_left([Outcome(None, s) for s in seconds], left, at_once) == expected


def test_it_says_when_its_runs_will_be_done() -> None:
    morning = time.mktime((2026, 11, 22, 2, 40, 0, 0, 0, -1))
    assert clock(morning) == "02:40 (Nov 22)"
    at = {"cell": [7, 20]}
    assert words_of([]) == "starting"
    assert (
        words_of([at, {"runs": ["run", 3, 50], "until": morning}]) == "cell 7/20, run 3/50, done about 02:40 (Nov 22)"
    )
    assert words_of([at, {"runs": ["run", 0, 50], "until": None}]) == "cell 7/20, run 0/50"
    assert words_of([at, {"runs": ["run", 50, 50], "until": morning}]) == "cell 7/20, run 50/50"


def test_a_rehearsal_takes_the_path_of_paper_and_decides_nothing(root: Path, ctml: Call) -> None:
    path = root / "notebooks" / "demo" / "01_line.py"
    path.write_text(path.read_text().replace("    runs: int\n", "    runs: int\n    seeds: int = 100\n"))
    done = ctml("rehearse")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with rehearsal=True" in done.stdout and not (root / "results").exists()
    folder = root / ".build" / "variants" / "paper" / "demo" / "01_line" / "rehearsal=True"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"]["runs"] == 8 and manifest["parameters"]["seeds"] == 2
    assert "nothing changed since" in ctml("rehearse").stdout
