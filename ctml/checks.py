"""One clear line for a parameter that makes no sense."""

from collections.abc import Collection


def at_least(name: str, value: float, least: float) -> None:
    """Raise ValueError unless value >= least (NaN never is)."""
    if not value >= least:
        raise ValueError(f"{name}={value}: must be at least {least}")


def positive(name: str, value: float) -> None:
    """Raise ValueError unless 0 < value < infinity."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value}: must be a positive finite number")


def one_of(name: str, value: str, known: Collection[str]) -> None:
    """Raise ValueError unless value is one of the known words."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(known)}")
