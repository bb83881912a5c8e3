"""Finished runs on disk, one file each.

Invariant: what is loaded is what was stored. Files are written whole, and the checksum notices damage from elsewhere.
"""

import hashlib
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

from ctml.companion.files import write_atomically


class DamagedRun(UserWarning):
    """A cached run is not as it was stored, and is computed again."""


class Cache:
    """Results of runs by key, and a folder for the checkpoints of each run that is not finished."""

    def __init__(self, build: Path) -> None:
        self.folder = build / "cache"
        self.checkpoints = build / "checkpoints"
        self.locks = build / "locks" / "runs"
        self.checkpoints.mkdir(parents=True, exist_ok=True)  # by which a worker tells that it shares this disk

    def path(self, key: str) -> Path:
        """Return where the result of a key lies or will lie."""
        return self.folder / key[:2] / f"{key}.run"

    def checkpoint(self, key: str) -> Path:
        """Return the file in which the run of a key may keep its progress."""
        return self.checkpoints / key / "state.pt"

    def lock(self, key: str) -> Path:
        """Return the file that whoever does the run of a key holds."""
        return self.locks / key

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
        except IsADirectoryError:
            shutil.rmtree(path)
            return None
        checksum, outcome = data[:32], data[32:]
        try:
            if hashlib.sha256(outcome).digest() != checksum:
                raise ValueError("checksum differs")
            return pickle.loads(outcome)
        except Exception as error:  # unpickling can fail in any way; every one of them means the same here
            warnings.warn(f"cached run {path} is damaged ({error}) and is computed again", DamagedRun, stacklevel=2)
            path.unlink(missing_ok=True)
            return None
