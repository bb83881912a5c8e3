"""Who may work on something that several processes could begin at once.

Invariants:
    * A lock is held by a living process: the system lets go of it when that process ends, however it ends, so no lock
      is ever left behind and a file that lies there says nothing by itself.
    * The file names its holder, for whoever has to wait.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows nothing is locked: whoever starts two at once must know
    fcntl = None


class Lock:
    """A file that one process at a time holds.

    Args:
        path: the file; its folder is made when needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, what: str) -> bool:
        """Hold the lock if nobody does, and tell whether it is held now.

        Args:
            what: what the holder does, as others are told.
        """
        if self._handle is not None or fcntl is None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            except OSError:  # a file system without locks: better to work than to refuse
                pass
            if self._is_still(handle):
                break
            os.close(handle)  # its last holder took the file away in between: once more, with the new one
        self._handle = handle
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its holder's name is missing
            os.ftruncate(handle, 0)
            since = time.strftime("%H:%M:%S")
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "what": what, "since": since}).encode(), 0)
        return True

    def release(self) -> None:
        """Let go of the lock."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._handle)
            self._handle = None

    def holder(self) -> str:
        """Say who holds the lock, as it wrote itself down."""
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {told['pid']} ({told['what']}, since {told['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _is_still(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, waiting for it as long as another process has it."""
    lock = Lock(path)
    while not lock.take(what):
        time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()
