"""The `.ipynb` follows from the source alone, and the project's own pairs are in step."""

from pathlib import Path

import jupytext
import nbformat

from ctml.companion.pairing import paired, sync, unpaired
from ctml.companion.project import Project


def test_sync_writes_once(root: Path) -> None:
    project = Project(root)
    assert sync(project) == ["demo/01_line"]
    source = root / "notebooks" / "demo" / "01_line.py"
    first = source.read_bytes(), source.with_suffix(".ipynb").read_bytes()
    assert sync(project) == []
    assert (source.read_bytes(), source.with_suffix(".ipynb").read_bytes()) == first
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert [c.source for c in notebook.cells] == [c.source for c in jupytext.read(source).cells]


def test_an_edit_of_either_side_is_noticed(root: Path) -> None:
    project = Project(root)
    sync(project)
    source = root / "notebooks" / "demo" / "01_line.py"
    source.write_text(source.read_text().replace("# # A line", "# # Another line"))
    assert unpaired(project) == ["demo/01_line"]
    sync(project)
    source.with_suffix(".ipynb").write_text(paired(source).replace("Another", "A third"))
    assert unpaired(project) == ["demo/01_line"]


def test_saving_in_jupyter_changes_no_source(root: Path) -> None:
    project = Project(root)
    sync(project)
    source = root / "notebooks" / "demo" / "01_line.py"
    notebook = jupytext.read(source.with_suffix(".ipynb"))
    assert jupytext.writes(notebook, fmt="py:percent").splitlines()[:14] == source.read_text().splitlines()[:14]


def test_the_pairs_of_this_project_are_in_step() -> None:
    assert unpaired(Project.around(Path(__file__).parent)) == [], "run make sync"
