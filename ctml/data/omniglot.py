"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al., Science 2015).

White ink (255) on black, `(n, 1, size, size)`, shrunk from 105x105 with a Lanczos filter as Finn et al. (2017) did.

How the characters are divided (`protocol=`):
    random    1,200 characters drawn at random, irrespective of alphabet, for train; the other 423 for test (Santoro
              et al. 2016, Finn et al. 2017). Neither published a list, so ours is drawn from the sorted names by
              `split_seed`. `validation=100` sets the last 100 of the 1,200 aside as "val", as Finn et al.'s code does.
    vinyals   the fixed list that Ren et al. (2018) and torchmeta use: the first 1,200 of the sorted names against the
              last 423; "val" is five of the background alphabets (172), "train" the other 1,028.
    lake      the authors' own: 30 background alphabets (964) against 20 evaluation alphabets (659).
    minimal1  train on the five alphabets of "background small 1" only (136 characters), test on the evaluation set.
    minimal2  the same with "background small 2" (its own archive names the five alphabets).

Not to be confused: in "random" and "vinyals" letters of one alphabet stand on both sides, in the others never.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from ctml.data.archives import members
from ctml.data.cache import decoded, fingerprint, select
from ctml.data.download import obtain
from ctml.data.errors import DataError
from ctml.data.images import picture
from ctml.data.registry import DATASETS, Archive
from ctml.rng import generator
from ctml.types import ClassPool

SIDE = 105  # pixels of a drawing as published
DRAWINGS = 20  # people who drew each character
CONTENTS = {"images_background": (30, 964), "images_evaluation": (20, 659)}  # alphabets, characters
N_TRAIN = 1200
SMALL_1 = ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
VINYALS_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
PROTOCOLS = ("random", "vinyals", "lake", "minimal1", "minimal2")


def load(
    split: str,
    *,
    home: Path,
    download: bool = True,
    protocol: str = "random",
    rotations: bool = False,
    size: int = 28,
    validation: int = 0,
    split_seed: int = 0,
) -> ClassPool:
    """Load one split.

    Args:
        split: "train", "val" or "test".
        home: data home.
        download: False forbids the network.
        protocol: how the characters are divided, see above.
        rotations: make each character four classes, turned by 0, 90, 180 and 270 degrees; the papers do so in training.
        size: side of the images in pixels.
        validation: "random" only: how many of the 1,200 training characters to set aside as "val".
        split_seed: "random" only: which 1,200.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; omniglot has: {', '.join(PROTOCOLS)}")
    if not 1 <= size <= SIDE:
        raise ValueError(f"size={size}: must lie in 1..{SIDE} pixels")
    if not 0 <= validation < N_TRAIN:
        raise ValueError(f"validation={validation}: must lie in 0..{N_TRAIN - 1}")
    if split == "val" and not (protocol == "vinyals" or (protocol == "random" and validation)):
        raise ValueError(
            f"split='val': protocol={protocol!r} sets no validation characters aside; "
            "give validation=100 (to train too) or protocol='vinyals'"
        )
    sources = files(home, download)
    pool = decoded("omniglot", home, [size, fingerprint(*sources)], lambda: _decode(sources, size))
    names = _divide(pool.names, split, protocol, validation, split_seed, home, download)
    label = f"omniglot/{split}" + (f" ({protocol})" if protocol != "random" else "")
    pool = select(pool, names, label)
    return _rotated(pool) if rotations else pool


def files(home: Path, download: bool = True) -> list[Path]:
    """Return the two archives, or the folders that somebody unpacked from them."""
    return [_source(archive, home, download) for archive in DATASETS["omniglot"].archives[:2]]


def _source(archive: Archive, home: Path, download: bool) -> Path:
    unpacked = home / "omniglot" / archive.name.removesuffix(".zip")
    return unpacked if unpacked.is_dir() else obtain(DATASETS["omniglot"], archive, home, download)


def _divide(
    names: tuple[str, ...], split: str, protocol: str, validation: int, seed: int, home: Path, download: bool
) -> list[str]:
    """List the characters of a split; `names` are sorted, the background's 964 before the evaluation's 659."""
    n_background = CONTENTS["images_background"][1]
    background, evaluation = names[:n_background], names[n_background:]
    if protocol == "random":
        order = torch.randperm(len(names), generator=generator(seed, "omniglot split")).tolist()
        cuts = {"train": (0, N_TRAIN - validation), "val": (N_TRAIN - validation, N_TRAIN), "test": (N_TRAIN, None)}
        return sorted(names[i] for i in order[slice(*cuts[split])])
    if protocol == "vinyals":
        held_out = [name for name in background if _alphabet(name) in VINYALS_VAL]
        if split == "val":
            return held_out
        return list(names[N_TRAIN:]) if split == "test" else [n for n in names[:N_TRAIN] if n not in set(held_out)]
    if split == "test":
        return list(evaluation)
    if protocol == "lake":
        return list(background)
    alphabets = SMALL_1 if protocol == "minimal1" else _alphabets_of_small_2(home, download)
    return [name for name in background if _alphabet(name) in alphabets]


def _alphabet(name: str) -> str:
    return name.split("/")[0]


def _alphabets_of_small_2(home: Path, download: bool) -> set[str]:
    source = _source(DATASETS["omniglot"].archives[2], home, download)
    return {_alphabet(name) for name, _, _ in _drawings(source)}


def _rotated(pool: ClassPool) -> ClassPool:
    turns = [torch.rot90(pool.examples, k, (-2, -1)) for k in range(4)]
    names = tuple(f"{name}/rot{90 * k}" for k in range(4) for name in pool.names)
    return ClassPool(torch.cat(turns), pool.counts.repeat(4), names, f"{pool.source} with rotations")


def _drawings(source: Path) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Walk through the drawings as ("Alphabet/characterNN", file name, read)."""
    for name, read in members(source):
        parts = name.split("/")
        if name.lower().endswith(".png") and len(parts) >= 3 and "__MACOSX" not in parts:
            yield f"{parts[-3]}/{parts[-2]}", parts[-1], read


def _decode(sources: list[Path], size: int) -> Iterator[tuple[str, np.ndarray]]:
    for source in sources:
        characters: dict[str, dict[str, np.ndarray]] = {}
        for name, file, read in _drawings(source):
            grey = picture(read(), f"{source}: drawing {name}/{file}", "L", side=SIDE, size=size)
            characters.setdefault(name, {})[file] = 255 - grey
        _check(source, characters)
        for name, drawings in sorted(characters.items()):
            yield name, np.stack([image for _, image in sorted(drawings.items())])[:, None]


def _check(source: Path, characters: dict[str, dict]) -> None:
    alphabets, expected = CONTENTS[source.name.removesuffix(".zip")]
    found = len({_alphabet(name) for name in characters})
    if (found, len(characters)) != (alphabets, expected):
        raise DataError(
            f"{source} has {len(characters)} characters of {found} alphabets instead of {expected} of {alphabets}; "
            "delete it and fetch or place it again"
        )
    for name, drawings in characters.items():
        if len(drawings) != DRAWINGS:
            raise DataError(f"{source}: {name} has {len(drawings)} drawings instead of {DRAWINGS}; place it again")
