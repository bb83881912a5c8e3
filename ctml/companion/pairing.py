"""The two forms of a notebook: the py:percent source that people edit, and the `.ipynb` beside it, built from it.

Invariants:
    * Cells and metadata of the `.ipynb` are a function of the source alone, so an unchanged notebook without outputs
      never shows up in a diff.
    * Outputs that a person has saved stay with their cell as long as its text is the same.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from ctml.companion.files import write_atomically
from ctml.companion.project import Project

# What jupytext itself writes when somebody saves either side in JupyterLab: with this header nothing changes by it. The
# kernel stands only in the .ipynb, since JupyterLab names it as it is called on the machine at hand.
_FILTER = "-kernelspec,-jupytext.text_representation.jupytext_version"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
HEADER = f"""# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: {_FILTER}
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
# ---
"""


def read_source(source: Path) -> nbformat.NotebookNode:
    """Read a py:percent notebook; one without a header counts as one with the project's."""
    notebook = jupytext.reads(with_header(source.read_text(encoding="utf-8")), fmt="py:percent")
    notebook.metadata["kernelspec"] = nbformat.from_dict(_KERNEL)
    return notebook


def paired(source: Path, saved: str = "") -> str:
    """Return the text of the `.ipynb` that belongs to a source; ids do not change.

    Args:
        saved: an older `.ipynb`, whose outputs are kept where a cell's text is the same.
    """
    notebook = read_source(source)
    del notebook.metadata["jupytext"]["text_representation"]
    if older := _read(saved):
        _take_outputs(notebook, older)
    return nbformat.writes(stable_ids(notebook)) + "\n"


def _take_outputs(notebook: nbformat.NotebookNode, saved: nbformat.NotebookNode) -> None:
    """Give each code cell the outputs of the saved cell of the same text; of equal ones, in their order."""
    waiting = [cell for cell in saved.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        if cell.cell_type == "code" and (found := next((old for old in waiting if old.source == cell.source), None)):
            waiting.remove(found)
            cell.outputs, cell.execution_count = found.outputs, found.execution_count


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


def unpaired(project: Project, *, bare: bool = False) -> list[str]:
    """Name the notebooks whose header is another, or whose `.ipynb` is missing or is not that of the source.

    Args:
        bare: the `.ipynb` may hold no outputs either, as it is committed.
    """
    return [
        n.name
        for n in project.notebooks()
        if _on_disk(n.source) != with_header(_on_disk(n.source)) or not _in_step(n.source, bare)
    ]


def sync(project: Project, *, bare: bool = False) -> list[str]:
    """Write every header and `.ipynb` that is not up to date and name them.

    Args:
        bare: leave out the outputs that were saved.
    """
    written = unpaired(project, bare=bare)
    for name in written:
        source = project.root / "notebooks" / f"{name}.py"
        other = source.with_suffix(".ipynb")
        write_atomically(source, with_header(_on_disk(source)).encode())
        write_atomically(other, paired(source, "" if bare else _on_disk(other)).encode())
    return written


def _in_step(source: Path, bare: bool) -> bool:
    """Tell whether the `.ipynb` has the cells of the source; what JupyterLab adds to it is no difference."""
    text, wanted = _on_disk(source.with_suffix(".ipynb")), paired(source)
    if bare or text == wanted:
        return text == wanted
    saved = _read(text)
    return saved is not None and _content(saved) == _content(nbformat.reads(wanted, as_version=4))


def _content(notebook: nbformat.NotebookNode) -> tuple[Any, ...]:
    cells = ((cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells)
    return notebook.metadata.get("jupytext"), *cells


def _read(text: str) -> nbformat.NotebookNode | None:
    """Read a notebook, or return None where there is none or nobody could read it (a merge left its marks)."""
    try:
        return nbformat.reads(text, as_version=4)
    except ValueError:
        return None


def _on_disk(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
