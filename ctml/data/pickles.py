"""Read a pickle of numpy arrays without letting it run anything else, or take more memory than its file has bytes.

A pickle is a program. The published few-shot files hold dictionaries, lists, strings and numpy arrays only, so nothing
but numpy's array rebuilding is let through, in stand-ins that build plain arrays of numbers and text alone; anything
else is refused by name.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from ctml.data.archives import naming, refuse_larger
from ctml.data.errors import DataError

PLAIN = "biufSU"  # kinds of numpy types whose values lie in the file itself
_NDARRAY = object()  # stands for the class numpy.ndarray, which a pickle may name but not call


def _dtype(code: str, *_) -> np.dtype:
    dtype = np.dtype(code, False, True)  # a copy, whose byte order is set later
    if dtype.kind not in PLAIN:
        raise ValueError(f"arrays of {code!r}")
    return dtype


def _reconstruct(kind: object, shape: tuple, code: object) -> np.ndarray:
    if kind is not _NDARRAY or tuple(shape) != (0,):
        raise ValueError("an array made before its contents")
    return np.empty(0, np.uint8)  # empty, as numpy writes it; its contents follow, and their number is checked


def _scalar(dtype: np.dtype, data: bytes | str) -> np.generic:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype, 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":  # "hex" of "hex" of ... doubles a few bytes to gigabytes
        raise ValueError(f"text in {encoding!r}")
    return text.encode("latin1")


def _frombuffer(data: bytes, dtype: np.dtype, shape: tuple, order: Literal["C", "F"]) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstruct"): _reconstruct for module in _MODULES[:2]},
    **{(module, "scalar"): _scalar for module in _MODULES[:2]},
    **{(module, "_frombuffer"): _frombuffer for module in _MODULES[2:]},
}


class _Bounded:
    """A file that is asked for no more than it has: a count of 10^15 bytes ends here and not in the allocator."""

    def __init__(self, file: io.BufferedIOBase, length: int) -> None:
        self.file, self.left = file, length

    def read(self, n: int) -> bytes:
        if n > self.left:
            raise EOFError(f"it asks for {n:,} bytes where {self.left:,} are left")
        self.left -= n
        return self.file.read(n)

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line


def _refuse_large_counts(file: io.BufferedIOBase, length: int) -> None:
    """Walk through a pickle without running it: the unpickler takes memory for any count that it names."""
    for i, (code, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], _Bounded(file, length)))):
        if code.name.endswith("PUT") and not (isinstance(argument, int) and 0 <= argument <= i):
            raise ValueError(f"memo entry {argument} in step {i}")
    file.seek(0)


class _NumpyOnly(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, source: Path) -> None:
        super().__init__(file, encoding="latin1")  # the files were written by Python 2
        self.source = source

    def find_class(self, module: str, name: str) -> object | Callable:
        if (module, name) not in ALLOWED:
            raise DataError(f"{self.source} wants to load {module}.{name}: not a plain data file; delete it")
        return ALLOWED[module, name]


def unpickle(source: Path, most: int, data: bytes | None = None):
    """Return the contents of a pickle of plain data and numpy arrays.

    Args:
        source: the file, also where the pickle is but a member of it.
        most: bytes that such a file can have; one that is larger is refused unread.
        data: the member's contents.

    Raises:
        DataError: the pickle is damaged, cut off, too large, or asks for anything but numpy arrays.
    """
    if data is None:
        refuse_larger(source, source.stat().st_size, most)
    try:
        with naming(source), source.open("rb") if data is None else io.BytesIO(data) as file:
            length = source.stat().st_size if data is None else len(data)
            _refuse_large_counts(file, length)
            return _NumpyOnly(file, source).load()
    except DataError:
        raise
    except Exception as error:  # a damaged program may do anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source} is damaged or cut off ({reason}); delete it and fetch or place it again") from error
