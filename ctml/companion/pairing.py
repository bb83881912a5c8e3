"""The two forms of a notebook: the py:percent source that people edit, and the `.ipynb` beside it, built from it.

Invariant: the `.ipynb` is a function of the source alone, so an unchanged notebook never shows up in a diff.
"""

import hashlib
import re
from pathlib import Path

import jupytext
import nbformat

from ctml.companion.files import write_atomically
from ctml.companion.project import Project

_FILTER = "-jupytext.text_representation.jupytext_version"

# What jupytext itself writes when somebody saves either side in JupyterLab: with this header nothing changes by it.
HEADER = f"""# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: {_FILTER}
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""


def read_source(source: Path) -> nbformat.NotebookNode:
    """Read a py:percent notebook; one without a header counts as one with the project's."""
    return jupytext.reads(with_header(source.read_text(encoding="utf-8")), fmt="py:percent")


def paired(source: Path) -> str:
    """Return the text of the `.ipynb` that belongs to a source: no outputs, ids that do not change."""
    notebook = read_source(source)
    del notebook.metadata["jupytext"]["text_representation"]
    return nbformat.writes(stable_ids(notebook)) + "\n"


def stable_ids(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Give each cell an id made of its place and text, in the format version that asks for ids."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for place, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha256(f"{place}\n{cell.source}".encode()).hexdigest()[:12]
    return notebook


def with_header(text: str) -> str:
    """Return a source with the project's header in the place of its own."""
    body = re.sub(r"\A# ---\n.*?\n# ---\n+", "", text, flags=re.DOTALL)
    return f"{HEADER}\n{body}"


def unpaired(project: Project) -> list[str]:
    """Name the notebooks whose header is another, or whose `.ipynb` is missing or is not that of the source."""
    return [
        n.name
        for n in project.notebooks()
        if _on_disk(n.source) != with_header(_on_disk(n.source))
        or _on_disk(n.source.with_suffix(".ipynb")) != paired(n.source)
    ]


def sync(project: Project) -> list[str]:
    """Write every header and `.ipynb` that is not up to date and name them."""
    written = unpaired(project)
    for name in written:
        source = project.root / "notebooks" / f"{name}.py"
        write_atomically(source, with_header(_on_disk(source)).encode())
        write_atomically(source.with_suffix(".ipynb"), paired(source).encode())
    return written


def _on_disk(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
