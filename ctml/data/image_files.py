"""A published dataset as single image files in a folder, zip or tar: the class of an image stands in its path.

Invariants:
    * Classes and counts are checked by the names alone; nothing is decoded of half a dataset.
    * Within a class images stand in the order of `order`, whatever the order of the archive.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ctml.data.archives import members
from ctml.data.errors import DataError
from ctml.data.images import picture

ENDINGS = (".png", ".jpg", ".jpeg")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def find(folder: Path, split: str = "", besides: Sequence[str] = ()) -> Path | None:
    """Return the archive or folder with the image files of a dataset, or None.

    Args:
        folder: the dataset's folder in the data home.
        split: an archive of that name is preferred to one with another.
        besides: names in that folder that hold something else.
    """
    if not folder.is_dir():
        return None
    inside = sorted(path for path in folder.iterdir() if path.name not in besides and not path.name.startswith("."))
    archives = [path for path in inside if path.is_file() and path.name.lower().endswith(ARCHIVES)]
    mine = [path for path in archives if path.name.split(".")[0] == split]
    folders = [path for path in inside if path.is_dir() and any(_is_image(p.name) for p in path.rglob("*"))]
    return next(iter([*mine, *([folder] if folders else archives)]), None)


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def read(
    source: Path,
    class_of: Callable[[list[str]], str | None],
    names: Sequence[str],
    per_class: int,
    side: int,
    order: Callable[[list[str]], Any] = lambda parts: parts[-1],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the classes as `(name, images (per_class, 3, side, side))`.

    Args:
        source: folder, zip or tar.
        class_of: maps a path, cut at its slashes, to a class; None for an image that is not wanted.
        names: the classes, in the order wanted.
        per_class: images that each must have.
        side: of the images in pixels.
        order: what the images of a class are sorted by.

    Raises:
        DataError: a class is missing or has another number of images; an image is damaged or of another size.
    """
    listing: dict[str, list[list[str]]] = {name: [] for name in names}
    for member, _ in members(source):
        parts = member.split("/")
        if _is_image(member) and "__MACOSX" not in parts and (name := class_of(parts)) in listing:
            listing[name].append(parts)
    wrong = [name for name in names if len(listing[name]) != per_class]
    if wrong:
        found = f"class {wrong[0]} has {len(listing[wrong[0]])} images instead of {per_class}"
        more = f", and {len(wrong) - 1} more of {len(names)} classes differ" if wrong[1:] else ""
        raise DataError(f"{source}: {found}{more}; place the whole dataset there")
    paths = ["/".join(parts) for name in names for parts in sorted(listing[name], key=order)]
    row = {path: i for i, path in enumerate(paths)}
    images = np.empty((len(paths), 3, side, side), np.uint8)
    with tqdm(desc=f"decoding {source.name}", total=len(paths), unit=" images", leave=False, disable=None) as bar:
        for member, contents in members(source):
            if member in row:
                pixels = picture(contents(), f"{source}: image {member}", side=side)
                images[row[member]] = pixels.transpose(2, 0, 1)
                bar.update()
    for i, name in enumerate(names):
        yield name, images[i * per_class : (i + 1) * per_class]
