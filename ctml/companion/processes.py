"""Processes that depend on one another: who lives, how one ended and what to try, and who must not outlive whom."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ctml.companion.manifest import memory
from ctml.companion.outside import FEWER, gigabytes

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of what getrusage counts


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        peak: bytes of memory that it used at most, 0 where the system does not tell.
    """

    code: int
    peak: int = 0

    @property
    def killed(self) -> bool:
        """Tell whether a signal ended it."""
        return self.code < 0

    def __str__(self) -> str:
        return f"{signal_name(self.code)}{f' with {gigabytes(self.peak)} in memory at most' if self.peak else ''}"

    def advice(self) -> str:
        """Say what such an end mostly means, and what to try."""
        if -self.code in (signal.SIGKILL, signal.SIGABRT):
            had = f"this machine has {gigabytes(memory())}: " if memory() else ""
            meaning = "most often memory ran out" if -self.code == signal.SIGKILL else "as C++ ends without memory"
            return f"{meaning}; {had}{FEWER}"
        if -self.code in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
            return "compiled code crashed: try again, then other versions of the packages"
        return "somebody ended it from outside: start again to go on" if self.killed else "see its last words"


def ended(process: "subprocess.Popen[bytes]") -> Ended | None:
    """Collect a child that has ended; None while it lives."""
    if process.returncode is not None:
        return Ended(process.returncode)
    if not hasattr(os, "wait4"):
        code = process.poll()
        return None if code is None else Ended(code)
    try:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    except ChildProcessError:  # somebody else in this process collected it
        return Ended(process.wait())
    if pid == 0:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, usage.ru_maxrss * _RSS_UNIT)


def peak_of_children() -> int:
    """Return the bytes of memory that the largest child that has ended used at most, 0 where nobody tells."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _RSS_UNIT


def signal_name(code: int) -> str:
    """Return `SIGKILL` for -9, and `exit code 3` for 3."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def alive(pid: int) -> bool:
    """Tell whether a process lives; one that has ended and was not collected yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if not Path("/proc/self/stat").exists():
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it is read
        return False


def end_with_parent(parent: int, *, at_once: bool) -> None:
    """End this process when its parent has ended, even if that was killed and could say nothing.

    A thread looks twice a second. It needs Python's lock, which a long call into compiled code may hold; so on Linux
    the system itself can be asked.

    Args:
        parent: the process that started this one.
        at_once: ask the system too. It acts already when the *thread* that started this process ends.
    """
    if os.name != "posix":
        return
    if at_once and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment that holds the numerical libraries, each by a name of its own, to so many threads."""
    libraries = ("OMP", "MKL", "OPENBLAS", "VECLIB", "NUMEXPR")
    return {f"{library}_NUM_THREADS": str(threads) for library in libraries}
