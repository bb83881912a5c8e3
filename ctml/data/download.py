"""Get the files of a dataset onto the disk, whole or not at all.

Invariants:
    * A download grows in `<name>.part` and gets its name only when size and checksum are right; a kill at any moment
      leaves a part that the next call continues.
    * A file that stands under its own name was either verified or placed by hand; the loader then checks its contents.
"""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from ctml.data.errors import DataError
from ctml.data.registry import Archive, Dataset
from ctml.locks import Lock

BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 20  # seconds without a byte before a mirror is given up
ATTEMPTS = 5  # continuations on one mirror after a broken connection


class Refused(Exception):
    """One mirror failed; the next may do better."""


def obtain(dataset: Dataset, archive: Archive, home: Path, download: bool = True) -> Path:
    """Return the path of an archive, downloading it if need be.

    Args:
        dataset: whose archive it is.
        archive: the file.
        home: data home; the file lies in `home / dataset.folder / archive.name`.
        download: False forbids the network.

    Raises:
        DataError: no mirror served the file, or the folder cannot be written; the line says where to place it by hand.
    """
    path = home / dataset.folder / archive.name
    if path.is_file():
        refuse_html(path)
        return path
    by_hand = f"place it by hand at {path}" + (f" (from {archive.urls[0]})" if archive.urls else "")
    if not download:
        raise DataError(f"{dataset.name}: {archive.name} is not there and download=False; {by_hand}")
    with writable(path.parent), _alone(path, archive.name):
        if path.is_file():
            return path  # another process has fetched it meanwhile
        reasons = []
        for url in archive.urls:
            try:
                _download(url, archive, path)
            except Refused as reason:
                reasons.append(f"{url}: {reason}")
                if archive.checksum is None and url != archive.urls[-1]:
                    # Nothing would tell if the parts of two mirrors did not fit together.
                    path.with_name(path.name + ".part").unlink(missing_ok=True)
            else:
                return path
    raise DataError(f"{dataset.name}: {archive.name} could not be fetched ({'; '.join(reasons)}); {by_hand}")


@contextmanager
def _alone(path: Path, name: str):
    """Wait while another process fetches the same file: two would grow one part."""
    lock = Lock(path.with_name(f".{path.name}.lock"))
    if not lock.take(f"fetches {name}"):
        tqdm.write(f"{name}: waits for {lock.holder()}")
        while not lock.take(f"fetches {name}"):
            time.sleep(0.2)
    try:
        yield
    finally:
        lock.release()


def may_write(folder: Path) -> bool:
    """Tell whether a folder (or the nearest one above it that exists) is open for writing.

    A folder without any write permission counts as closed even for root, whom the system would let through: somebody
    closed it on purpose.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


@contextmanager
def writable(folder: Path):
    """Turn the refusal to write into one line that names the folder and the way out, before any work is done."""
    way_out = "set CTML_DATA or root= to a folder you may write to"
    if not may_write(folder):
        raise DataError(f"cannot write to the data folder {folder} (it is read-only); {way_out}")
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write to the data folder {folder} ({error.strerror or error}); {way_out}") from error


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the checksum of a file as hex."""
    total = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def matches(path: Path, archive: Archive) -> bool | None:
    """Tell whether a file has the published checksum; None where none is published."""
    if archive.checksum is None:
        return None
    if archive.size is not None and path.stat().st_size != archive.size:
        return False  # known without reading it
    algorithm, expected = archive.checksum.split(":")
    return digest(path, algorithm) == expected


def remark_if_other(path: Path, archive: Archive) -> str:
    """Say if a file is not the published one: it was placed by hand, and only its contents can be judged."""
    return " (not the published file)" if matches(path, archive) is False else ""


def refuse_html(path: Path) -> None:
    """Raise DataError if a file is in truth a web page (what dead links of Google Drive or Dropbox leave behind)."""
    with path.open("rb") as file:
        if _is_html(file.read(512)):
            raise DataError(
                f"{path} is an HTML page, not the data: its link is dead or rate-limited; "
                "delete it and fetch or place it again"
            )


def _is_html(head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")) and b"\0" not in head


def _download(url: str, archive: Archive, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    resumed = part.is_file() and part.stat().st_size > 0
    for _ in range(ATTEMPTS):
        try:
            if _stream(url, archive, part):
                break
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise Refused(getattr(error, "reason", None) or error) from error
    else:
        raise Refused(
            f"the connection broke {ATTEMPTS} times; {part.stat().st_size:,} bytes are kept, run again to go on"
        )
    if matches(part, archive) is False:
        part.unlink()
        if not resumed:
            raise Refused(f"its checksum is not the published {archive.checksum}")
        _download(url, archive, path)  # the kept part was another version of the file: once more from the start
        return
    with path.with_name(path.name + ".json").open("w") as note:
        json.dump({"url": url, "sha256": digest(part), "published": archive.checksum}, note, indent=1)
    os.replace(part, path)


def _stream(url: str, archive: Archive, part: Path) -> bool:
    """Append to the part what the server has beyond it; True when the file is complete."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(
        url, headers={"User-Agent": "ctml", **({"Range": f"bytes={have}-"} if have else {})}
    )
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # The part is as long as the file, or longer: complete, or another file. The checksum decides.
            return True
        raise Refused(f"HTTP {error.code} {error.reason}") from error
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0
        blocks = _blocks(response.read)
        first = next(blocks, b"")
        if "html" in response.headers.get("Content-Type", "") or (have == 0 and _is_html(first[:512])):
            raise Refused("the server sent an HTML page instead of the file: the link is dead or rate-limited")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        progress = tqdm(
            desc=archive.name,
            initial=have,
            total=total or archive.size,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,
        )
        with part.open("ab" if have else "wb") as file, progress:
            for block in chain([first], blocks):
                file.write(block)
                have += len(block)
                progress.update(len(block))
    return total is None or have >= total


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while True:
        try:
            block = read(BLOCK)
        except (http.client.IncompleteRead, TimeoutError, ConnectionError):
            return  # what came is kept; the next attempt goes on from there
        if not block:
            return
        yield block
