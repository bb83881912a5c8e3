"""Failures for which no code is to blame (no memory, no disk): one line that says what was asked for, what to try."""

import errno
import re

from ctml.companion.manifest import memory

FEWER = "try fewer JOBS or CTML_WORKERS, or a smaller tasks_at_once where there is one"

_NO_MEMORY = re.compile(r"(can't|cannot|unable to) allocate|out of memory|bad_alloc", re.IGNORECASE)
_ASKED = re.compile(r"allocate (?:an array of )?([\d.]+) ?(bytes|[KMGTP]iB)")
_NO_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "it is read-only",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large",
}


def gigabytes(count: float) -> str:
    """Return a number of bytes for people."""
    return f"{count / 2**30:.1f} GB"


def reason(kind: str, text: str) -> str | None:
    """Say in one line why an exception came, or return None if its own traceback says it better.

    Args:
        kind: name of the exception's class, as a notebook tells it.
        text: its message.
    """
    if kind.endswith("MemoryError") or (kind in ("RuntimeError", "OutOfMemoryError") and _NO_MEMORY.search(text)):
        machine = f", and this machine has {gigabytes(memory())}" if memory() else ""
        return f"out of memory: {_asked(text)}{machine}; {FEWER}"
    told = re.match(r"\[Errno (\d+)\] [^:]*(?:: (.*))?", text) if kind in ("OSError", "PermissionError") else None
    if told and (meaning := _NO_DISK.get(int(told[1]))):
        place = told[2] or "a file"
        return f"cannot write {place}: {meaning}; free some space or make it writable, then start again to go on"
    return None


def _asked(text: str) -> str:
    found = _ASKED.search(text)
    if not found:
        return "how much was asked for is not told"
    size = gigabytes(float(found[1].rstrip("."))) if found[2] == "bytes" else f"{found[1].rstrip('.')} {found[2]}"
    return f"{size} were asked for at once"
