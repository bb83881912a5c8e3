"""The parameters of a notebook: the literals in its cell tagged `parameters`, and values given from outside."""

import ast
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ctml.companion.project import PRESETS, Refusal, check_known

Config = TypeVar("Config")
_NAMED_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


def choose(presets: Mapping[str, Config], preset: str, **given: Any) -> Config:
    """Return the configuration of a preset with the given values put in; `None` means "as the preset says".

    Raises:
        Refusal: when the preset or one of the names does not exist.
    """
    check_known("preset", preset, tuple(presets))
    config: Any = presets[preset]
    fields = [f.name for f in dataclasses.fields(config)]
    for name in given:
        check_known("parameter", name, fields)
    return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Parameter:
    """One name of the parameters cell, its default, and the types it takes (none listed: any literal)."""

    name: str
    default: Any
    types: tuple[type, ...]

    def check(self, value: Any) -> Any:
        """Return the value in the parameter's type.

        Raises:
            Refusal: when the value has another type.
        """
        if isinstance(value, tuple):
            value = list(value)  # papermill would pass a tuple on as text
        if not self.types or type(value) in self.types:
            return value
        if float in self.types and type(value) is int:
            return float(value)
        if str in self.types and value is not None:
            return str(value)
        expected = " or ".join("None" if t is type(None) else t.__name__ for t in self.types)
        raise Refusal(
            f"Parameter {self.name} takes {expected} (default {self.default!r}), not {value!r} of type "
            f"{type(value).__name__}."
        )


@dataclass(frozen=True)
class Cell:
    """One code cell of a py:percent notebook."""

    header: str
    code: str

    @property
    def is_parameters(self) -> bool:
        """Tell whether it is the cell tagged `parameters`."""
        tags = re.search(r"tags=\[([^\]]*)\]", self.header)
        return tags is not None and '"parameters"' in tags.group(1)


def cells_of(text: str) -> list[Cell]:
    """Return the code cells of a py:percent source."""
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    parts = (cell.partition("\n") for cell in cells)
    return [Cell(header, body) for header, _, body in parts if "[markdown]" not in header]


def read_parameters(source: Path) -> dict[str, Parameter]:
    """Read the cell tagged `parameters` of a py:percent notebook.

    Raises:
        Refusal: as `parameters_in`.
    """
    return parameters_in(source.read_text(encoding="utf-8"), source.name)


def parameters_in(text: str, file: str) -> dict[str, Parameter]:
    """Read the cell tagged `parameters` of the text of a py:percent notebook.

    Raises:
        Refusal: when there is no such cell, when it holds something else than literals, or no `PRESET`.
    """
    tagged = next((cell for cell in cells_of(text) if cell.is_parameters), None)
    if tagged is None:
        raise Refusal(f'{file} has no parameters cell: mark one with # %% tags=["parameters"].')
    found = {}
    for statement in ast.parse(tagged.code).body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value, annotation = statement.targets[0], statement.value, None
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value, annotation = statement.target, statement.value, statement.annotation
        else:
            raise Refusal(f"{file}: the parameters cell holds only `name = literal`, not {ast.unparse(statement)!r}.")
        try:
            default = ast.literal_eval(value)
        except ValueError:
            # papermill injects its values *below* this cell: anything derived here would keep the old value
            raise Refusal(
                f"{file}: parameter {ast.unparse(target)} must be a literal, not {ast.unparse(value)!r}."
            ) from None
        if isinstance(default, tuple | set | bytes | complex):
            raise Refusal(
                f"{file}: parameter {ast.unparse(target)} must be a number, text, list or dict, "
                "since papermill passes no other."
            )
        name = ast.unparse(target)
        found[name] = Parameter(name, default, _types(default, annotation))
    if not isinstance(found.get("PRESET", Parameter("", None, ())).default, str):
        raise Refusal(f'{file}: the parameters cell must hold the dial, as in PRESET = "quick".')
    return found


def parse_settings(text: str) -> dict[str, Any]:
    """Read `ways=20 shots=5 name="two words"`; a value that is no Python literal is a string.

    Raises:
        Refusal: when a word is not of the form name=value.
    """
    words = re.split(r"\s+(?=[^\s=]+=)", text.strip()) if text.strip() else []
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise Refusal(f'Cannot read {word!r} in SET: write SET="name=value other=value", no spaces around "=".')
        if name in settings:
            raise Refusal(f"SET gives {name} twice: {settings[name]!r} and {value}.")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            if value[0] in "'\"([{":
                raise Refusal(f"Cannot read {word!r} in SET: {value} is no Python literal.") from None
            settings[name] = value
    return settings


def check_settings(settings: Mapping[str, Any], known: Mapping[str, Parameter], notebook: str) -> dict[str, Any]:
    """Return the settings in the types of the notebook's parameters.

    Raises:
        Refusal: when the notebook lacks a parameter or a value has another type.
    """
    names = [name for name in known if name != "PRESET"]
    checked = {}
    for name, value in settings.items():
        if name == "PRESET":
            raise Refusal(f"The preset is its own dial: PRESET={value}, with one of {', '.join(PRESETS)}.")
        check_known(f"parameter of notebook {notebook}", name, names)
        checked[name] = known[name].check(value)
    return checked


def _types(default: Any, annotation: ast.expr | None) -> tuple[type, ...]:
    if annotation is None:
        return () if default is None else (type(default),)
    types = []
    for word in re.split(r"\s*\|\s*", ast.unparse(annotation)):
        name = word.partition("[")[0]
        if name == "None":
            types.append(type(None))
        elif name in _NAMED_TYPES:
            types.append(_NAMED_TYPES[name])
        else:
            return ()
    return tuple(types)
