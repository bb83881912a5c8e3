"""A file that a run goes on from, and that knows which run it belongs to.

Invariants:
    * A file is written whole or not at all: a run that is killed while it saves goes on from the save before.
    * What is read is what was written: a changed byte is noticed by the file's checksum (torch's own format has one and
      does not look at it).
    * A run goes on only from its own file: the first setting that differs is named, with both values.
    * Reading executes nothing: tensors and plain containers only.
    * A file written on one device serves on another.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ctml.settings import Plain

_CHECKSUM = hashlib.sha256().digest_size  # bytes at the beginning of a file


class Checkpoint:
    """The file of one run; with path None a run that keeps nothing.

    Args:
        path: the file; its folder is made when needed.
        settings: what the run is, as `ctml.settings.describe` tells it.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Plain]):
        self.path = Path(path) if path is not None else None
        self.settings = dict(settings)

    @property
    def exists(self) -> bool:
        """Whether there is something to go on from."""
        return self.path is not None and self.path.exists()

    def load(self, most: int) -> Any | None:
        """Return what `save` was given last, on the CPU, or None where there is no file yet.

        Args:
            most: steps that the run is to have in the end.

        Raises:
            ValueError: a damaged file, one of another run, or one that is further than this run wants to go.
        """
        if self.path is None or not self.path.exists():
            return None
        saved = _read(self.path)
        self._refuse_another_run(saved["settings"])
        if saved["steps"] > most:
            raise ValueError(
                f"checkpoint={self.path} has taken {saved['steps']} steps already, this run asks for {most}; "
                f"ask for at least {saved['steps']}, name another file, or delete this one to start anew"
            )
        return saved["state"]

    def save(self, steps: int, state: Any) -> None:
        """Replace the file by the state after `steps` steps: tensors, numbers, strings, and containers of them."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save({"settings": self.settings, "steps": steps, "state": state}, content)
        # a name of its own: the process before may have been killed so lately that it still writes
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            with unfinished.open("wb") as file:
                file.write(hashlib.sha256(content.getbuffer()).digest())
                file.write(content.getbuffer())
            os.replace(unfinished, self.path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _refuse_another_run(self, written: Mapping[str, Plain]) -> None:
        places = [{name: place for place, name in enumerate(told)} for told in (written, self.settings)]
        apart = [
            name for name in {**written, **self.settings}
            if not all(name in told for told in places) or written[name] != self.settings[name]
        ]  # fmt: skip
        if apart:
            name = min(apart, key=lambda name: min(told[name] for told in places if name in told))
            before, now = (f"{name}={s[name]!r}" if name in s else f"no {name}" for s in (written, self.settings))
            raise ValueError(
                f"checkpoint={self.path} belongs to a run with {before}, this run has {now}; "
                "set it back, name another file, or delete this one to start anew"
            )


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    checksum, content = data[:_CHECKSUM], data[_CHECKSUM:]
    try:
        if hashlib.sha256(content).digest() != checksum:
            raise ValueError("another checksum")
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        whole = {"settings", "steps", "state"} <= saved.keys()
    except Exception:  # torch raises whatever the damage makes of its format
        whole = False
    if not whole:
        raise ValueError(f"checkpoint={path} is damaged or no checkpoint of this version; delete it to start anew")
    return saved
