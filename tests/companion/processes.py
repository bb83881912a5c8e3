"""Waiting for other processes in tests: on conditions, with limits that a loaded machine keeps."""

import time
from collections.abc import Callable

LIMIT = 150  # seconds; reached only when something hangs


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds, and fail if it never does."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT} s for: {what}"
        time.sleep(0.05)
