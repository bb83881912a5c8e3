"""Every notebook at preset smoke through the real runner, and the rules of a notebook's form."""

import ast
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import jupytext
import pytest

from ctml.companion.claims import read_claims
from ctml.companion.parameters import read_parameters
from ctml.companion.project import Notebook, Project

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = Project(ROOT).notebooks()
CODE_LINES = 200

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.name)


@each_notebook
def test_it_runs_at_smoke(notebook: Notebook) -> None:
    command = [sys.executable, "-m", "ctml.companion", "smoke", "--nb", notebook.name]
    environment = {**os.environ, "CTML_WORKERS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert (ROOT / ".build" / "smoke" / notebook.name / "manifest.json").is_file()


@each_notebook
def test_its_form_is_that_of_the_design(notebook: Notebook) -> None:
    assert read_parameters(notebook.source)["PRESET"].default == "quick"
    code = [cell.source for cell in jupytext.read(notebook.source).cells if cell.cell_type == "code"]
    # Logical lines: a call that the formatter spreads over many lines is one.
    tokens = [token for cell in code for token in tokenize.generate_tokens(io.StringIO(cell + "\n").readline)]
    assert sum(token.type == tokenize.NEWLINE for token in tokens) <= CODE_LINES, "a function used twice moves to ctml"
    for cell in code:
        ast.parse(cell)  # no magics, no shell


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("claims.toml")), ids=lambda p: p.parent.name)
def test_its_claims_are_well_formed(path: Path) -> None:
    assert read_claims(path)
