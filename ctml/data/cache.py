"""Decode a dataset once, keep it as one raw uint8 file, and map it into memory ever after.

Invariants:
    * The key names all that the images depend on (format, dataset, options, the source's names, sizes and times), so a
      stale file is never read; it is written whole or not at all. One that is not what it should be is made anew.
    * A data folder that cannot be written, or is full, is no error: the decoded images then live in the user's cache
      folder, or, if that is closed or full too, only in memory.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ctml.data import schema
from ctml.data.download import may_write
from ctml.data.errors import DataError
from ctml.types import ClassPool

FORMAT = 2  # raise it when a loader's way of decoding changes

Classes = Iterable[tuple[str, np.ndarray]]
"""Pairs (class name, uint8 images (n, channels, height, width)), one class at a time."""


def user_cache() -> Path:
    """Return the user's cache folder for ctml."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "ctml"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctml"


def fingerprint(*sources: Path) -> list:
    """Describe files and folders by name, size and time of change, without reading them."""
    files = (file for source in sources for file in ([source] if source.is_file() else sorted(source.rglob("*"))))
    return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files if file.is_file()]


def decoded(
    name: str, home: Path, key: object, decode: Callable[[], Classes], remark: Callable[[], str] = str
) -> ClassPool:
    """Return all classes of a source, decoding them only the first time.

    Args:
        name: of the dataset, for the file name.
        home: data home; the decoded images go to its `.decoded` folder.
        key: everything the images depend on, as JSON.
        decode: yields the classes; called only if nothing is cached.
        remark: what must be said wherever these images are used; asked for only then, and kept with them.

    Returns:
        The classes; `source` is the remark.
    """
    tag = hashlib.sha256(json.dumps([FORMAT, name, key], default=str).encode()).hexdigest()[:16]
    folders = [home / ".decoded", user_cache() / ".decoded"]
    for folder in folders:
        pool = _read(folder / f"{name}-{tag}")
        if pool is not None:
            return pool
    for folder in filter(may_write, folders):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _write(folder / f"{name}-{tag}", decode(), remark())
        except OSError:
            continue  # a full disk, most likely: the next place may have room
    return _gather(decode(), remark())


def select(pool: ClassPool, names: Sequence[str], source: str) -> ClassPool:
    """Return the named classes of a pool, in the given order.

    Args:
        pool: all classes.
        names: the classes wanted.
        source: label of the result, "omniglot/train".
    """
    ends = pool.counts.cumsum(0)
    position = {name: i for i, name in enumerate(pool.names)}
    chosen = [position[name] for name in names]
    rows = [torch.arange(int(ends[i] - pool.counts[i]), int(ends[i])) for i in chosen]
    return ClassPool(pool.examples[torch.cat(rows)], pool.counts[chosen], tuple(names), source)


def _read(stem: Path) -> ClassPool | None:
    try:
        about = json.loads(stem.with_suffix(".json").read_text())
        shape, counts, names, remark = schema.fields(about, stem, "shape", "counts", "names", "remark")
        shape = schema.numbers(shape, stem, "shape", below=1 << 40)
        counts = schema.numbers(counts, stem, "counts", below=1 << 40, n=len(names))
        names = schema.words(names, stem, "names", len(counts))
        if stem.with_suffix(".u8").stat().st_size != math.prod(shape.tolist()):
            return None
        images = np.memmap(stem.with_suffix(".u8"), np.uint8, "c", shape=tuple(shape.tolist()))
        return ClassPool(torch.from_numpy(images), torch.from_numpy(counts), tuple(names), str(remark))
    except (OSError, ValueError, TypeError, RecursionError, DataError):
        return None  # nothing there, or half of it, or something else: decode again


def _write(stem: Path, classes: Classes, remark: str) -> ClassPool:
    names, counts, shape = [], [], ()
    part = stem.with_name(f"{stem.name}.{os.getpid()}.part")  # two processes may decode at once: each writes its own
    try:
        with part.open("wb") as file:
            for name, images in tqdm(classes, desc=stem.name, unit=" classes", leave=False, disable=None):
                file.write(np.ascontiguousarray(images).tobytes())
                names.append(name)
                counts.append(len(images))
                shape = images.shape[1:]
        about = {"shape": [sum(counts), *shape], "counts": counts, "names": names, "remark": remark}
        for ending in (".u8", ".json"):
            if stem.with_suffix(ending).is_dir():
                shutil.rmtree(stem.with_suffix(ending))
        os.replace(part, stem.with_suffix(".u8"))
        part.write_text(json.dumps(about))
        os.replace(part, stem.with_suffix(".json"))  # last: it says that the images are whole
    finally:
        part.unlink(missing_ok=True)
    written = _read(stem)
    assert written is not None, f"{stem} was written and cannot be read"
    return written


def _gather(classes: Classes, remark: str) -> ClassPool:
    names, images = zip(*classes, strict=True)
    counts = torch.tensor([len(these) for these in images])
    return ClassPool(torch.from_numpy(np.concatenate(images)), counts, names, remark)
