"""FC100: CIFAR-100 split by superclass, 12/4/4 of them or 60/20/20 classes (TADAM, 2018); RGB `(n, 3, 32, 32)`."""

from pathlib import Path

from ctml.data import cifar100
from ctml.data.splits import class_names
from ctml.types import ClassPool


def load(split: str, *, home: Path, download: bool = True) -> ClassPool:
    """Load one split ("train", "val", "test")."""
    return cifar100.load_classes("fc100", split, class_names("fc100", split), home, download)


def files(home: Path, download: bool = True) -> list[Path]:
    """Return the CIFAR-100 archive, fetching it if need be."""
    return cifar100.files("fc100", home, download)
