"""The configuration of a notebook at each preset: chosen when it runs, and read from its text for `make list`.

Invariant: reading runs nothing, so the parameters of a stranger's notebook can be listed before anybody starts it.
"""

import ast
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ctml.companion.parameters import cells_of, parameters_in
from ctml.companion.project import Refusal, check_known

Config = TypeVar("Config")
REHEARSAL = "CTML_REHEARSAL"
"""Environment variable of a process in which every configuration is shortened: see `shortened`."""
_SHORTEST = {
    "meta_steps": 2, "outer_steps": 2, "search_steps": 1, "image_steps": 2, "sinusoid_steps": 2, "iterations": 2,
    "validate_every": 1, "every": 1, "validation_tasks": 2, "test_tasks": 2, "image_tests": 2, "sinusoid_tests": 2,
    "seeds": 2, "image_seeds": 2, "trajectories": 2, "repeats": 1,
}  # fmt: skip


def choose(presets: Mapping[str, Config], preset: str, **given: Any) -> Config:
    """Return the configuration of a preset with the given values put in; `None` means "as the preset says".

    In a notebook that somebody has open, or runs as a script, the values of its parameters cell are checked against the
    ranges stated there, as the runner does before it starts one.

    Raises:
        Refusal: when the preset or one of the names does not exist, or a parameter is out of its range.
    """
    check_known("preset", preset, tuple(presets))
    config: Any = presets[preset]
    fields = [f.name for f in dataclasses.fields(config)]
    for name in given:
        check_known("parameter", name, fields)
    check_open_notebook(vars(sys.modules["__main__"]))
    config = dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
    return shortened(config) if os.environ.get(REHEARSAL) else config


def shortened(config: Any) -> Any:
    """Return a configuration that takes the same path in two meta-steps: fewer steps, tasks and seeds, on the CPU.

    Sizes stay, of networks, meta-batches and data: what runs through at two meta-steps lacks nothing but time. What it
    holds, configurations in tuples and dictionaries too, is shortened as well.
    """
    if isinstance(config, dict):
        return {name: shortened(value) for name, value in config.items()}
    if isinstance(config, tuple | list):
        return type(config)(shortened(value) for value in config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    less = {n: min(v, _SHORTEST[n]) if n in _SHORTEST and type(v) is int else shortened(v) for n, v in fields.items()}
    return dataclasses.replace(config, **less | ({"device": "cpu"} if "device" in less else {}))


def check_open_notebook(names: Mapping[str, Any]) -> None:
    """Check the values of the parameters cell that was run last in this process, if any.

    Args:
        names: those of the open notebook; `In` holds the cells as they were run, `__file__` is a script's.

    Raises:
        Refusal: naming the first value that has another type or is out of its range.
    """
    for parameter in _parameters_run(names).values():
        if parameter.name in names and parameter.name != "PRESET":
            parameter.check(names[parameter.name])


def _parameters_run(names: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(names.get("In"), list):
        texts = [f'# %% tags=["parameters"]\n{cell}' for cell in names["In"] if "PRESET" in cell]
    else:
        file = Path(str(names.get("__file__", "")))
        texts = [file.read_text(encoding="utf-8")] if file.suffix == ".py" and file.is_file() else []
        texts = [text for text in texts if any(cell.is_parameters for cell in cells_of(text))]
    found = {}
    for text in texts:
        try:
            found |= parameters_in(text, "this notebook")
        except (Refusal, SyntaxError):  # another cell that names the preset
            continue
    return found


def values_by_preset(text: str) -> dict[str, dict[str, str]]:
    """Return what each preset gives to each field of `Config`, as it is written in a notebook.

    Understood is what the notebooks do: `Config(name=value)`, `replace(other, name=value, **more)`, dictionaries, and
    names for any of them; whatever else stands there is left out.
    """
    reader = _Reader()
    try:
        tree = ast.parse("\n".join(cell.code for cell in cells_of(text)))
    except SyntaxError:
        return {}
    for statement in tree.body:
        match statement:
            case ast.ClassDef(name=name, body=body):
                fields = [f for f in body if isinstance(f, ast.AnnAssign) and f.value is not None]
                reader.classes[name] = {ast.unparse(f.target): ast.unparse(f.value) for f in fields if f.value}
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                reader.names.setdefault(name, value)
    presets = reader.names.get("PRESETS")
    return {} if presets is None else {k: v for k, v in reader.read(presets).items() if isinstance(v, dict)}


class _Reader:
    """Follows the names of a configuration through its text."""

    def __init__(self) -> None:
        self.classes: dict[str, dict[str, Any]] = {}
        self.names: dict[str, ast.expr] = {}

    def read(self, node: ast.expr) -> dict[str, Any]:
        """Return the entries of an expression that stands for a dictionary or a configuration."""
        match node:
            case ast.Name(id=name) if name in self.names:
                return self.read(self.names[name])
            case ast.Dict(keys=keys, values=values):
                found: dict[str, Any] = {}
                for key, value in zip(keys, values, strict=True):
                    found |= self.read(value) if key is None else {str(ast.literal_eval(key)): self._entry(value)}
                return found
            case ast.Call(func=ast.Name(id="replace"), args=[base], keywords=keywords):
                return self.read(base) | self._keywords(keywords)
            case ast.Call(func=ast.Name(id=name), keywords=keywords) if name in self.classes:
                return self.classes[name] | self._keywords(keywords)
        return {}

    def _keywords(self, keywords: list[ast.keyword]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in keywords:
            found |= self.read(keyword.value) if keyword.arg is None else {keyword.arg: self._entry(keyword.value)}
        return found

    def _entry(self, node: ast.expr) -> Any:
        return self.read(node) or ast.unparse(node)
