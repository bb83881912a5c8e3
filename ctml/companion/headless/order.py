"""A job as the process that executes it gets it: one typed record from the runner to the notebook's `Study`.

Invariant: the order travels in one environment variable, which the kernel inherits; nothing else tells a notebook that
it is executed by the runner. News goes the other way, one JSON object a line, in the file that the order names.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

_VARIABLE = "CTML_ORDER"


@dataclass(frozen=True)
class Order:
    """What to execute and where everything goes.

    Attributes:
        runner: process that must stay alive; the execution ends with it.
        root: the checkout.
        notebook: name of the notebook.
        source: its file.
        preset: the value of its PRESET.
        changed: the parameters that differ from its own.
        output: folder for figures, tables, claims and the published notebook.
        executed: the notebook with all that papermill wrote into it, for whoever looks for an error.
        news_file: where news is written.
        scratch: folder for what a kernel keeps while it runs.
    """

    runner: int
    root: Path
    notebook: str
    source: Path
    preset: str
    changed: Mapping[str, Any]
    output: Path
    executed: Path
    news_file: Path
    scratch: Path

    @classmethod
    def given(cls) -> "Order | None":
        """Return the order of this process, or None in a notebook that a person has opened."""
        text = os.environ.get(_VARIABLE)
        if not text:
            return None
        content: dict[str, Any] = json.loads(text)
        content.update({f.name: Path(content[f.name]) for f in fields(cls) if f.type is Path})
        return cls(**content)

    def environment(self) -> dict[str, str]:
        """Return the environment variable by which a process is given this order."""
        return {_VARIABLE: json.dumps(asdict(self), default=str)}

    def tell(self, **news: Any) -> None:
        """Write news for the runner."""
        with self.news_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(news) + "\n")

    def news(self) -> list[dict[str, Any]]:
        """Return the news so far; a line that is being written waits for its end."""
        if not self.news_file.is_file():
            return []
        lines = self.news_file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # written by half on a full disk, or damaged: it is only news
                found += [json.loads(line)] if line.endswith("\n") else []
        return [news for news in found if isinstance(news, dict)]
