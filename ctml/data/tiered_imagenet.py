"""tieredImageNet: 608 ImageNet classes in 34 categories, split by category (Ren et al., 2018); RGB `(n, 3, 84, 84)`.

351/97/160 classes with 448,695/124,261/206,209 images; classes differ in size. The images are PNG files in a pickled
list; decoded they take 9.5, 2.6 and 4.4 GB, which stay on disk and are mapped into memory. The published pickles name
classes in words, not by ImageNet's codes, so the split is checked by its counts.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctml.data import schema
from ctml.data.cache import decoded, fingerprint
from ctml.data.download import obtain, refuse_html
from ctml.data.images import picture
from ctml.data.pickles import unpickle
from ctml.data.registry import DATASETS, TRAIN_VAL_TEST
from ctml.types import ClassPool

SIDE = 84
FOLDER = "tiered_imagenet"
IMAGES_FILE, LABELS_FILE = 20 << 30, 1 << 28  # bytes that such pickles can have at most
CONTENTS = {"train": (351, 448_695), "val": (97, 124_261), "test": (160, 206_209)}  # classes, images


def load(split: str, *, home: Path, download: bool = True) -> ClassPool:
    """Load one split ("train", "val", "test"); the first time takes minutes and the space named above."""
    images, labels = _sources(split, home, download)
    pool = decoded(f"{FOLDER}-{split}", home, fingerprint(images, labels), lambda: _decode(images, labels, split))
    return ClassPool(pool.examples, pool.counts, pool.names, f"{FOLDER}/{split}")


def files(home: Path, download: bool = True) -> list[Path]:
    """Return the files of the three splits, fetching them if need be."""
    return [path for split in TRAIN_VAL_TEST for path in _sources(split, home, download)]


def _sources(split: str, home: Path, download: bool) -> list[Path]:
    return [_source(archive, home, download) for archive in _archives(split)]


def _archives(split: str):
    return [archive for archive in DATASETS[FOLDER].archives if f"-{split}_" in archive.name]


def _source(archive, home: Path, download: bool) -> Path:
    unpacked = home / FOLDER / archive.name.removeprefix("tiered-imagenet-")  # as in Ren et al.'s tiered-imagenet.tar
    if unpacked.is_file():
        refuse_html(unpacked)
        return unpacked
    return obtain(DATASETS[FOLDER], archive, home, download)


def _decode(images_file: Path, labels_file: Path, split: str) -> Iterator[tuple[str, np.ndarray]]:
    n_classes, n_images = CONTENTS[split]
    about = unpickle(labels_file, LABELS_FILE)
    labels, names = schema.fields(about, labels_file, "label_specific", "label_specific_str")
    names = schema.words(names, labels_file, "label_specific_str", n_classes)
    labels = schema.numbers(labels, labels_file, "label_specific", below=n_classes, n=n_images)
    if (np.bincount(labels, minlength=n_classes) == 0).any():
        raise schema.fault(labels_file, "'label_specific' leaves a class without images")
    images = unpickle(images_file, IMAGES_FILE)
    if not isinstance(images, list) or len(images) != n_images:
        found = f"{len(images)} images" if isinstance(images, list) else f"a {type(images).__name__}"
        raise schema.fault(images_file, f"it holds {found} instead of a list of {n_images}")
    for label, name in enumerate(names):
        rows = np.flatnonzero(labels == label)
        yield name, np.stack([_image(images[row], images_file, row) for row in rows.tolist()]).transpose(0, 3, 1, 2)


def _image(png: object, source: Path, row: int) -> np.ndarray:
    if not isinstance(png, np.ndarray) or png.dtype != np.uint8:
        raise schema.fault(source, f"image {row} is no array of bytes")
    # The release was compressed with OpenCV, which takes blue for the first channel; whether its arrays had red or
    # blue first is not written down. The order of the PNG is kept, as learn2learn keeps it.
    return picture(png.tobytes(), f"{source}: image {row}", side=SIDE)
