"""What a person has changed in an open notebook: its values against those that its committed source gives.

Invariant: the committed source decides what is unchanged, since JupyterLab saves an edit into the source by itself;
where there is no commit, the file does. Only the cells up to `Study(...)` are evaluated, and nothing of it is kept.
"""

import subprocess
from collections.abc import Mapping
from typing import Any

from ctml.companion.parameters import cells_of, parameters_in
from ctml.companion.project import Notebook


def session() -> dict[str, Any] | None:
    """Return the names of the notebook that a person has open in this process, or None in a script."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return None if shell is None else shell.user_ns


def source_text(notebook: Notebook) -> str:
    """Return the notebook's source as it is committed, else as it lies on the disk; empty if there is none."""
    try:
        show = ["git", "show", f"HEAD:./{notebook.source.name}"]
        done = subprocess.run(show, cwd=notebook.source.parent, capture_output=True, timeout=20, check=True)
        return done.stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return notebook.source.read_text(encoding="utf-8") if notebook.source.is_file() else ""


def changed(text: str, preset: str, names: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from those a source gives.

    Args:
        text: the notebook's source.
        preset: the preset at hand, which is its own dial and no change.
        names: the names of the open notebook.
        parameters: what its study was given.
    """
    if not any(cell.is_parameters for cell in cells_of(text)):
        return {}
    defaults = {name: p.default for name, p in parameters_in(text, "source").items() if name != "PRESET"}
    found = {k: names[k] for k, default in defaults.items() if k in names and not _same(names[k], default)}
    own = _parameters(text, {**names, **defaults, "PRESET": preset})
    if own is not None:
        found |= {k: value for k, value in parameters.items() if k not in own or not _same(value, own[k])}
    return found


class _Given(Exception):
    pass


def _parameters(text: str, names: dict[str, Any]) -> Mapping[str, Any] | None:
    """Evaluate the source's configuration up to `Study(...)` and return the parameters given there."""

    def study(paper: str, notebook: str, preset: str, parameters: Mapping[str, Any] | None = None) -> None:
        raise _Given(dict(parameters or {}))

    cells = cells_of(text)
    first = next(place for place, cell in enumerate(cells) if cell.is_parameters)
    names["Study"] = study
    try:
        for cell in cells[first + 1 :]:
            exec(cell.code, names)
            if "Study(" in cell.code:
                break
    except _Given as given:
        return given.args[0]
    except Exception:  # the person's names may no longer fit the source: then only the parameters cell can be compared
        return None
    return None


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError, TypeError):  # arrays and tensors
        return repr(one) == repr(other)
