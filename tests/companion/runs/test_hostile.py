"""Runs on a hostile day: killed workers, other processes at the same runs, damaged checkpoints, clusters that die."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from companion.processes import LIMIT, wait_for

from ctml.companion.processes import alive
from ctml.companion.project import Refusal
from ctml.companion.runs import cluster
from ctml.companion.runs.needs import Needs

# A script stands for the notebook: like a kernel it is a __main__ of its own.
SCRIPT = """
import os, signal, time
from pathlib import Path
from ctml.companion import Study

study = Study("demo", "01_line", "quick", {})
here = Path.cwd()

def note(name, text=""):
    with (here / name).open("a") as file:
        file.write(f"{text}\\n")

def gate(name):
    while not (here / name).exists():
        time.sleep(0.02)

def run(seed):
    note("log", f"{seed} {os.getpid()}")
    BODY
    return seed * 10

if __name__ == "__main__":
    print(study.map(run, [{"seed": s} for s in range(4)]))
"""


@pytest.fixture
def go(root: Path, environment: dict[str, str]) -> Callable[..., "subprocess.Popen[str]"]:
    """Return a function that starts the script with a body for its run."""

    def start(body: str, **extra: str) -> "subprocess.Popen[str]":
        (root / "script.py").write_text(SCRIPT.replace("BODY", body.replace("\n", "\n    ")))
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=root,
            env={**environment, "CTML_WORKERS": "2", **extra},
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    return start


def log(root: Path) -> list[list[int]]:
    path = root / "log"
    return [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def last(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, error = process.communicate(timeout=LIMIT)
    return process.returncode, out, error


def test_a_run_whose_worker_is_killed_is_done_once_more(root: Path, go: Callable[..., "subprocess.Popen[str]"]) -> None:
    code, out, error = last(
        go('if seed == 1 and not (here / "killed").exists():\n    note("killed")\n    os.kill(os.getpid(), 9)')
    )
    assert (code, out) == (0, "[0, 10, 20, 30]\n"), error
    assert sorted(seed for seed, _ in log(root)) == [0, 1, 1, 2, 3], "only the run that was lost is done again"


def test_a_run_that_is_killed_again_is_named_and_the_others_are_kept(
    root: Path, go: Callable[..., "subprocess.Popen[str]"]
) -> None:
    code, _, error = last(go("if seed == 1:\n    os.abort()"))
    assert code == 1
    line = error.strip().splitlines()[-1]
    assert (
        "1 of 4 runs failed; the others are kept. First: run(seed=1): its process died twice, of SIGABRT with" in line
    )
    assert "GB in memory at most the second time: as C++ ends without memory" in line
    assert "try fewer JOBS or CTML_WORKERS, or a smaller tasks_at_once" in line
    assert len(list((root / ".build" / "cache").rglob("*.run"))) == 3
    assert not any(alive(pid) for _, pid in log(root)), "no worker outlives its notebook"


def test_a_run_that_asks_for_too_much_memory_says_how_much(go: Callable[..., "subprocess.Popen[str]"]) -> None:
    code, _, error = last(go("import torch\nif seed == 2:\n    torch.empty(10**15)"))
    assert code == 1
    line = error.strip().splitlines()[-1]
    assert "First: run(seed=2): out of memory: 3725290.3 GB were asked for at once" in line


def test_two_processes_share_the_runs_and_do_none_twice(root: Path, go: Callable[..., "subprocess.Popen[str]"]) -> None:
    first = go('gate("open")')
    wait_for(lambda: len(log(root)) == 2, "two runs of the first process")
    second = go('gate("open")')
    wait_for(lambda: len(log(root)) == 4, "the other two runs, by the second process")
    (root / "open").touch()
    assert last(first)[:2] == last(second)[:2] == (0, "[0, 10, 20, 30]\n")
    assert sorted(seed for seed, _ in log(root)) == [0, 1, 2, 3]
    assert not list((root / ".build" / "locks" / "runs").iterdir())


def test_whoever_waited_does_the_runs_of_one_that_was_killed(
    root: Path, go: Callable[..., "subprocess.Popen[str]"]
) -> None:
    first = go('gate("open")', CTML_WORKERS="4")
    wait_for(lambda: len(log(root)) == 4, "all runs of the first process")
    second = go('gate("open")')
    first.kill()
    first.communicate()
    wait_for(lambda: len(log(root)) == 6, "the runs that nobody holds any more")
    (root / "open").touch()
    assert last(second)[:2] == (0, "[0, 10, 20, 30]\n")


@pytest.mark.parametrize(
    "given, says",
    [
        ("", "CTML_DASK='' is no address of a Dask scheduler: give tcp://host:port, or unset it."),
        ("nowhere", "CTML_DASK='nowhere' is no address"),
        ("nonsense://nowhere:1", "CTML_DASK='nonsense://nowhere:1' is no address"),
        ("tcp://127.0.0.1:1", "No Dask scheduler answers at CTML_DASK=tcp://127.0.0.1:1 ("),
        ("silent", "No Dask scheduler answers at CTML_DASK=tcp://127.0.0.1:"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_refused_in_one_line(
    given: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SILENCE", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}" if given == "silent" else given
        monkeypatch.setenv("CTML_DASK", address)
        with pytest.raises(Refusal) as refusal:
            cluster.check()
    assert str(refusal.value).startswith(says)
    assert "\n" not in str(refusal.value)


def test_another_machine_must_have_the_same_code_and_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "images.zip").touch()
    monkeypatch.setenv("CTML_DATA", str(tmp_path))
    from ctml.companion.runs.fingerprint import version
    from ctml.companion.runs.sources import code_digest

    own = code_digest(Path(cluster.__file__).read_text())
    name = "ctml.companion.runs.cluster"
    assert Needs({name: own}, {"torch": version("torch")}, ("omniglot",)).missing() is None
    assert str(Needs({name: "other"}, {}, ()).missing()).startswith(f"has another {name}: bring it to the same commit")
    assert str(Needs({"ctml.gone": own}, {}, ()).missing()).startswith("lacks ctml.gone")
    assert "and this checkout runs with 0.1" in str(Needs({}, {"torch": "0.1"}, ()).missing())
    assert str(Needs({}, {}, ("fc100",)).missing()).startswith("lacks the data fc100")
    assert "and this checkout runs on 2.7" in str(Needs({}, {}, (), python="2.7").missing())


# Each start takes the next number and waits for its gate, so that the test decides how far the cluster comes.
NUMBERED = """number = 1
while True:
    try:
        (here / f"start {number}").touch(exist_ok=False)
        break
    except FileExistsError:
        number += 1
gate(f"open {number}")"""

Part = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def part(root: Path, environment: dict[str, str]) -> Iterator[Part]:
    """Return a function that starts a part of a cluster: a scheduler or a worker, on loopback only."""
    started = []

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "distributed.cli.dask_spec", "--spec", arguments[0], *arguments[1:]]
        process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_cluster_loses_a_worker_and_then_its_scheduler(
    root: Path, go: Callable[..., "subprocess.Popen[str]"], part: Part
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    options = {"host": "127.0.0.1", "dashboard": False}
    scheduler = part(json.dumps({"cls": "distributed.Scheduler", "opts": {"port": port, **options}}))
    worker = {"cls": "distributed.Worker", "opts": {"nthreads": 1, "host": "127.0.0.1", "dashboard_address": None}}
    for _ in range(2):
        part(json.dumps(worker), address)
    study = go(NUMBERED, CTML_DASK=address)
    wait_for((root / "start 2").exists, "one run on each worker")
    lost, victim = log(root)[0]
    os.kill(victim, signal.SIGKILL)
    for number in range(1, 5):
        (root / f"open {number}").touch()
    wait_for((root / "start 5").exists, "the worker that is left, at its fourth run")
    starts = [seed for seed, _ in log(root)]
    assert starts.count(lost) == 2 and sorted(set(starts)) == [0, 1, 2, 3], "the lost run was given to the other worker"
    wait_for(lambda: len(list((root / ".build" / "cache").rglob("*.run"))) == 3, "the finished runs, kept here")
    scheduler.kill()
    code, _, error = last(study)
    assert code == 1
    line = error.strip().splitlines()[-1]
    assert f"The Dask scheduler at {address} no longer answers; finished runs are kept" in line
    assert last(go("pass"))[:2] == (0, "[0, 10, 20, 30]\n"), "it goes on without the cluster"
