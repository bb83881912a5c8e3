"""Your own images: one folder a class, optionally under train/val/test.

    my_images/train/oak/1.jpg        or, without splits,        my_images/oak/1.jpg     (split "all")
    my_images/test/elm/7.png                                    my_images/elm/7.png

Any format that Pillow reads, any size: images are resized to `size` x `size` (not cropped). Classes may differ in
counts. A zip or tar with the same layout does as well, and is read in place.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctml.data.archives import members
from ctml.data.cache import decoded, fingerprint
from ctml.data.errors import DataError
from ctml.data.images import picture
from ctml.data.registry import TRAIN_VAL_TEST
from ctml.types import ClassPool

MODES = {"rgb": "RGB", "grey": "L"}
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")

Listing = dict[str, list[str]]
"""Class -> files of that class, as paths inside the folder."""


def load(
    split: str, *, home: Path, download: bool = True, size: int = 84, colour: str = "rgb", at_least: int = 1
) -> ClassPool:
    """Load one split of a folder (or zip, or tar) of images.

    Args:
        split: "train", "val" or "test" where such folders stand above the classes, else "all".
        home: the folder with your images (`root=` of `ctml.data.load`).
        download: ignored.
        size: side of the images in pixels.
        colour: "rgb" or "grey".
        at_least: fewest images that a class must have (shots + queries of your tasks).

    Raises:
        ValueError: an option makes no sense, or the folder has no such split.
        DataError: an empty class, too few images, or an image that cannot be read; the line names it.
    """
    if colour not in MODES:
        raise ValueError(f"colour={colour!r} is unknown; there are: {', '.join(MODES)}")
    if size < 1:
        raise ValueError(f"size={size}: must be at least 1 pixel")
    if not home.exists():
        raise DataError(f"root={home} does not exist; name the folder (or zip) with your images, one folder a class")
    classes = _classes(home, split)
    for name, images in classes.items():
        if len(images) < at_least:
            raise DataError(
                f"{home}: class {name!r} of {split!r} has {len(images)} images, fewer than {at_least}; "
                f"add images ({', '.join(ENDINGS)}) or remove the class"
            )

    from ctml.data import data_home

    key = [size, colour, split, str(home.resolve()), fingerprint(home)]
    pool = decoded("folder", data_home(), key, lambda: _decode(home, classes, size, MODES[colour]))
    return ClassPool(pool.examples, pool.counts, pool.names, f"folder {home.stem}/{split}")


def _classes(home: Path, split: str) -> Listing:
    """List the files of each class of a split; classes in alphabetical order."""
    paths = [name for name in _walk(home) if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    if not paths:
        raise DataError(f"root={home} is empty; it needs one folder a class with images inside")
    parts = _without_common_folder([path.split("/") for path in paths])
    splits = [name for name in TRAIN_VAL_TEST if any(part[0] == name and len(part) > 1 for part in parts)]
    if split not in (splits or ["all"]):
        raise ValueError(f"split={split!r} is not in {home}; it has: {', '.join(splits or ['all'])}")
    depth = 1 if splits else 0
    classes: Listing = {}
    for path, part in zip(paths, parts, strict=True):
        if len(part) < depth + 2 or (splits and part[0] != split):
            continue  # a loose file beside the class folders, or another split
        files = classes.setdefault(part[depth], [])
        if path.lower().endswith(ENDINGS):
            files.append(path)
    if not classes:
        raise DataError(f"root={home} has no class folders for split={split!r}; it needs one folder a class")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _walk(home: Path) -> Iterator[str]:
    yield from (name for name, _ in members(home))
    if home.is_dir():  # an empty class folder holds no file that would betray it
        empty = (d for d in home.rglob("*") if d.is_dir() and not any(d.iterdir()))
        yield from (f"{folder.relative_to(home).as_posix()}/" for folder in empty)


def _without_common_folder(parts: list[list[str]]) -> list[list[str]]:
    """Drop the folder that an archive wraps around everything, unless it is itself a split or the only class."""
    while all(len(part) > 2 and part[0] == parts[0][0] for part in parts) and parts[0][0] not in TRAIN_VAL_TEST:
        parts = [part[1:] for part in parts]
    return parts


def _decode(home: Path, classes: Listing, size: int, mode: str) -> Iterator[tuple[str, np.ndarray]]:
    # An archive can only be read in its own order, so the decoded images are kept and grouped afterwards.
    wanted = {path for paths in classes.values() for path in paths}
    images = {
        path: picture(read(), f"{home}: image {path}", mode, size=size)
        for path, read in members(home)
        if path in wanted
    }
    for name, paths in classes.items():
        pixels = np.stack([images[path] for path in paths])
        yield name, pixels[:, None] if mode == "L" else pixels.transpose(0, 3, 1, 2)
