"""One hash for a function with its arguments: two calls share it only if they must give the same result.

Invariant: what counts is the compiled code of functions written in the notebook, the values of the notebook's names
that they read (followed to their end), the arguments, the number of threads, the project's modules that are reached,
and the versions of the other packages. Names that are not read, comments and docstrings do not count.
"""

import dataclasses
import dis
import functools
import hashlib
import importlib.metadata
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from ctml.companion.runs.sources import Import, Sources

_INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib"))

# What Python writes into a class by itself, some of it only when an object of the class is first copied or pickled.
_NO_CODE = (
    "__doc__", "__module__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__slotnames__",
)  # fmt: skip


def fingerprint(function: Callable[..., Any], arguments: Mapping[str, Any], sources: Sources, threads: int) -> str:
    """Return the key under which the result of `function(**arguments)` on a number of torch threads is kept."""
    digest = _Digest(sources)
    digest.write("threads", str(threads))  # sums in float32 depend on it
    digest.add(function)
    digest.add(dict(arguments))
    return digest.finish()


def reached(
    function: Callable[..., Any], runs: Iterable[Mapping[str, Any]], sources: Sources
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digests of the project's modules, and the versions of the other packages, that calls depend on."""
    digest = _Digest(sources)
    digest.add(function)
    for arguments in runs:
        digest.add(dict(arguments))
    return digest.ends()


class _Digest:
    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.hash = hashlib.sha256(sys.version.encode())
        self.reached: set[Import] = set()
        self.packages: set[str] = set()
        self.seen: dict[int, tuple[int, Any]] = {}  # the object is kept so that its id stays its own

    def finish(self) -> str:
        modules, packages = self.ends()
        self.write("modules", *(f"{name} {digest}" for name, digest in modules.items()))
        self.write("packages", *(f"{name} {number}" for name, number in packages.items()))
        return self.hash.hexdigest()

    def ends(self) -> tuple[dict[str, str], dict[str, str]]:
        modules, outside = self.sources.reached(self.reached)
        return modules, {name: version(name) for name in sorted(self.packages | outside)}

    def write(self, *parts: str | bytes) -> None:
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            self.hash.update(f"{len(data)}:".encode() + data)

    def add(self, value: Any) -> None:
        """Write a value, each object once: a second visit writes only where it was first met."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes) or value is Ellipsis:
            self.write(type(value).__name__, repr(value))
            return
        if not isinstance(value, tuple | frozenset):  # equal constants may or may not be one object: never by identity
            if id(value) in self.seen:
                self.write("again", str(self.seen[id(value)][0]))
                return
            self.seen[id(value)] = (len(self.seen), value)
        if isinstance(value, types.ModuleType):
            self._module(value.__name__, None)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.CodeType):
            self._code(value, {})
        else:
            self._data(value)

    def _data(self, value: Any) -> None:
        kind = type(value)
        self.write(f"{kind.__module__}.{kind.__qualname__}")
        if isinstance(value, list | tuple):
            self.write(str(len(value)))
            for item in value:
                self.add(item)
        elif isinstance(value, Mapping):
            self.write(str(len(value)))
            for key in sorted(value, key=repr):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, set | frozenset):
            self.write(*sorted(map(repr, value)))
        elif isinstance(value, Path):
            self.write(str(value))
        elif isinstance(value, functools.partial | types.MethodType | property | staticmethod | classmethod):
            for name in ("func", "args", "keywords", "__func__", "__self__", "fget"):
                self.add(getattr(value, name, None))
        elif isinstance(value, types.BuiltinFunctionType):
            self.write(value.__qualname__)
        elif callable(getattr(value, "detach", None)):  # a torch tensor
            self.add(value.detach().cpu().numpy())
        elif callable(getattr(value, "to_csv", None)):  # a pandas table
            self.write(value.to_csv())
        elif hasattr(value, "dtype") and hasattr(value, "tobytes"):  # a numpy array or number
            self.write(str(value.dtype), str(value.shape), value.tobytes())
        elif self._is_plain(value):
            self.add(kind)
            self.add(vars(value))
        else:
            self.write(cloudpickle.dumps(value))

    def _is_plain(self, value: Any) -> bool:
        """Tell whether an object is all in its attributes, as dataclasses, learners and tasks are."""
        if not hasattr(value, "__dict__"):
            return False
        return dataclasses.is_dataclass(value) or type(value).__reduce_ex__ is object.__reduce_ex__

    def _module(self, name: str, attribute: str | None) -> None:
        if self.sources.find(name):
            self.reached.add((name, attribute))
        else:
            self.packages.add(name.partition(".")[0])
        self.write("module", name)

    def _defined_elsewhere(self, value: Any) -> bool:
        """Write a function or class by its name alone if its text is covered by a module or a package version."""
        module = getattr(value, "__module__", None) or "builtins"
        self.write(module, value.__qualname__)
        if self.sources.find(module):
            self.reached.add((module, None))
            return True
        path = getattr(sys.modules.get(module), "__file__", None)
        if module != "__main__" and (path is None or any(root in Path(path).resolve().parents for root in _INSTALLED)):
            self.packages.add(module.partition(".")[0])
            return True
        return False

    def _class(self, cls: type) -> None:
        if self._defined_elsewhere(cls):
            return
        for base in cls.__bases__:
            self.add(base)
        for name, member in sorted(vars(cls).items()):
            # written by @dataclass from the fields, which count themselves; its __repr__ is wrapped
            generated = name.startswith("__") and inspect.isfunction(member)
            generated = generated and inspect.unwrap(member).__code__.co_filename == "<string>"
            if not generated and name not in _NO_CODE and not name.startswith(("__dataclass_", "__annotat", "_abc_")):
                self.write(name)
                self.add(member)
        self.write(*(str(a) for a in getattr(cls, "__annotations__", {})))

    def _function(self, function: types.FunctionType) -> None:
        inner = inspect.unwrap(function)
        if inner is not function:
            self.add(inner)
        if self._defined_elsewhere(function):
            return
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            self.add(cell.cell_contents)
        self._code(function.__code__, function.__globals__, function.__doc__)

    def _code(self, code: types.CodeType, namespace: Mapping[str, Any], doc: str | None = None) -> None:
        self.write(code.co_code, *code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)
        instructions = list(dis.get_instructions(code))
        attributes = [str(i.argval) for i in instructions if i.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")]
        for index, constant in enumerate(code.co_consts):
            if isinstance(constant, types.CodeType):
                self._code(constant, namespace)
            elif index > 0 or constant != doc:
                self.add(constant)
        for place, instruction in enumerate(instructions):
            name = str(instruction.argval)
            if instruction.opname == "IMPORT_NAME":
                self._import(name, instructions[place + 1 :], attributes)
            elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and name in namespace:
                self.write("reads", name)
                value = namespace[name]
                if isinstance(value, types.ModuleType):
                    self._named_parts(value.__name__, attributes)
                else:
                    self.add(value)

    def _import(self, module: str, following: list[dis.Instruction], attributes: list[str]) -> None:
        """Reach what an import inside a function takes: names (`from m import a, b`) or the module (`import m`)."""
        taken = []
        for instruction in following:
            if instruction.opname == "IMPORT_FROM":
                taken.append(str(instruction.argval))
            elif not instruction.opname.startswith("STORE"):
                break
        for name in taken:
            self._module(module, name)
        if not taken:
            self._named_parts(module, attributes)

    def _named_parts(self, module: str, attributes: list[str]) -> None:
        """Reach only what is taken out of a package: `ctml.MAML` reaches MAML, not all that `ctml` exports."""
        loaded = sys.modules.get(module)
        if self.sources.find(module) is None or not hasattr(loaded, "__path__"):
            self._module(module, None)
            return
        for attribute in sorted(set(attributes)):
            part = getattr(loaded, attribute, None)
            if isinstance(part, types.ModuleType) and part.__name__.startswith(module + "."):
                self._named_parts(part.__name__, attributes)
            elif hasattr(loaded, attribute) or self.sources.find(f"{module}.{attribute}"):
                self._module(module, attribute)


@functools.cache
def version(package: str) -> str:
    """Return the version of an installed package."""
    if package in sys.stdlib_module_names:
        return "stdlib"
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", "unknown")
