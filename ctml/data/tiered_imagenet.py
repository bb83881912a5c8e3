"""tieredImageNet: 608 ImageNet classes in 34 categories, split by category (Ren et al., 2018); RGB `(n, 3, 84, 84)`.

351/97/160 classes with 448,695/124,261/206,209 images; classes differ in size. The images are PNG files in a pickled
list; decoded they take 9.5, 2.6 and 4.4 GB, which stay on disk and are mapped into memory. The published pickles name
classes in words, not by ImageNet's codes, so the split is checked by its counts.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctml.data.cache import decoded, fingerprint
from ctml.data.download import obtain, refuse_html
from ctml.data.errors import DataError
from ctml.data.pickles import unpickle
from ctml.data.registry import DATASETS, TRAIN_VAL_TEST
from ctml.types import ClassPool

SIDE = 84
FOLDER = "tiered_imagenet"
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
    with labels_file.open("rb") as file:
        about = unpickle(file, labels_file)
    try:
        labels, names = np.asarray(about["label_specific"]), list(about["label_specific_str"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{labels_file} is no label file of tieredImageNet; fetch or place it again") from error
    with images_file.open("rb") as file:
        images = unpickle(file, images_file)
    if (len(names), len(labels), len(images)) != (*CONTENTS[split], CONTENTS[split][1]):
        raise DataError(
            f"{images_file} has {len(images)} images with {len(labels)} labels of {len(names)} classes instead of "
            f"{CONTENTS[split][1]} of {CONTENTS[split][0]}; delete it and fetch or place it again"
        )
    for label, name in enumerate(names):
        rows = np.flatnonzero(labels == label)
        yield name, np.stack([_image(images[row], images_file) for row in rows]).transpose(0, 3, 1, 2)


def _image(png: np.ndarray, source: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(np.asarray(png, np.uint8).tobytes())) as image:
        # The release was compressed with OpenCV, which takes blue for the first channel; whether its arrays had red or
        # blue first is not written down. The order of the PNG is kept, as learn2learn keeps it.
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{source}: an image is {pixels.shape[1]}x{pixels.shape[0]}, not {SIDE}x{SIDE}; fetch it again")
    return pixels
