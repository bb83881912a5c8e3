"""What a notebook's parameter may be: a range or choices, stated once in the comment beside its default.

    seeds: int | None = None  # >= 1: runs of each method
    alpha = 0.1  # > 0 and < 1: inner step size
    order: str | None = None  # first | second
    shots: list[int] | None = None  # each >= 1
    distances: list[float] | None = None  # 2 or more, each > 0
    device = "cpu"  # cpu | cuda | cuda:*

Invariant: the words before the colon are the range and the words after it say what the parameter is. A comment that
does not begin so is a comment; the tests ask every notebook of this project for a range of every parameter.
"""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_MANY = re.compile(r"(?:(\d+) or more, )?each ")
_BOUND = re.compile(r"(>=|<=|>|<) (-?\d[\d_.]*(?:e-?\d+)?)")
_CHOICE = re.compile(r"[\w.+/:*-]+(?: or [\w.+/:*-]+)?")  # "omniglot or glyphs" is one choice: whichever there is


@dataclass(frozen=True)
class Range:
    """The values that a parameter may take.

    Args:
        text: the range as it is written.
        bounds: every comparison that must hold, as (sign, number).
        choices: the values that exist, in their text; `*` stands for any letters.
        least: how many values a list holds at least; none where the parameter is no list.
    """

    text: str
    bounds: tuple[tuple[str, float], ...] = ()
    choices: tuple[str, ...] = ()
    least: int | None = None

    def holds(self, value: Any) -> bool:
        """Tell whether a value lies in the range."""
        if self.least is None:
            return self._holds_one(value)
        return isinstance(value, list | tuple) and len(value) >= self.least and all(map(self._holds_one, value))

    def _holds_one(self, value: Any) -> bool:
        if self.choices:
            return any(fnmatchcase(str(value), choice) for choice in self.choices)
        return is_finite(value) and all(_ORDERS[sign](value, limit) for sign, limit in self.bounds)


def is_finite(value: Any) -> bool:
    """Tell whether a value is a number that fits into 64 bits."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def read_comment(comment: str) -> tuple[Range | None, str]:
    """Return the range that a comment states, if any, and what it says besides."""
    words, _, meaning = comment.removeprefix("#").strip().partition(": ")
    found = _read(words.strip())
    return (found, meaning.strip()) if found else (None, comment.removeprefix("#").strip())


def _read(text: str) -> Range | None:
    many = _MANY.match(text)
    least, rest = (int(many[1] or 1), text[many.end() :]) if many else (None, text)
    bounds = [_BOUND.fullmatch(part) for part in rest.split(" and ")]
    if all(bounds):
        return Range(text, bounds=tuple((m[1], float(m[2])) for m in bounds if m), least=least)
    choices = rest.split(" | ")
    if len(choices) > 1 and all(_CHOICE.fullmatch(choice) for choice in choices):
        return Range(text, choices=tuple(choices), least=least)
    return None
