"""Requests to stop: Ctrl-C, a polite kill, a terminal that is closed. All end the same way, and none half way."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` in the block on each request; one that is ignored by whoever started us (nohup) stays so."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no request in before the block is done, and then the first that came."""
    came: list[int] = []
    with _handled_by(lambda number, frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def _handled_by(handler: object) -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in _SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
