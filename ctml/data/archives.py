"""Read the files of a zip, a tar or a folder in place.

Invariants:
    * Nothing is ever unpacked to disk, so nothing can be written outside the data folder.
    * An archive with a member that would climb out of it (absolute, "..", a link) is refused: it was tampered with.
"""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from ctml.data.errors import DataError

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError)
"""What the standard library raises for a damaged or cut-off archive."""


def refuse_climbing(archive: Path, name: str, is_link: bool = False) -> None:
    """Raise DataError if a member's name leads out of the folder it belongs to, or is a link."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if is_link or drive or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive}: member {name!r} leads out of the archive; delete the file and fetch it again")


def _zip_members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            unix_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            refuse_climbing(path, info.filename, unix_link)
            if not info.is_dir():
                yield info.filename, lambda info=info: archive.read(info)


def _tar_members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with tarfile.open(path) as archive:
        for info in archive:
            refuse_climbing(path, info.name, info.issym() or info.islnk())
            if info.isfile():
                yield info.name, lambda info=info: _content(archive, info)
        while archive.fileobj.read(1 << 20):
            pass  # tarfile stops at its own end mark; only the end of the stream shows that nothing was cut off


def _content(archive: tarfile.TarFile, file: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(file)
    assert stream is not None, f"{file.name} is no regular file"
    return stream.read()


def _folder_members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield file.relative_to(path).as_posix(), file.read_bytes


@contextmanager
def naming(path: Path):
    """Turn whatever a damaged file raises into one line that names the file."""
    try:
        yield
    except DAMAGED as error:
        cut = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{path} is damaged or cut off ({cut}); delete it and fetch or place it again") from error


def members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Walk through an archive or a folder.

    Args:
        path: a folder, a zip or a tar (of any compression).

    Yields:
        `(name, read)`: the path inside with forward slashes, and a function that returns the bytes, valid until the
        next step.

    Raises:
        DataError: the archive is damaged, or a member leads out of it.
    """
    with naming(path):
        for name, read in _walk(path):
            yield name, partial(_named, path, read)


def _walk(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if path.is_dir():
        return _folder_members(path)
    if zipfile.is_zipfile(path):
        return _zip_members(path)
    if tarfile.is_tarfile(path):
        return _tar_members(path)
    raise DataError(f"{path} is damaged or cut off (neither zip nor tar); delete it and fetch or place it again")


def _named(path: Path, read: Callable[[], bytes]) -> bytes:
    with naming(path):
        return read()
