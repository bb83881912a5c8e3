"""The parameters of a notebook: the literals in its cell tagged `parameters`, and values given from outside."""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctml.companion.project import PRESETS, Refusal, check_known
from ctml.companion.ranges import Range, is_finite, read_comment

_NAMED_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
_NOT_PASSED_ON = set | bytes | complex | type(...)  # papermill writes them into no notebook


@dataclass(frozen=True)
class Parameter:
    """One name of the parameters cell.

    Args:
        name: as the notebook calls it.
        default: the literal it stands for.
        types: those it takes; none listed: any literal.
        items: the types of the values in a list, likewise.
        range: what it may be, as the comment beside the default says.
        meaning: what else that comment says.
    """

    name: str
    default: Any
    types: tuple[type, ...]
    items: tuple[type, ...] = ()
    range: Range | None = None
    meaning: str = ""

    def check(self, value: Any) -> Any:
        """Return the value in the parameter's type.

        Raises:
            Refusal: when the value has another type, is not finite, or is out of the parameter's range.
        """
        checked = self._typed(value)
        numbers = checked if isinstance(checked, list) else [checked]
        finite = all(is_finite(n) for n in numbers if type(n) in (int, float))
        if not finite or (checked is not None and self.range is not None and not self.range.holds(checked)):
            limits = self.range.text if self.range else "finite"
            about = f": {self.meaning}" if self.meaning else ""
            raise Refusal(f"Parameter {self.name} must be {limits}, not {value!r} (default {self.default!r}{about}).")
        return checked

    def _typed(self, value: Any) -> Any:
        if isinstance(value, tuple):
            value = list(value)  # papermill would pass a tuple on as text
        if isinstance(value, list) and list in self.types:
            return [self._converted(item, self.items, value) for item in value]
        return self._converted(value, self.types, value)

    def _converted(self, one: Any, types: tuple[type, ...], value: Any) -> Any:
        if not types or type(one) in types:
            return one
        if float in types and type(one) is int and is_finite(one):
            return float(one)
        if str in types and one is not None:
            return str(one)
        raise Refusal(
            f"Parameter {self.name} takes {self.takes} (default {self.default!r}), not {value!r} of type "
            f"{type(value).__name__}."
        )

    @property
    def takes(self) -> str:
        """Return its types in words."""
        items = f"[{' or '.join(map(_type_name, self.items))}]" if self.items else ""
        return " or ".join(_type_name(t) + (items if t is list else "") for t in self.types) or "any literal"


def _type_name(kind: type) -> str:
    return "None" if kind is type(None) else kind.__name__


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
    comments = _comments(tagged.code)
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
        if isinstance(default, tuple | _NOT_PASSED_ON):
            raise Refusal(
                f"{file}: parameter {ast.unparse(target)} must be a number, text, list or dict, "
                "since papermill passes no other."
            )
        name = ast.unparse(target)
        limits, meaning = read_comment(comments.get(statement.end_lineno or 0, ""))
        types, items = _types(default, annotation)
        found[name] = Parameter(name, default, types, items, limits, meaning)
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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's advice on how to write it better
                settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            if value[0] in "'\"([{":
                raise Refusal(f"Cannot read {word!r} in SET: {value} is no Python literal.") from None
            settings[name] = value
        if isinstance(settings[name], _NOT_PASSED_ON):
            raise Refusal(f"Cannot read {word!r} in SET: write a number, text, list or dict.")
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


def _comments(code: str) -> dict[int, str]:
    """Return the comment on each line that has one."""
    words = tokenize.generate_tokens(io.StringIO(code).readline)
    return {word.start[0]: word.string for word in words if word.type == tokenize.COMMENT}


def _types(default: Any, annotation: ast.expr | None) -> tuple[tuple[type, ...], tuple[type, ...]]:
    """Return the types that a parameter takes, and those of the values in it where it is a list."""
    if annotation is None:
        return (() if default is None else (type(default),)), ()
    types, items = [], ()
    for part in _alternatives(annotation):
        name = ast.unparse(part).partition("[")[0]
        if name == "None":
            types.append(type(None))
        elif name in _NAMED_TYPES:
            types.append(_NAMED_TYPES[name])
        else:
            return (), ()
        if name == "list" and isinstance(part, ast.Subscript):
            items, _ = _types(None, part.slice)
    return tuple(types), items


def _alternatives(annotation: ast.expr) -> list[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*_alternatives(annotation.left), *_alternatives(annotation.right)]
    return [annotation]
