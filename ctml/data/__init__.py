"""Datasets: found, fetched, verified, decoded once; disk and network are touched only here.

    >>> from ctml import data
    >>> letters = data.load("omniglot", "train", rotations=True)  # a ClassPool: uint8 images grouped by class
    >>> letters = data.pool("omniglot or glyphs", "train", rotations=True)  # glyphs where Omniglot cannot be had

Files live in `$CTML_DATA` (default: the user's cache folder), one folder a dataset. `python -m ctml.data` lists what
there is; `python -m ctml.data omniglot` fetches one.
"""

import functools
import importlib
import inspect
import os
from pathlib import Path

from ctml.data.errors import DataError
from ctml.types import ClassPool

__all__ = ["DataError", "available", "data_home", "fetch", "first_available", "load", "pool"]


def data_home() -> Path:
    """Return the folder that holds all data: `$CTML_DATA`, else the user's cache folder."""
    from ctml.data.cache import user_cache

    return Path(os.environ.get("CTML_DATA") or user_cache() / "data").expanduser()


def available() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    from ctml.data.registry import DATASETS

    return tuple(DATASETS)


def _known(name: str):
    from ctml.data.registry import DATASETS

    if name not in DATASETS:
        raise ValueError(f"dataset={name!r} is unknown; there are: {', '.join(DATASETS)}")
    return DATASETS[name]


def _options(name: str) -> list[str]:
    """List the options that a dataset's loader takes beside those that all take."""
    loader = importlib.import_module(f"ctml.data.{name}").load
    return [option for option in inspect.signature(loader).parameters if option not in ("split", "home", "download")]


def load(name: str, split: str, *, root: str | Path | None = None, download: bool = True, **options) -> ClassPool:
    """Load one split of a dataset.

    Args:
        name: one of `available()`.
        split: one of the dataset's splits, "train", "val" or "test" for most.
        root: data home instead of `data_home()`; for "folder", the folder (or zip) with your images.
        download: False forbids the network.
        **options: the loader's own (see `ctml.data.omniglot.load` and its neighbours).

    Raises:
        ValueError: unknown dataset, split or option.
        DataError: files are missing, damaged, or not what they should be.
    """
    dataset = _known(name)
    if split not in dataset.splits:
        raise ValueError(f"split={split!r} is unknown; {name} has: {', '.join(dataset.splits)}")
    loader = importlib.import_module(f"ctml.data.{name}").load
    known = _options(name)
    for option in options:
        if option not in known:
            raise ValueError(f"option {option}= is unknown; {name} takes: {', '.join(known) or 'none'}")
    if name == "folder" and root is None:
        raise ValueError(
            "root=None: name the folder (or zip) with your images, load('folder', split, root='my_images')"
        )
    home = Path(root).expanduser() if root is not None else data_home()
    return loader(split, home=home, download=download, **options)


def fetch(name: str, *, root: str | Path | None = None, download: bool = True) -> list[Path]:
    """Make sure that the files of a dataset are there and return their paths; a generated dataset has none."""
    dataset = _known(name)
    home = Path(root).expanduser() if root is not None else data_home()
    module = importlib.import_module(f"ctml.data.{name}")
    return module.files(home, download) if dataset.archives else []


def pool(names: str, split: str, *, root: str | Path | None = None, download: bool = True, **options) -> ClassPool:
    """Load one split of the first of several datasets that can be had; its name begins the result's `source`.

    Args:
        names: "omniglot or glyphs"; a single name will do.
        split: as for `load`, and so are `root` and `download`.
        **options: of any dataset; the one taken is given those that it knows (`validation=100` is Omniglot's alone).

    Raises:
        ValueError: unknown dataset or split, or an option that no dataset knows.
        DataError: none can be had (the reasons of all), or the files of the one taken are damaged.
    """
    known = {option for name in available() for option in _options(name)}
    for option in options:
        if option not in known:
            raise ValueError(f"option {option}= is unknown to every dataset; there are: {', '.join(sorted(known))}")
    name = first_available(names, root=root, download=download)
    mine = {option: value for option, value in options.items() if option in _options(name)}
    return load(name, split, root=root, download=download, **mine)


def first_available(names: str, *, root: str | Path | None = None, download: bool = True) -> str:
    """Return the first of several datasets ("omniglot or glyphs") whose files, of all splits, are here or can be had.

    A process keeps to its first choice, so that the splits of a notebook are of one dataset whatever becomes of the
    network; a run in another process is told the name, which is part of what its result depends on.

    Raises:
        ValueError: an unknown dataset.
        DataError: none of them; the reasons of all.
    """
    return _choice(names, Path(root).expanduser() if root is not None else data_home(), download)


@functools.cache
def _choice(names: str, home: Path, download: bool) -> str:
    reasons = []
    for name in [_known(name.strip()).name for name in names.split(" or ")]:
        try:
            fetch(name, root=home, download=download)
        except DataError as reason:
            reasons.append(str(reason))
        else:
            return name
    raise DataError("; ".join(reasons))
