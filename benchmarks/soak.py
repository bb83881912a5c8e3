"""A hostile day in twenty minutes: notebooks run while their processes are killed and stopped and their files damaged.

Invariant: everything happens in a scratch clone below a temporary folder, on a small disk of its own where the system
allows one; the processes that are disturbed are those of the soak alone, known by a mark in their environment.

Two clones run the same notebooks at the same preset. One is left alone. In the other a seeded list of disturbances
comes one after another; then it is left to finish, and every table, verdict, figure and executed notebook must be that
of the first to the byte. `make soak MINUTES=20 SEED=0`; the table goes to results/soak.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ctml.companion.files import write_atomically  # noqa: E402
from ctml.companion.manifest import commit, hardware, versions  # noqa: E402
from ctml.companion.processes import alive  # noqa: E402
from ctml.companion.runs.cache import Cache  # noqa: E402

# Cheap ones that measure no times: one without runs, one with runs that are cached and resumed.
NOTEBOOKS = "fo_b_maml/01_two_solves maml_ode/02_strongly_convex"
MARK = "CTML_SOAK"
GRACE = 15  # seconds in which everything must be gone after the last runner


class Clone:
    """A clone of the checkout in which the notebooks run."""

    def __init__(self, folder: Path, options: argparse.Namespace, mark: str) -> None:
        self.folder, self.preset, self.notebooks = folder, options.preset, options.nb
        source = ["git", "-c", "advice.detachedHead=false", "clone", "-q", "--no-hardlinks", str(ROOT), str(folder)]
        subprocess.run(source, check=True)
        shutil.rmtree(folder / "results")
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("CTML_") or name == "CTML_DATA"
        }
        self.environment = {**kept, "PYTHONPATH": str(folder), MARK: mark, "CTML_WORKERS": "2"}

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a runner in a group of its own."""
        command = [sys.executable, "-m", "ctml.companion", "reproduce", "--preset", self.preset, "--nb", self.notebooks]
        with (self.folder / "runner.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--jobs", "2"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def results(self) -> dict[str, bytes]:
        """Return all that must be the same in both clones; manifests tell times."""
        folder = self.folder / "results" / self.preset
        files = (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def marked(mark: str) -> list[int]:
    """Return the living processes that carry a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            carries = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if carries and alive(int(folder.name)):
            found.append(int(folder.name))
    return sorted(found)


class Day:
    """The disturbances of one clone, and what they cost."""

    def __init__(self, clone: Clone, mark: str, seed: int) -> None:
        self.clone, self.mark = clone, mark
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.orphans = 0
        self.rounds = 0
        self.kept_seconds = 0.0
        self.run_seconds = 0.0
        self.runner: subprocess.Popen[bytes] | None = None
        self.others: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()
        threading.Thread(target=self._count_seconds, daemon=True).start()

    def disturb(self, minutes: float, every: float) -> None:
        """Disturb the clone for some minutes, `every` so many seconds on average."""
        kinds: list[tuple[Callable[[], bool], int]] = [
            (self.kill_a_part, 3), (self.stop_the_runner, 1), (self.pause_a_part, 6), (self.second_runner, 2),
            (self.fill_the_disk, 3), (self.flip_a_bit, 6), (self.cut_a_file, 4), (self.delete_a_file, 2),
        ]  # fmt: skip
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            self._keep_going()
            time.sleep(self.random.uniform(0.5, 1.5) * every)
            kind = self.random.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
            if kind():
                self.counts[kind.__name__.replace("_", " ")] += 1

    def finish(self) -> int:
        """Leave the clone alone until its notebooks are done, and return the runner's exit code."""
        for runner in [*self.others, *([self.runner] if self.runner else [])]:
            runner.wait()
        code = self.clone.start().wait()
        self._look_for_orphans()
        self.over.set()
        self.kept_seconds += self._in_cache()
        return code

    def tracebacks(self) -> int:
        """Count the tracebacks that the runners left, but for Ctrl-C in the two seconds in which Python loads."""
        parts = (
            (self.clone.folder / "runner.log").read_text(errors="replace").split("Traceback (most recent call last)")
        )
        return sum("KeyboardInterrupt\n" not in part for part in parts[1:])

    def kill_a_part(self) -> bool:
        """As the out-of-memory killer does: a runner, the process of a notebook, its kernel or a worker."""
        parts = marked(self.mark)
        return bool(parts) and self._signal(self.random.choice(parts), signal.SIGKILL)

    def stop_the_runner(self) -> bool:
        """Ctrl-C to the whole group, a polite kill, or a terminal that is closed."""
        how = self.random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        return self.runner is not None and self._signal(-self.runner.pid, how)

    def pause_a_part(self) -> bool:
        """A process that stands still for a while, as in a laptop that sleeps."""
        parts = marked(self.mark)
        if not parts:
            return False
        part = self.random.choice(parts)
        done = self._signal(part, signal.SIGSTOP)
        time.sleep(self.random.uniform(0.2, 3))
        self._signal(part, signal.SIGCONT)
        return done

    def second_runner(self) -> bool:
        """Somebody starts the same again in another window."""
        if len(self.others) < 2:
            self.others.append(self.clone.start())
            return True
        return False

    def fill_the_disk(self) -> bool:
        """No space for a moment, for caches and results alike."""
        full = self.clone.folder / "full"
        if shutil.disk_usage(self.clone.folder).total > 2**31:
            return False  # not a small disk of our own
        try:
            with full.open("wb") as file:
                while True:
                    file.write(bytes(2**20))
        except OSError:
            time.sleep(self.random.uniform(0.2, 2))
        full.unlink(missing_ok=True)
        return True

    def flip_a_bit(self) -> bool:
        """A byte of a cached run, a checkpoint, a stamp, the news or a published result changes."""
        path = self._a_file()
        if path is None or not (data := bytearray(path.read_bytes())):
            return False
        data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        path.write_bytes(data)
        return True

    def cut_a_file(self) -> bool:
        """The end of such a file is lost."""
        path = self._a_file()
        if path is None:
            return False
        os.truncate(path, path.stat().st_size // 2)
        return True

    def delete_a_file(self) -> bool:
        """Such a file is lost."""
        path = self._a_file()
        if path is None:
            return False
        path.unlink()
        return True

    def _a_file(self) -> Path | None:
        build = self.clone.folder / ".build"
        places = [
            build / "cache",
            build / "checkpoints",
            build / "stamps",
            build / "news",
            self.clone.folder / "results",
        ]
        files = [[p for p in sorted(place.rglob("*")) if p.is_file()] for place in places]
        files = [found for found in files if found]
        return self.random.choice(self.random.choice(files)) if files else None

    def _signal(self, pid: int, how: signal.Signals) -> bool:
        try:
            os.killpg(-pid, how) if pid < 0 else os.kill(pid, how)
            return True
        except ProcessLookupError:
            return False

    def _keep_going(self) -> None:
        """Start the runner again if it has ended; if all is done, forget all and begin a new round."""
        self.others = [runner for runner in self.others if runner.poll() is None]
        if self.runner is not None and self.runner.poll() is None:
            return
        if self.runner is not None and not self.others:
            self._look_for_orphans()
            if self.runner.returncode == 0:
                self.rounds += 1
                self.kept_seconds += self._in_cache()
                shutil.rmtree(self.clone.folder / ".build", ignore_errors=True)
        self.runner = self.clone.start()

    def _look_for_orphans(self) -> None:
        deadline = time.monotonic() + GRACE
        while (left := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.orphans += len(left)
        for pid in left:
            self._signal(pid, signal.SIGKILL)

    def _count_seconds(self) -> None:
        """Add up how long runs were in flight, by their locks."""
        locks, before = self.clone.folder / ".build" / "locks" / "runs", time.monotonic()
        while not self.over.wait(0.2):
            now = time.monotonic()
            with contextlib.suppress(OSError):
                self.run_seconds += len(list(locks.iterdir())) * (now - before) if marked(self.mark) else 0
            before = now

    def _in_cache(self) -> float:
        cache = Cache(self.clone.folder / ".build")
        found = (cache.load(path.stem) for path in cache.folder.rglob("*.run"))
        return sum(outcome.seconds for outcome in found if outcome is not None)


def main() -> int:
    """Run the soak, print and write its table, and return 1 if anything was lost or left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--nb", default=NOTEBOOKS, help="notebooks, none of which measures times")
    parser.add_argument("--every", type=float, default=4, help="seconds between two disturbances on average")
    parser.add_argument("--out", default=ROOT / "results" / "soak", help="folder for the table")
    options = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("soak: needs Linux, where processes can be known by their environment")
    started = {"date": time.strftime("%Y-%m-%d"), "code": commit(ROOT)}  # as it is cloned now
    with tempfile.TemporaryDirectory(prefix="ctml soak ") as scratch:
        small = Path(scratch, "disk")
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(small)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        try:
            alone, disturbed = (
                Clone(folder, options, f"{os.getpid()} {folder.name}")
                for folder in (Path(scratch, "alone"), small / "disturbed")
            )
            if alone.start().wait() != 0:
                sys.exit((alone.folder / "runner.log").read_text())
            day = Day(disturbed, f"{os.getpid()} disturbed", options.seed)
            day.disturb(options.minutes, options.every)
            code = day.finish()
            wanted, found = alone.results(), disturbed.results()
            lost = sorted(name for name in wanted if found.get(name) != wanted[name])
            tracebacks = day.tracebacks()
            if lost or code or day.orphans or tracebacks:
                print((disturbed.folder / "runner.log").read_text(errors="replace")[-6000:])
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", str(small)], check=False)
    rows = [
        *sorted(day.counts.items()),
        ("disturbances", sum(day.counts.values())),
        ("rounds finished under them", day.rounds),
        ("files compared", len(wanted)),
        ("lost or different", len(lost)),
        ("orphans", day.orphans),
        ("tracebacks of the runner", tracebacks),
        ("seconds of runs", round(day.run_seconds)),
        ("of these done again", max(0, round(day.run_seconds - day.kept_seconds))),
    ]
    table = "\n".join(["| what | how often |", "| --- | --- |", *(f"| {name} | {count} |" for name, count in rows)])
    print(table, *lost, sep="\n")
    how = {name: value for name, value in vars(options).items() if name != "out"}
    _write(Path(options.out), table, {**started, **how, "small_disk": mounted})
    return int(bool(lost or code or day.orphans or tracebacks))


def _write(out: Path, table: str, how: dict[str, object]) -> None:
    text = "Written by `make soak`: what was done to the second clone, and what it cost."
    write_atomically(out / "README.md", f"# What a hostile day left\n\n{text}\n\n{table}\n".encode())
    record = {**how, "hardware": hardware(), "versions": versions()}
    write_atomically(out / "manifest.json", (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
