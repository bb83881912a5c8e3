"""The `.ipynb` follows from the source alone, and the project's own pairs are in step."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext import TextFileContentsManager

from ctml.companion.pairing import paired, sync, unpaired
from ctml.companion.project import Project

CHECKOUT = Path(__file__).resolve().parents[2]


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


def saved_with_outputs(source: Path) -> list[str]:
    """Put an output into each code cell, as a person does who runs and saves; return the texts of the cells."""
    path = source.with_suffix(".ipynb")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code):
        cell.execution_count = number + 1
        cell.outputs = [nbformat.v4.new_output("stream", text=f"output {number}")]
    notebook.metadata["language_info"] = {"name": "python", "version": "3.14"}
    nbformat.write(notebook, path)
    return [cell.source for cell in code]


def outputs(source: Path) -> dict[str, str]:
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    return {c.source: c.outputs[0].text for c in notebook.cells if c.cell_type == "code" and c.outputs}


def test_sync_keeps_the_outputs_that_were_saved(root: Path) -> None:
    project = Project(root)
    sync(project)
    source = root / "notebooks" / "demo" / "01_line.py"
    texts = saved_with_outputs(source)
    saved = source.with_suffix(".ipynb").read_bytes()
    assert sync(project) == []
    assert source.with_suffix(".ipynb").read_bytes() == saved

    source.write_text(source.read_text().replace("noise = 0.1\n\n", "noise = 0.2\n\n"))
    assert sync(project) == ["demo/01_line"]
    assert outputs(source) == {text: f"output {n}" for n, text in enumerate(texts) if not text.startswith("PRESET =")}


def test_for_a_commit_the_outputs_go(root: Path) -> None:
    project = Project(root)
    sync(project)
    source = root / "notebooks" / "demo" / "01_line.py"
    bare = source.with_suffix(".ipynb").read_bytes()
    saved_with_outputs(source)
    assert unpaired(project) == []
    assert unpaired(project, bare=True) == sync(project, bare=True) == ["demo/01_line"]
    assert source.with_suffix(".ipynb").read_bytes() == bare


def test_what_a_merge_left_is_written_anew(root: Path) -> None:
    project = Project(root)
    sync(project)
    path = root / "notebooks" / "demo" / "01_line.ipynb"
    bare = path.read_text()
    path.write_text("<<<<<<< HEAD\n" + bare)
    assert sync(project) == ["demo/01_line"]
    assert path.read_text() == bare


@pytest.mark.parametrize("opened", ["01_line.ipynb", "01_line.py"])
def test_saving_in_jupyterlab_leaves_header_and_pair_in_step(opened: str, root: Path) -> None:
    sync(Project(root))
    shutil.copy(CHECKOUT / "jupytext.toml", root)
    source = root / "notebooks" / "demo" / "01_line.py"
    before = source.read_bytes(), source.with_suffix(".ipynb").read_bytes()
    manager = TextFileContentsManager(root_dir=str(root))
    path = f"notebooks/demo/{opened}"
    manager.save(manager.get(path), path)
    assert (source.read_bytes(), source.with_suffix(".ipynb").read_bytes()) == before

    model = manager.get(path)  # what JupyterLab puts in when a kernel has run a cell
    model["content"]["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    model["content"]["metadata"]["language_info"] = {"name": "python", "version": "3.14"}
    code = next(cell for cell in model["content"]["cells"] if cell["cell_type"] == "code")
    code["outputs"], code["execution_count"] = [nbformat.v4.new_output("stream", text="seen")], 1
    manager.save(model, path)
    assert source.read_bytes() == before[0]
    assert list(outputs(source).values()) == ["seen"]
    assert unpaired(Project(root)) == []


def test_lab_is_rooted_at_the_checkout_and_opens_the_tour() -> None:
    plan = subprocess.run(["make", "-n", "lab"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in plan.splitlines() if "-m jupyterlab" in line]
    options = shlex.split(line.partition("-m jupyterlab")[2])
    done = subprocess.run(
        [sys.executable, "-m", "jupyterlab", *options, "--show-config-json"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    config = json.loads(done.stdout)
    assert Path(config["ServerApp"]["root_dir"]) == CHECKOUT
    opened = config["LabApp"]["default_url"].removeprefix("/lab/tree/")
    assert (CHECKOUT / opened).is_file() and opened == "notebooks/00_tour.ipynb"


def test_the_pairs_of_this_project_are_in_step() -> None:
    assert unpaired(Project(CHECKOUT), bare=True) == [], "run python -m ctml.companion sync --bare"
