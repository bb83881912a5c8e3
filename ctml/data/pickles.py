"""Read a pickle of numpy arrays without letting it run anything else.

A pickle is a program. The published few-shot files hold dictionaries, lists, strings and numpy arrays only, so nothing
but numpy's array rebuilding is let through; anything else is refused by name.
"""

import io
import pickle
from pathlib import Path

from ctml.data.archives import naming
from ctml.data.errors import DataError

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _NumpyOnly(pickle.Unpickler):
    def __init__(self, file: io.IOBase, source: Path) -> None:
        super().__init__(file, encoding="latin1")  # the files were written by Python 2
        self.source = source

    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise DataError(f"{self.source} wants to load {module}.{name}: not a plain data file; delete it")
        return super().find_class(module, name)


def unpickle(file: io.IOBase, source: Path):
    """Return the contents of a pickle of plain data and numpy arrays.

    Args:
        file: open for reading.
        source: its path, for the error.

    Raises:
        DataError: the pickle is damaged, cut off, or asks for anything but numpy arrays.
    """
    try:
        with naming(source):
            return _NumpyOnly(file, source).load()
    except (pickle.UnpicklingError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise DataError(f"{source} is damaged or cut off ({error}); delete it and fetch or place it again") from error
