"""Read the files of a zip, a tar or a folder in place.

Invariants:
    * Nothing is ever unpacked to disk, so nothing can be written outside the data folder.
    * An archive with a member that would climb out of it (absolute, "..", a link) is refused: it was tampered with.
    * No more is read of a member than the caller says it can have.
"""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from ctml.data.errors import DataError

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
    OverflowError, MemoryError, RuntimeError, LookupError,
)  # fmt: skip
"""What the standard library raises for an archive that is damaged, cut off, encrypted (RuntimeError) or packed in a way
that it does not know (NotImplementedError, a RuntimeError too)."""

IMAGE = 1 << 26
"""Bytes that the file of one image can have, 64 MiB."""

PADDING = 1 << 26
"""Bytes that may follow the last member of a tar."""


Member = tuple[str, int, Callable[[], bytes]]
"""Name, bytes as the archive states them, and what reads them."""


def refuse_climbing(archive: Path, name: str, is_link: bool = False) -> None:
    """Raise DataError if a member's name leads out of the folder it belongs to, or is a link."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if is_link or drive or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive}: member {name!r} leads out of the archive; delete the file and fetch it again")


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            unix_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            refuse_climbing(path, info.filename, unix_link)
            if not info.is_dir():
                yield info.filename, info.file_size, lambda info=info: archive.read(info)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            refuse_climbing(path, info.name, info.issym() or info.islnk())
            if info.isfile():
                yield info.name, info.size, lambda info=info: _content(archive, info)
        rest = 0
        while block := archive.fileobj.read(1 << 20):
            # tarfile stops at its own end mark; only the end of the stream shows that nothing was cut off.
            rest += len(block)
            refuse_larger(path, rest, PADDING)


def _content(archive: tarfile.TarFile, file: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(file)
    assert stream is not None, f"{file.name} is no regular file"
    return stream.read()


def _folder_members(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield file.relative_to(path).as_posix(), file.stat().st_size, file.read_bytes


@contextmanager
def naming(path: Path):
    """Turn whatever a damaged file raises into one line that names the file."""
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"{error.filename or path} may not be read ({error.strerror}); change its permissions"
        ) from error
    except DAMAGED as error:
        cut = f"{type(error).__name__}: {error}".splitlines()[0]
        if "encrypted" in cut or isinstance(error, NotImplementedError):
            raise DataError(
                f"{path} is packed in a way that cannot be read ({cut}); unpack it and pack it again"
            ) from error
        raise DataError(f"{path} is damaged or cut off ({cut}); delete it and fetch or place it again") from error


def refuse_larger(path: Path, size: int, most: int, member: str = "") -> None:
    """Raise DataError for a file, or a member of it, that has more bytes than its kind can have."""
    if size > most:
        what = f"{path}: {member}" if member else f"{path}"
        raise DataError(
            f"{what} has {size:,} bytes, and no such file has more than {most:,}; delete it and fetch or place it again"
        )


def members(path: Path, largest: int = IMAGE) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Walk through an archive or a folder.

    Args:
        path: a folder, a zip or a tar (of any compression).
        largest: bytes that a member can have; a larger one can be listed but not read.

    Yields:
        `(name, read)`: the path inside with forward slashes, and a function that returns the bytes, valid until the
        next step.

    Raises:
        DataError: the archive is damaged, or a member leads out of it.
    """
    with naming(path):
        for name, size, read in _walk(path):
            yield name, partial(_read, path, name, size, largest, read)


def _walk(path: Path) -> Iterator[Member]:
    if path.is_dir():
        return _folder_members(path)
    if zipfile.is_zipfile(path):
        return _zip_members(path)
    with path.open("rb") as file:
        empty = not any(file.read(tarfile.BLOCKSIZE))  # tarfile would search 50 GB of zeros for a beginning
    if not empty and tarfile.is_tarfile(path):
        return _tar_members(path)
    raise DataError(f"{path} is damaged or cut off (neither zip nor tar); delete it and fetch or place it again")


def _read(path: Path, name: str, size: int, largest: int, read: Callable[[], bytes]) -> bytes:
    refuse_larger(path, size, largest, name)
    with naming(path):
        return read()
