"""Runs of a study as a notebook makes them: parallel, cached, resumable after a kill, on cores or on Dask."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# A script stands for the notebook: like a kernel it is a __main__ of its own, and it can be killed.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
import torch
from ctml.companion import Study

study = Study("demo", "01_line", "quick", {{}})
log = Path({log!r})

def run(seed, checkpoint):
    path = checkpoint
    start = int(path.read_text()) if path.exists() else 0
    with log.open("a") as file:
        file.write(json.dumps([seed, start, os.getpid(), torch.get_num_threads()]) + "\\n")
    for step in range(start, 10):
        time.sleep({pause})
        (path.parent / "next").write_text(str(step + 1))  # the kill may come in the middle of writing
        (path.parent / "next").replace(path)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, generator=generator)

results = study.map(run, [{{"seed": s}} for s in range(4)], threads=int(os.environ.get("THREADS", 1)))
print(json.dumps([r.tolist() for r in results]))
"""


def script(root: Path, pause: float) -> Path:
    path = root / "notebooks" / "demo" / "script.py"
    path.write_text(SCRIPT.format(log=str(root / "log"), pause=pause))
    (path.parent / "script.py").rename(root / "script.py")
    return root / "script.py"


def log(root: Path) -> list[list[int]]:
    path = root / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def call(path: Path, environment: dict[str, str], **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(path)]
    return subprocess.run(
        command, cwd=path.parent, env={**environment, **extra}, capture_output=True, text=True, timeout=120, check=False
    )


def test_results_come_in_order_and_a_second_time_from_the_cache(root: Path, environment: dict[str, str]) -> None:
    path = script(root, pause=0)
    first = call(path, environment, CTML_WORKERS="2")
    assert first.returncode == 0, first.stderr
    assert sorted(seed for seed, *_ in log(root)) == [0, 1, 2, 3]
    assert {threads for *_, threads in log(root)} == {1}
    assert len({pid for _, _, pid, _ in log(root)}) == 2
    second = call(path, environment, CTML_WORKERS="1")
    assert second.stdout == first.stdout
    assert len(log(root)) == 4
    assert not list((root / ".build" / "checkpoints").iterdir())


def test_a_killed_study_redoes_only_what_was_in_flight(root: Path, environment: dict[str, str]) -> None:
    whole = call(script(root, pause=0), environment, CTML_WORKERS="2")
    (root / "log").unlink()
    subprocess.run(["rm", "-r", str(root / ".build")], check=True)

    path = script(root, pause=0.15)
    process = subprocess.Popen([sys.executable, str(path)], cwd=root, env={**environment, "CTML_WORKERS": "2"})
    runs = root / ".build" / "cache"
    deadline = time.monotonic() + 60
    while len(list(runs.rglob("*.run"))) < 2 or len(log(root)) < 4:
        assert time.monotonic() < deadline, "two runs should be done and two on their way by now"
        time.sleep(0.02)
    checkpoints = root / ".build" / "checkpoints"
    while not list(checkpoints.glob("*/state.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(runs.rglob("*.run")))
    workers = {pid for _, _, pid, _ in log(root)}
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "the workers outlived the killed study"
        time.sleep(0.05)

    (root / "log").unlink()
    resumed = call(path, environment, CTML_WORKERS="2")
    assert resumed.stdout == whole.stdout, resumed.stderr
    again = log(root)
    assert len(again) == 4 - finished
    assert finished >= 2
    assert any(start > 0 for _, start, *_ in again), "no run went on from its checkpoint"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


FAILING = """
from ctml.companion import Study
study = Study("demo", "01_line", "quick", {})

def run(seed):
    if seed == 1:
        raise ValueError("seed one is bad")
    return seed

study.map(run, [{"seed": s} for s in range(3)])
"""


def test_a_failing_run_is_named_and_the_others_are_kept(root: Path, environment: dict[str, str]) -> None:
    (root / "script.py").write_text(FAILING)
    done = call(root / "script.py", environment)
    assert done.returncode == 1
    assert "1 of 3 runs failed; the others are kept. First: run(seed=1)" in done.stderr
    assert "ValueError: seed one is bad" in done.stderr
    assert len(list((root / ".build" / "cache").rglob("*.run"))) == 2


def test_another_number_of_threads_is_another_run(root: Path, environment: dict[str, str]) -> None:
    path = script(root, pause=0)
    for threads in ("1", "2", "1"):
        assert call(path, environment, THREADS=threads).returncode == 0
    assert [entry[-1] for entry in log(root)] == [1] * 4 + [2] * 4


def test_a_run_cannot_name_its_own_checkpoint(root: Path, environment: dict[str, str]) -> None:
    (root / "script.py").write_text(FAILING.replace('{"seed": s}', '{"seed": s, "checkpoint": "mine.pt"}'))
    assert (
        "study.map gives each run its own checkpoint: leave checkpoint='mine.pt' out"
        in call(root / "script.py", environment).stderr
    )


def test_a_study_does_not_travel_into_a_run(root: Path, environment: dict[str, str]) -> None:
    (root / "script.py").write_text(FAILING.replace("return seed", "return study.preset"))
    assert (
        "a study stays in its notebook: give a run what it needs as arguments"
        in call(root / "script.py", environment).stderr
    )


def test_runs_must_be_dictionaries(root: Path, environment: dict[str, str]) -> None:
    (root / "script.py").write_text(FAILING.replace('[{"seed": s} for s in range(3)]', "[0, 1]"))
    assert (
        "study.map takes dictionaries of arguments, as in dict(seed=0), not 0"
        in call(root / "script.py", environment).stderr
    )


@pytest.fixture
def scheduler(root: Path, environment: dict[str, str]) -> Iterator[str]:
    code = (
        "from distributed import LocalCluster; import time\n"
        "if __name__ == '__main__':\n"
        "    c = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)\n"
        "    print(c.scheduler_address, flush=True); time.sleep(300)\n"
    )
    (root / "cluster.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_same_call_runs_on_dask(root: Path, environment: dict[str, str], scheduler: str) -> None:
    path = script(root, pause=0)
    done = call(path, environment, CTML_DASK=scheduler)
    assert done.returncode == 0, done.stderr
    assert len(log(root)) == 4
    assert call(path, environment).stdout == done.stdout, "the cache holds what the cluster computed"
    assert len(log(root)) == 4


def test_a_number_of_workers_must_be_one(root: Path, environment: dict[str, str]) -> None:
    assert (
        "CTML_WORKERS='many' is no number of processes"
        in call(script(root, 0), environment, CTML_WORKERS="many").stderr
    )
