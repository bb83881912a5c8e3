"""miniImageNet: 100 ImageNet classes of 600 images, RGB `(n, 3, 84, 84)`, split 64/16/20 by Ravi and Larochelle (2017).

Three published pickles of a split are read: `mini-imagenet-cache-<split>.pkl` as Ren et al. (2018)
and learn2learn give it (that is what is downloaded), the `mini-imagenet.tar.gz` that holds the three, and
`miniImageNet_category_split_*.pickle` as Gidaris and Lee et al. (2019) give it. The first two name the classes, and the
names are checked against the official split; the last numbers them only.

Else single images of 84x84 pixels are read, from the folder itself or a zip or tar in it: `<split>/<wnid>/*.jpg`, an
archive a split (`train.tar`), or all images with the class at the beginning of their names (`n0153282900000005.jpg`, as
Ravi and Larochelle's lists have them). Which split a class belongs to is checked. Most such files are JPEG, which has
lost something, and were shrunk by various tools: their pixels are not those of the pickles, and `source` says so.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ctml.data import image_files, schema
from ctml.data.archives import members
from ctml.data.cache import decoded, fingerprint
from ctml.data.download import obtain, refuse_html, remark_if_other
from ctml.data.errors import DataError
from ctml.data.pickles import unpickle
from ctml.data.registry import DATASETS, TRAIN_VAL_TEST
from ctml.data.splits import class_names
from ctml.types import ClassPool

SIDE = 84
WNID = re.compile(r"n\d{8}")
PER_CLASS = 600
PICKLE = 2 << 30  # bytes that one of its pickles can have at most
FOLDER = "mini_imagenet"
TAR = "mini-imagenet.tar.gz"
CATEGORY_SPLIT = {"train": "train_phase_train", "val": "val", "test": "test"}


def load(split: str, *, home: Path, download: bool = True) -> ClassPool:
    """Load one split ("train", "val", "test")."""
    source = _source(split, home, download)
    pool = decoded(
        f"{FOLDER}-{split}", home, fingerprint(source), lambda: _decode(source, split), lambda: _remark(source, split)
    )
    return ClassPool(pool.examples, pool.counts, pool.names, f"{FOLDER}/{split}{pool.source}")


def files(home: Path, download: bool = True) -> list[Path]:
    """Return the files of the three splits, fetching them if need be."""
    return list(dict.fromkeys(_source(split, home, download) for split in TRAIN_VAL_TEST))


def _source(split: str, home: Path, download: bool) -> Path:
    by_hand = (f"mini-imagenet-cache-{split}.pkl", f"miniImageNet_category_split_{CATEGORY_SPLIT[split]}.pickle", TAR)
    for name in by_hand:
        path = home / FOLDER / name
        if path.is_file():
            refuse_html(path)
            return path
    images = image_files.find(home / FOLDER, split)
    return images or obtain(DATASETS[FOLDER], _archive(split), home, download)


def _archive(split: str):
    return DATASETS[FOLDER].archives[TRAIN_VAL_TEST.index(split)]


def _remark(source: Path, split: str) -> str:
    if _is_pickled(source):
        return remark_if_other(source, _archive(split)) if source.suffix == ".pkl" else ""
    return " (from single images)"


def _is_pickled(source: Path) -> bool:
    return source.name == TAR or source.suffix in (".pkl", ".pickle")


def _class(source: Path, split: str, mine: frozenset[str], parts: list[str]) -> str | None:
    """Return the class that a path names; complain of one that lies in the folder of another split."""
    folder, file = (parts[-2] if len(parts) > 1 else ""), parts[-1]
    name = next((found[0] for found in (WNID.fullmatch(folder), WNID.match(file)) if found), None)
    is_mine = name in mine
    if split in parts[:-2] and not is_mine:
        raise DataError(
            f"{source}: {'/'.join(parts)} lies under {split}, whose classes do not include {name or folder!r}; "
            "place the split of Ravi and Larochelle there"
        )
    others = {"validation", *TRAIN_VAL_TEST} - {split, "validation" if split == "val" else ""}
    if is_mine and others & set(parts[:-2]):
        raise DataError(
            f"{source}: {'/'.join(parts)} lies outside {split}, to which class {name} belongs; "
            "place the split of Ravi and Larochelle there"
        )
    return name


def _decode(source: Path, split: str) -> Iterator[tuple[str, np.ndarray]]:
    expected = class_names(FOLDER, split)
    if not _is_pickled(source):
        yield from image_files.read(
            source, partial(_class, source, split, frozenset(expected)), expected, PER_CLASS, SIDE
        )
        return
    contents = _read(source, split)
    if isinstance(contents, dict) and "class_dict" in contents:
        images, rows = schema.fields(contents, source, "image_data", "class_dict")
        images = schema.images(images, source, "image_data", SIDE, SIDE, 3)
        rows = schema.rows_by_class(rows, source, "class_dict", len(images))
        same = sorted(rows) == expected
    else:
        images, labels = schema.fields(contents, source, "data", "labels")
        images = schema.images(images, source, "data", SIDE, SIDE, 3)
        labels = schema.numbers(labels, source, "labels", below=100, n=len(images))
        rows = {f"{split}_{label:03d}": np.flatnonzero(labels == label) for label in np.unique(labels)}
        same = len(rows) == len(expected)
    if not same or any(len(these) != PER_CLASS for these in rows.values()):
        raise DataError(
            f"{source} does not hold the {len(expected)} official {split} classes of {PER_CLASS} images {SIDE}x{SIDE}; "
            "delete it and fetch or place it again"
        )
    for name in sorted(rows):
        yield name, images[rows[name]].transpose(0, 3, 1, 2)


def _read(source: Path, split: str):
    if source.name != TAR:
        return unpickle(source, PICKLE)
    for member, read in members(source, PICKLE):
        if member.endswith(f"mini-imagenet-cache-{split}.pkl"):
            return unpickle(source, PICKLE, read())
    raise DataError(f"{source} has no mini-imagenet-cache-{split}.pkl inside; delete it and fetch or place it again")
