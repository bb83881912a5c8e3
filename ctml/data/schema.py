"""What a file's contents must look like, checked before any of it is used.

Each function returns its value as the type it should have, or raises DataError in one line:
file, field, fault and way out.
"""

from pathlib import Path

import numpy as np

from ctml.data.errors import DataError

AGAIN = "delete it and fetch or place it again"


def fault(source: Path, what: str) -> DataError:
    """Return the error that names a file, what is wrong with it, and the way out."""
    return DataError(f"{source}: {what}; {AGAIN}")


def fields(value: object, source: Path, *names: str) -> list:
    """Return the named entries of a dictionary, in that order."""
    if not isinstance(value, dict):
        raise fault(source, f"it holds a {type(value).__name__} instead of a dictionary")
    for name in names:
        if name not in value:
            raise fault(source, f"{name!r} is missing")
    return [value[name] for name in names]


def images(value: object, source: Path, field: str, *shape: int) -> np.ndarray:
    """Return an array `(n, *shape)` of bytes."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape[1:] != shape:
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise fault(source, f"{field!r} is {found} instead of uint8 {('n', *shape)}")
    return value


def numbers(value: object, source: Path, field: str, below: int, n: int | None = None) -> np.ndarray:
    """Return `n` (None: any number of) whole numbers in 0 .. below-1."""
    try:
        array = np.asarray(value)
    except ValueError:  # a list of lists of different lengths
        array = np.empty((0, 0))
    if isinstance(value, str | dict) or array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise fault(source, f"{field!r} is no list of whole numbers")
    if n is not None and len(array) != n:
        raise fault(source, f"{field!r} has {len(array)} numbers instead of {n}")
    if array.size and (array.min() < 0 or array.max() >= below):
        raise fault(source, f"{field!r} has numbers from {array.min()} to {array.max()} instead of 0 to {below - 1}")
    return array.astype(np.int64)


def words(value: object, source: Path, field: str, n: int) -> list[str]:
    """Return `n` different names."""
    if not isinstance(value, list | tuple) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        raise fault(source, f"{field!r} is no list of names")
    if len(value) != n:  # looked at first: 10^13 empty names take no byte of a file
        raise fault(source, f"{field!r} has {len(value)} names instead of {n}")
    if not all(isinstance(word, str) for word in value):
        raise fault(source, f"{field!r} is no list of names")
    if len(set(value)) != n:
        raise fault(source, f"{field!r} has {len(set(value))} different names of {n}")
    return [str(word) for word in value]


def rows_by_class(value: object, source: Path, field: str, n: int) -> dict[str, np.ndarray]:
    """Return class -> rows, where no row in 0 .. n-1 belongs to two classes."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise fault(source, f"{field!r} is no dictionary from class names to rows")
    rows = {name: numbers(these, source, f"{field}[{name}]", n) for name, these in value.items()}
    if rows and np.bincount(np.concatenate(list(rows.values()))).max(initial=0) > 1:
        raise fault(source, f"{field!r} gives a row to two classes, or twice to one")
    return rows
