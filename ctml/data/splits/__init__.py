"""Class names of the official splits, one file each: facts, copied from the papers' releases."""

from importlib.resources import files


def class_names(dataset: str, split: str) -> list[str]:
    """Return the classes of a split in alphabetical order."""
    return files(__name__).joinpath(f"{dataset}_{split}.txt").read_text(encoding="ascii").split()
