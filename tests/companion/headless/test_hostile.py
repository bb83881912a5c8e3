"""What a hostile day does to the runner: killed parts, two runners at once, requests to stop, full disks, damage."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from companion.processes import LIMIT, wait_for

from ctml.companion.__main__ import main
from ctml.companion.headless.execution import Died, Execution
from ctml.companion.headless.interrupts import Stopped, stopping, undisturbed
from ctml.companion.headless.job import Job
from ctml.companion.headless.replace import recover, replace
from ctml.companion.outside import reason
from ctml.companion.processes import Ended, alive
from ctml.companion.project import Project
from ctml.locks import Lock

Call = Callable[..., "subprocess.CompletedProcess[str]"]
REPRODUCE = [sys.executable, "-m", "ctml.companion", "reproduce"]


def before_the_figure(root: Path, code: str) -> None:
    """Put code into the notebook after its runs and before its figure."""
    path = root / "notebooks" / "demo" / "01_line.py"
    path.write_text(path.read_text().replace("figure, axes = ", f"import os, signal, time\n{code}\nfigure, axes = "))


@pytest.mark.parametrize(
    "victim, who", [("os.getpid()", "its kernel"), ("os.getppid()", "the process that executes it")]
)
def test_a_killed_notebook_is_executed_once_more(victim: str, who: str, root: Path, ctml: Call) -> None:
    once = root / "once"
    before_the_figure(root, f"if not os.path.exists({str(once)!r}):\n    open({str(once)!r}, 'w').close()\n"
                      f"    os.kill({victim}, 9)\n    time.sleep({LIMIT})")  # fmt: skip
    done = ctml("reproduce")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"demo/01_line: {who} died of SIGKILL with " in done.stdout
    assert "in memory at most; once more" in done.stdout
    assert (root / "results" / "quick" / "demo" / "01_line" / "metrics.csv").is_file()


def test_a_notebook_that_is_killed_again_and_again_is_reported(root: Path, ctml: Call) -> None:
    before_the_figure(root, "os.abort()")
    done = ctml("reproduce")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    assert "its kernel died twice, of SIGABRT with " in told and "the second time: " in told
    assert "try fewer JOBS or CTML_WORKERS, or a smaller tasks_at_once" in told
    assert not (root / "results").exists()


def test_a_second_runner_waits_and_finds_the_work_done(root: Path, environment: dict[str, str]) -> None:
    gate, begun = root / "gate", root / "begun"
    before_the_figure(root, f"open({str(begun)!r}, 'a').write('x')\n"
                      f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.05)")  # fmt: skip
    first = start(root, environment)
    wait_for(begun.exists, "the first runner's notebook")
    second = start(root, environment)
    lines = []
    while "is at it" not in (lines or [""])[-1]:
        assert second.stdout is not None
        lines.append(second.stdout.readline())
        assert lines[-1], "the second runner ended"
    assert f"demo/01_line: process {first.pid} (demo/01_line at preset quick, since " in lines[-1]
    gate.touch()
    for process in (first, second):
        out, error = process.communicate(timeout=LIMIT)
        assert (process.returncode, error) == (0, ""), out
    assert "nothing changed since it ran on this machine" in out
    assert begun.read_text() == "x", "it was executed once"


def test_who_asks_to_stop_gets_one_line_and_leaves_nothing_behind(root: Path, environment: dict[str, str]) -> None:
    pids = root / "pids"
    before_the_figure(
        root, f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} {{os.getppid()}} ')\ntime.sleep({LIMIT})"
    )
    for how, code in ((signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGKILL, -9)):
        pids.unlink(missing_ok=True)
        process = start(root, environment, new_group=True)
        wait_for(lambda: pids.exists() and pids.read_text().endswith(" "), "the notebook")
        parts = [int(pid) for pid in pids.read_text().split()]
        os.killpg(process.pid, how)  # as a terminal does: to the whole group
        _, error = process.communicate(timeout=LIMIT)
        assert process.returncode == code
        said = "ctml: stopped. Finished runs are kept; start again to go on where this ended.\n"
        assert error == (said if how != signal.SIGKILL else "")
        wait_for(lambda parts=parts: not any(map(alive, parts)), "the end of what the runner had started")
        assert not (root / "results").exists()


def start(root: Path, environment: dict[str, str], *, new_group: bool = False) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        REPRODUCE, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=new_group
    )


def test_a_request_to_stop_waits_for_what_must_not_be_cut() -> None:
    steps = []
    with pytest.raises(Stopped), stopping():
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            steps.append("whole")
        steps.append("not reached")
    assert steps == ["whole"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping():
            signal.raise_signal(signal.SIGINT)  # ignored by whoever started us: so it stays
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_lock_ends_with_its_holder_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "folder with spaces" / "lock"
    code = "import sys, time; from pathlib import Path; from ctml.locks import Lock\n" \
           "print(Lock(Path(sys.argv[1])).take('tests')); sys.stdout.flush(); time.sleep(1000)"  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    lock = Lock(path)
    assert not lock.take("me")
    assert lock.holder().startswith(f"process {holder.pid} (tests, since ")
    holder.kill()
    holder.wait()
    assert lock.take("me") and lock.take("me")
    assert not Lock(path).take("another in this process")
    lock.release()
    assert not path.exists()
    path.write_text("left by a crash")
    assert lock.take("me"), "a file that nobody holds is no lock"
    assert lock.holder().startswith(f"process {os.getpid()} (me")
    lock.release()


def test_results_survive_a_crash_and_a_full_disk_while_they_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, new = tmp_path / "results" / "a", tmp_path / "new"

    def arrives(text: str) -> None:
        new.mkdir()
        (new / "metrics.csv").write_text(text)

    arrives("old")
    replace(folder, new)
    arrives("new")
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(shutil, "move", full)
        with pytest.raises(OSError, match="No space"):
            replace(folder, new)
    assert (folder / "metrics.csv").read_text() == "old"
    with monkeypatch.context() as patch:

        def full_elsewhere(*_: object) -> None:
            raise shutil.Error([(str(new), "there", "[Errno 28] No space left on device: 'there'")] * 9)

        patch.setattr(shutil, "move", full_elsewhere)
        with pytest.raises(OSError) as error:
            replace(folder, new)
    assert (error.value.errno, error.value.filename) == (28, str(folder)), "one reason, not a list of files"
    os.rename(folder, folder.with_name(".a.old"))  # as a kill between the two renames leaves it
    recover(folder)
    assert (folder / "metrics.csv").read_text() == "old"
    replace(folder, new)
    assert (folder / "metrics.csv").read_text() == "new"
    assert [p.name for p in folder.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "kind, text, line",
    [
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
         "you tried to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)",
         "out of memory: 37.3 GB were asked"),
        ("_ArrayMemoryError", "Unable to allocate 745. GiB for an array with shape (100000000000,)",
         "out of memory: 745 GiB were asked"),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 GiB.", "out of memory: 20.00 GiB were asked"),
        ("MemoryError", "std::bad_alloc", "out of memory: how much was asked for is not told"),
        ("OSError", "[Errno 28] No space left on device: '/a b/c'", "cannot write '/a b/c': the disk is full; free"),
        ("OSError", "[Errno 30] Read-only file system: 'x'", "cannot write 'x': it is read-only"),
    ],
)  # fmt: skip
def test_no_memory_and_no_disk_are_said_in_one_line(kind: str, text: str, line: str) -> None:
    said = reason(kind, text)
    assert said is not None and said.startswith(line) and "\n" not in said
    assert ("try" in said) or ("start again" in said)
    assert reason("ValueError", text) is None
    assert reason("RuntimeError", "shapes differ") is None
    assert reason("OSError", "[Errno 2] No such file or directory: 'x'") is None


def test_an_end_is_told_by_name() -> None:
    assert str(Ended(-9, 3 * 2**29)) == "SIGKILL with 1.5 GB in memory at most"
    assert str(Ended(3)) == "exit code 3"
    assert "memory ran out" in Ended(-9).advice()
    assert "crashed" in Ended(-signal.SIGSEGV).advice()


@pytest.mark.parametrize("text", ["", "{}", "null", "[]", '{"notebook": 1}', "\x00\xff", '{"outputs": {"a": 1}}'])
def test_a_damaged_stamp_means_stale_and_no_more(text: str, root: Path) -> None:
    project = Project(root)
    job = Job.checked(project, project.notebooks()[0], "quick", {})
    job.stamp.parent.mkdir(parents=True)
    job.stamp.write_text(text)
    damaged = "the record of its last run is damaged"
    assert job.why_stale() in ("never run on this machine", damaged, "notebook changed")


def test_status_notices_a_flipped_byte_on_a_fresh_clone(
    root: Path, ctml: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctml("reproduce").returncode == 0
    shutil.rmtree(root / ".build")
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "200")

    def status() -> str:
        main(["status"])
        return " ".join(capsys.readouterr().out.split())

    assert "results intact, of this code" in status()
    folder = root / "results" / "quick" / "demo" / "01_line"
    for name in ("metrics.csv", "claims.json", "figures/errors.svg", "figures/errors.png", "01_line.ipynb"):
        path = folder / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert f"{name} is not as it was made" in status()
        path.unlink()
        assert f"{name} is missing" in status()
        path.write_bytes(whole)
    (folder / "more.csv").write_text("")
    assert "more.csv was not made by this notebook" in status()
    (folder / "more.csv").unlink()
    manifest = folder / "manifest.json"
    whole = manifest.read_bytes()
    for place in range(0, len(whole), 97):
        manifest.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "manifest.json is not as it was made" in status()
    manifest.write_bytes(whole)
    drawing = root / "lines" / "drawing.py"
    drawing.write_text("def draw(seed):\n    return 2 / (seed + 2)\n")
    assert "results intact, of other code: lines.drawing changed" in status()


def test_a_notebook_that_prints_without_end_fails_with_the_reason(root: Path, ctml: Call) -> None:
    before_the_figure(root, "for _ in range(1000):\n    print('x' * 2**20)")
    done = ctml("smoke")
    assert done.returncode == 1
    assert "this notebook prints more than 10 MB: print less, or write a table" in done.stdout
    assert (root / ".build" / "executed" / "smoke" / "demo" / "01_line.ipynb").stat().st_size < 30 * 2**20


def test_a_strange_path_no_home_and_other_threads_give_the_same_numbers(
    root: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    strange = tmp_path_factory.mktemp("day") / 'it\'s "Größe" δ & $HOME'
    shutil.copytree(root, strange)
    tables = []
    for threads, home in (("1", str(root)), ("64", "/nonexistent")):
        shutil.rmtree(strange / ".build", ignore_errors=True)
        own = {**environment, "PYTHONPATH": environment["PYTHONPATH"].split(":")[1], "HOME": home,
               "OMP_NUM_THREADS": threads, "CTML_WORKERS": threads[:1]}  # fmt: skip
        done = subprocess.run(REPRODUCE, cwd=strange, env=own, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = strange / "results" / "quick" / "demo" / "01_line"
        tables.append([(folder / name).read_bytes() for name in ("metrics.csv", "claims.json", "figures/errors.png")])
        notebook = json.loads((folder / "01_line.ipynb").read_text())
        streams = [o for c in notebook["cells"] for o in c.get("outputs", []) if o["output_type"] == "stream"]
        assert not streams, "a warning about the home would be published"
    assert tables[0] == tables[1]


def test_a_damaged_cache_leaves_no_trace_in_what_is_published(root: Path, ctml: Call) -> None:
    folder = root / "results" / "quick" / "demo" / "01_line"
    published = []
    for _ in range(2):
        assert ctml("reproduce").returncode == 0
        published.append(
            {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"}
        )
        for path in (root / ".build" / "cache").rglob("*.run"):
            path.write_bytes(path.read_bytes()[:-1])
        shutil.rmtree(root / ".build" / "stamps")
    assert published[0] == published[1]


def test_only_a_kernel_that_is_still_needed_is_missed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctml.companion.headless.execution._LONELY_SECONDS", 0)
    gone = subprocess.Popen(["true"])
    gone.wait()
    project = Project(root)
    job = Job.checked(project, project.notebooks()[0], "quick", {})
    for still_needed in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", functools.partial(_sleeping, subprocess.Popen))
            execution = Execution(job, "a test", workers=1)
        execution.order.tell(kernel=gone.pid)
        if not still_needed:
            execution.order.tell(kernel=None)
        assert execution.ended() is None and execution.ended() is None
        if still_needed:
            wait_for(lambda e=execution: e.process.returncode is not None or isinstance(e.ended(), Died), "its end")
        else:
            assert alive(execution.process.pid)
        execution.stop()


def _sleeping(start: Callable[..., "subprocess.Popen[bytes]"], command: object, **options: object) -> object:
    return start(["sleep", str(LIMIT)], **options)
