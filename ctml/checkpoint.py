"""A file that a run goes on from, and that knows which run it belongs to.

Invariants:
    * A file is written whole or not at all: a run that is killed while it saves goes on from the save before.
    * A run goes on only from its own file: the first setting that differs is named, with both values.
    * Reading executes nothing: tensors and plain containers only.
    * A file written on one device serves on another.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ctml.settings import Plain


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
        unfinished = self.path.with_name(self.path.name + ".part")
        torch.save({"settings": self.settings, "steps": steps, "state": state}, unfinished)
        os.replace(unfinished, self.path)

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
    content = io.BytesIO(path.read_bytes())
    try:
        saved = torch.load(content, map_location="cpu", weights_only=True)
        whole = {"settings", "steps", "state"} <= saved.keys()
    except Exception:  # torch raises whatever the damage makes of its format
        whole = False
    if not whole:
        raise ValueError(f"checkpoint={path} is damaged or no checkpoint of this version; delete it to start anew")
    return saved
