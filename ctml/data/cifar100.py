"""CIFAR-100 regrouped by class: the common source of CIFAR-FS and FC100 (600 images a class, 32x32 RGB).

Read from the authors' archive, the folder unpacked from it, or PNG files below folders with the names of the classes,
`train/apple/*.png`, in the folder `cifar100` of the data home or a zip or tar in it. The pixels are the same; within a
class the archive has its own order, PNG files stand in the order of their names, those for training first.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctml.data import image_files, schema
from ctml.data.archives import members
from ctml.data.cache import decoded, fingerprint, select
from ctml.data.download import obtain, remark_if_other
from ctml.data.errors import DataError
from ctml.data.pickles import unpickle
from ctml.data.registry import DATASETS, TRAIN_VAL_TEST
from ctml.data.splits import class_names
from ctml.types import ClassPool

UNPACKED = "cifar-100-python"
PARTS = ("train", "test")  # few-shot learning splits by class, so both parts of the original are used
PER_CLASS = 600
CLASSES = 100
PICKLE = 1 << 29  # bytes that one of its pickles can have at most


def files(name: str, home: Path, download: bool = True) -> list[Path]:
    """Return the one archive, the folder `cifar-100-python` that somebody unpacked from it, or where PNG files lie."""
    dataset = DATASETS[name]
    (archive,) = dataset.archives
    unpacked = home / dataset.folder / UNPACKED
    if unpacked.is_dir():
        return [unpacked]
    placed = None if (home / dataset.folder / archive.name).is_file() else image_files.find(home / dataset.folder)
    return [placed or obtain(dataset, archive, home, download)]


def load_classes(name: str, split: str, classes: list[str], home: Path, download: bool) -> ClassPool:
    """Load the named classes of CIFAR-100 as one split of dataset `name`."""
    (source,) = files(name, home, download)
    pool = decoded("cifar100", home, fingerprint(source), lambda: _decode(source), lambda: _remark(source, name))
    return select(pool, classes, f"{name}/{split}{pool.source}")


def _remark(source: Path, name: str) -> str:
    (archive,) = DATASETS[name].archives
    return remark_if_other(source, archive) if source.name == archive.name else ""


def _class(parts: list[str]) -> str | None:
    """Return the folder of a PNG file, in the authors' spelling."""
    return parts[-2].replace(" ", "_").replace("-", "_").lower() if parts[1:] and parts[-1].endswith(".png") else None


def _decode(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    if source.name not in (UNPACKED, DATASETS["fc100"].archives[0].name):
        names = sorted(name for split in TRAIN_VAL_TEST for name in class_names("fc100", split))
        yield from image_files.read(
            source, _class, names, PER_CLASS, side=32, order=lambda parts: ("train" not in parts, parts[-1])
        )
        return
    contents = {}
    for member, read in members(source, PICKLE):
        stem = member.split("/")[-1]
        if stem in (*PARTS, "meta"):
            contents[stem] = unpickle(source, PICKLE, read())
    missing = [part for part in (*PARTS, "meta") if part not in contents]
    if missing:
        raise DataError(f"{source} has no {missing[0]!r} inside; delete it and fetch or place it again")
    (names,) = schema.fields(contents["meta"], source, "fine_label_names")
    names = schema.words(names, source, "fine_label_names", CLASSES)
    images, labels = map(np.concatenate, zip(*(_part(contents[part], source) for part in PARTS), strict=True))
    counts = np.bincount(labels, minlength=CLASSES)
    if (counts != PER_CLASS).any():
        raise schema.fault(
            source, f"{CLASSES} classes of {counts.min()} to {counts.max()} images instead of {PER_CLASS}"
        )
    for label, class_name in enumerate(names):
        yield class_name, images[labels == label].reshape(-1, 3, 32, 32)


def _part(contents: object, source: Path) -> tuple[np.ndarray, np.ndarray]:
    data, labels = schema.fields(contents, source, "data", "fine_labels")
    data = schema.images(data, source, "data", 3 * 32 * 32)
    return data, schema.numbers(labels, source, "fine_labels", below=CLASSES, n=len(data))
