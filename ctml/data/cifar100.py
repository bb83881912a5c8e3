"""CIFAR-100 regrouped by class: the common source of CIFAR-FS and FC100 (600 images a class, 32x32 RGB)."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctml.data.archives import members
from ctml.data.cache import decoded, fingerprint, select
from ctml.data.download import note_if_other, obtain
from ctml.data.errors import DataError
from ctml.data.pickles import unpickle
from ctml.data.registry import DATASETS
from ctml.types import ClassPool

PARTS = ("train", "test")  # few-shot learning splits by class, so both parts of the original are used
PER_CLASS = 600
CLASSES = 100


def files(name: str, home: Path, download: bool = True) -> list[Path]:
    """Return the one archive, or the folder `cifar-100-python` that somebody unpacked from it."""
    dataset = DATASETS[name]
    unpacked = home / dataset.folder / "cifar-100-python"
    return [unpacked if unpacked.is_dir() else obtain(dataset, dataset.archives[0], home, download)]


def load_classes(name: str, split: str, classes: list[str], home: Path, download: bool) -> ClassPool:
    """Load the named classes of CIFAR-100 as one split of dataset `name`."""
    (source,) = files(name, home, download)
    pool = decoded("cifar100", home, fingerprint(source), lambda: _decode(source, name))
    return select(pool, classes, f"{name}/{split}")


def _decode(source: Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if source.is_file():
        note_if_other(source, DATASETS[name].archives[0])
    contents = {}
    for member, read in members(source):
        stem = member.split("/")[-1]
        if stem in (*PARTS, "meta"):
            contents[stem] = unpickle(io.BytesIO(read()), source)
    missing = [part for part in (*PARTS, "meta") if part not in contents]
    if missing:
        raise DataError(f"{source} has no {missing[0]!r} inside; delete it and fetch or place it again")
    images = np.concatenate([np.asarray(contents[part]["data"], np.uint8) for part in PARTS]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([np.asarray(contents[part]["fine_labels"]) for part in PARTS])
    names = contents["meta"]["fine_label_names"]
    counts = np.bincount(labels, minlength=len(names))
    if len(names) != CLASSES or (counts != PER_CLASS).any():
        raise DataError(
            f"{source} has {len(names)} classes of {counts.min()} to {counts.max()} images instead of {CLASSES} of "
            f"{PER_CLASS}; delete it and fetch or place it again"
        )
    for label, class_name in enumerate(names):
        yield class_name, images[labels == label]
