"""Finished runs on disk, one file each.

Invariant: a file under its final name is complete. It is written beside it, flushed to the disk and then renamed, so a
kill at any moment leaves either the old state or the new one; damage from elsewhere is caught by the checksum.
"""

import hashlib
import os
import pickle
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that no reader, and no crash, ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; results are to be read by others
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Cache:
    """Results of runs by key, and a folder for the checkpoints of each run that is not finished."""

    def __init__(self, build: Path) -> None:
        self.folder = build / "cache"
        self.checkpoints = build / "checkpoints"

    def path(self, key: str) -> Path:
        """Return where the result of a key lies or will lie."""
        return self.folder / key[:2] / f"{key}.run"

    def checkpoint(self, key: str) -> Path:
        """Return the file in which the run of a key may keep its progress."""
        return self.checkpoints / key / "state.pt"

    def store(self, key: str, outcome: bytes) -> None:
        """Keep a pickled outcome and delete the run's checkpoints, which it no longer needs."""
        write_atomically(self.path(key), hashlib.sha256(outcome).digest() + outcome)
        shutil.rmtree(self.checkpoints / key, ignore_errors=True)

    def load(self, key: str) -> Any | None:
        """Return what was stored, or None if there is nothing; a damaged file counts as nothing, with a warning."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, outcome = data[:32], data[32:]
        try:
            if hashlib.sha256(outcome).digest() != checksum:
                raise ValueError("checksum differs")
            return pickle.loads(outcome)
        except Exception as error:  # unpickling can fail in any way; every one of them means the same here
            warnings.warn(f"cached run {path} is damaged ({error}) and is computed again", stacklevel=2)
            path.unlink(missing_ok=True)
            return None
