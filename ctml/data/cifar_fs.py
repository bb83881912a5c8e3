"""CIFAR-FS: CIFAR-100 with Bertinetto et al.'s (ICLR 2019) random 64/16/20 classes; RGB `(n, 3, 32, 32)`."""

from pathlib import Path

from ctml.data import cifar100
from ctml.data.splits import class_names
from ctml.types import ClassPool


def load(split: str, *, home: Path, download: bool = True) -> ClassPool:
    """Load one split ("train", "val", "test")."""
    return cifar100.load_classes("cifar_fs", split, class_names("cifar_fs", split), home, download)


def files(home: Path, download: bool = True) -> list[Path]:
    """Return the CIFAR-100 archive, fetching it if need be."""
    return cifar100.files("cifar_fs", home, download)
