"""Put a folder of new results in the place of the old one, so that a crash at any moment loses neither.

Invariant: the new folder first comes whole onto the disk of the old one, under a name of its own; then two renames
follow each other. A crash between them leaves the old one under a third name, from which `recover` brings it back.
"""

import errno
import os
import re
import shutil
from pathlib import Path


def replace(folder: Path, new: Path) -> None:
    """Put `new` in the place of `folder`.

    Raises:
        OSError: when the new folder cannot be brought there; the old one is as it was.
    """
    recover(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    arriving, leaving = _beside(folder)
    shutil.rmtree(arriving, ignore_errors=True)
    try:
        shutil.move(new, arriving)
    except OSError as error:
        shutil.rmtree(arriving, ignore_errors=True)
        if not isinstance(error, shutil.Error):
            raise
        told = re.search(r"\[Errno (\d+)\]", str(error))  # a list of all files that did not come over from another disk
        number = int(told[1]) if told else errno.EIO
        raise OSError(number, os.strerror(number), str(folder)) from None
    if folder.exists():
        os.rename(folder, leaving)
    os.rename(arriving, folder)
    shutil.rmtree(leaving, ignore_errors=True)


def recover(folder: Path) -> None:
    """Undo what a crash during `replace` may have left."""
    arriving, leaving = _beside(folder)
    if leaving.exists() and not folder.exists():
        os.rename(leaving, folder)
    for rest in (arriving, leaving):
        shutil.rmtree(rest, ignore_errors=True)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
