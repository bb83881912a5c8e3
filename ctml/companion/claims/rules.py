"""Acceptance rules of claims: small expressions over named samples, read from `claims.toml` and never executed as code.

Invariants:
    * A rule can only compare, calculate and call the functions listed here, each with its number of arguments, since
      numpy would write into a second one; all else is refused when the file is read, long before a result exists.
    * What decides is a comparison of samples: a number that counts as true, or a rule without a sample, is refused.
    * Nothing is true of an empty sample, on the way neither: `all(diff(x) > 0)` of one value is no decision.
"""

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ctml.statistics import Interval, interval


class RuleError(ValueError):
    """A rule that cannot be read or does not fit its samples."""


class TooFew(RuleError):
    """Samples with too few values for the rule to decide anything."""


def ci_low(sample: Any, level: float = 0.95) -> float:
    """Return the lower end of the t-interval of the mean."""
    return _interval(sample, level).low


def ci_high(sample: Any, level: float = 0.95) -> float:
    """Return the upper end of the t-interval of the mean."""
    return _interval(sample, level).high


def overlaps(low: float, high: float, other_low: float, other_high: float) -> bool:
    """Tell whether two intervals have a point in common."""
    return bool(low <= other_high and other_low <= high)


def equivalent(sample: Any, margin: float) -> bool:
    """Tell whether the mean lies within ±margin at the 5% level, by two one-sided t-tests (Schuirmann 1987).

    Noise makes it harder to pass, unlike a test that finds no difference: the 90% interval must lie inside.
    """
    found = _interval(sample, 0.9)
    return bool(-margin < found.low and found.high < margin)


def slope(x: Any, y: Any) -> float:
    """Return the least-squares slope of y over x, which is the order of a method when both are logarithms."""
    x, y = np.asarray(x, float).ravel(), np.asarray(y, float).ravel()
    if x.size != y.size:
        raise RuleError(f"slope needs two samples of equal size: got {x.size} and {y.size}")
    if x.size < 2:
        raise TooFew(f"slope needs two values or more, got {x.size}")
    return float(np.polyfit(x, y, 1)[0])


def _interval(sample: Any, level: float) -> Interval:
    values = np.asarray(sample, float).ravel()
    if values.size < 2:
        raise TooFew(f"an interval needs two values or more, got {values.size}")
    return interval(torch.tensor(values), level)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "min": np.min, "max": np.max, "mean": np.mean, "median": np.median, "sum": np.sum,
    "all": np.all, "any": np.any, "len": np.size, "log": np.log, "log2": np.log2, "log10": np.log10,
    "sqrt": np.sqrt, "diff": np.diff, "first": lambda s: np.ravel(s)[0], "last": lambda s: np.ravel(s)[-1],
    "ci_low": ci_low, "ci_high": ci_high, "overlaps": overlaps, "equivalent": equivalent, "slope": slope,
}  # fmt: skip

_ARGUMENTS = {"ci_low": (1, 2), "ci_high": (1, 2), "overlaps": (4,), "equivalent": (2,), "slope": (2,)}  # others: one
_TRUE_OR_FALSE = ("all", "any")  # of a comparison
_LONGEST = 1000  # letters

_BINARY = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip
_COMPARE = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


def read_rule(text: str, *, decides: bool = False) -> tuple[ast.expr, set[str]]:
    """Return a rule's expression and the names of its samples.

    Args:
        decides: the rule must say yes or no to samples (a measure is any number).

    Raises:
        RuleError: naming what a rule may not contain.
    """
    if len(text) > _LONGEST:
        raise RuleError(f"a rule has at most {_LONGEST} letters, not {len(text)}")
    names: set[str] = set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on how to write it better
            rule = ast.parse(text.strip(), mode="eval").body
        _check(rule, names)
        says = not decides or _decides(rule)
    except SyntaxError as error:
        raise RuleError(f"cannot read the rule {text!r}: {error.msg}") from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, RuleError):
            raise
        raise RuleError(f"cannot read the rule {text!r}: {error}") from None
    except (RecursionError, MemoryError):
        raise RuleError(f"cannot read the rule {text[:60]!r}...: it is nested too deeply") from None
    if not says:
        raise RuleError(f"{text!r} says neither yes nor no: compare something, as in 'mean(error) < 0.1'")
    if decides and not names:
        raise RuleError(f"{text!r} decides without a sample")
    return rule, names


def evaluate(text: str, samples: Mapping[str, Any]) -> Any:
    """Return the value of a rule over samples.

    Raises:
        TooFew: when there is nothing, somewhere in the rule, to decide on.
        RuleError: when a sample is missing or has the wrong size, or the value cannot be calculated.
    """
    rule, names = read_rule(text)
    if missing := sorted(names - set(samples)):
        raise RuleError(
            f"the rule {text!r} needs the sample {', '.join(missing)}; given: {', '.join(samples) or 'none'}"
        )
    try:
        with np.errstate(all="ignore"):
            return _value(rule, samples)
    except TooFew as error:
        raise TooFew(f"the rule {text!r} cannot be calculated: {error}") from None
    except (ValueError, TypeError, IndexError, ArithmeticError, RecursionError) as error:
        raise RuleError(f"the rule {text!r} cannot be calculated: {error}") from None


def _decides(node: ast.expr) -> bool:
    """Tell whether an expression is true or false, and not a number that might count as one."""
    match node:
        case ast.Compare():
            return True
        case ast.BoolOp(values=values):
            return all(map(_decides, values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _decides(operand)
        case ast.Call(func=ast.Name(id=name), args=[argument]) if name in _TRUE_OR_FALSE:
            return _decides(argument)
        case ast.Call(func=ast.Name(id=name)):
            return name in ("overlaps", "equivalent")
    return False


def _check(node: ast.expr, names: set[str]) -> None:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            float(value)  # a whole number that fits into none would be calculated with for ever
        case ast.Name(id=name):
            names.add(name)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
            _check(operand, names)
        case ast.BinOp(left=left, right=right, op=op) if type(op) in _BINARY:
            _check(left, names)
            _check(right, names)
        case ast.BoolOp(values=values):
            for value in values:
                _check(value, names)
        case ast.Compare(left=left, comparators=others, ops=ops) if all(type(op) in _COMPARE for op in ops):
            for value in (left, *others):
                _check(value, names)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            counts = _ARGUMENTS.get(name, (1,))
            if len(arguments) not in counts:
                raise RuleError(f"{name} takes {' or '.join(map(str, counts))} samples, not {len(arguments)}")
            for argument in arguments:
                _check(argument, names)
        case ast.Call(func=ast.Name(id=name)) if name not in FUNCTIONS:
            raise RuleError(f"a rule knows no function {name!r}; it knows {', '.join(FUNCTIONS)}")
        case _:
            raise RuleError(f"a rule may compare, calculate and call functions, not {ast.unparse(node)!r}")


def _value(node: ast.expr, samples: Mapping[str, Any]) -> Any:
    value = _calculated(node, samples)
    if np.size(value) == 0:
        raise TooFew(f"{ast.unparse(node)} is empty")
    return value


def _calculated(node: ast.expr, samples: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return value if isinstance(value, bool) else float(value)
        case ast.Name(id=name):
            return samples[name]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not bool(np.all(_value(operand, samples)))
        case ast.UnaryOp(op=op, operand=operand):
            value = _value(operand, samples)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, samples), _value(right, samples))  # pyright: ignore[reportArgumentType]
        case ast.BoolOp(op=op, values=values):
            truths = [bool(np.all(_value(value, samples))) for value in values]
            return all(truths) if isinstance(op, ast.And) else any(truths)
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(value, samples) for value in (left, *others)]
            pairs = zip(ops, values, values[1:], strict=False)
            return np.logical_and.reduce([_COMPARE[type(op)](a, b) for op, a, b in pairs])  # pyright: ignore[reportArgumentType]
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(_value(argument, samples) for argument in arguments))
    raise AssertionError(ast.dump(node))  # read_rule lets nothing else through
