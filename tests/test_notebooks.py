"""Every notebook at preset smoke through the real runner, and the rules of a notebook's form."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from ctml.companion.claims import read_claims
from ctml.companion.parameters import check_settings, parse_settings, read_parameters
from ctml.companion.presets import values_by_preset
from ctml.companion.project import PRESETS, Notebook, Project

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = Project(ROOT).notebooks()
PUBLISHED = sorted((ROOT / "results").rglob("*.ipynb"))
CODE_LINES = 200  # as they stand in the file: a call spread over ten lines is read as ten

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.name)


@each_notebook
def test_it_runs_at_smoke(notebook: Notebook) -> None:
    command = [sys.executable, "-m", "ctml.companion", "smoke", "--nb", notebook.name]
    environment = {**os.environ, "CTML_WORKERS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    folder = ROOT / ".build" / "smoke" / notebook.name
    assert (folder / "manifest.json").is_file()
    assert noise(folder / f"{notebook.source.stem}.ipynb") == []


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.relative_to(ROOT / "results").as_posix())
def test_what_is_published_holds_no_noise(path: Path) -> None:
    assert noise(path) == []


def noise(path: Path) -> list[str]:
    """Return the lines of an executed notebook that are nothing to read: error streams, warnings, bars, notices."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    streams = [output for output in outputs if output.output_type == "stream"]
    speech = re.compile(r"\w*Warning\b|\b\w+\.cpp:\d+\]|\d+%\|")
    return [
        line
        for output in streams
        for line in output.text.splitlines()
        if output.name == "stderr" or speech.search(line)
    ]


def test_noise_is_told_from_what_was_printed(tmp_path: Path) -> None:
    bar, notice = "100%|#####| 3/3", "USDT:2026-01-01 1:1 Profiler.cpp:52] profiler_start"
    warning = "file.py:3: UserWarning: lr_scheduler.step() before optimizer.step()"
    streams = [("stdout", f"error: 100% of a bound\n{bar}\n{notice}\n"), ("stderr", "a word\n"), ("stdout", warning)]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in streams]
    path = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=outputs)]), path)
    assert noise(path) == [bar, notice, "a word", warning]


@each_notebook
def test_its_form_is_that_of_the_design(notebook: Notebook) -> None:
    assert read_parameters(notebook.source)["PRESET"].default == "quick"
    code = [cell.source for cell in jupytext.read(notebook.source).cells if cell.cell_type == "code"]
    lines = [line.strip() for cell in code for line in cell.splitlines()]
    written = [line for line in lines if line and not line.startswith("#")]
    assert len(written) <= CODE_LINES, "what several notebooks need moves to ctml"
    for cell in code:
        ast.parse(cell)  # no magics, no shell


@each_notebook
def test_it_has_every_preset(notebook: Notebook) -> None:
    nodes = ast.walk(ast.parse(notebook.source.read_text(encoding="utf-8")))
    assigned = [n for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "PRESETS"]
    (keys,) = [{ast.literal_eval(k) for k in n.value.keys if k} for n in assigned if isinstance(n.value, ast.Dict)]
    assert keys == set(PRESETS)


@each_notebook
def test_its_parameters_say_what_they_may_be(notebook: Notebook) -> None:
    text = notebook.source.read_text(encoding="utf-8")
    known = read_parameters(notebook.source)
    dial = known.pop("PRESET").range
    assert dial and dial.choices == PRESETS
    assert [name for name in known if not name.islower()] == [], "seed, not SEED: the preset alone is in capitals"
    assert [p.name for p in known.values() if p.range is None and bool not in p.types] == []
    own = {name: p.default for name, p in known.items()}
    check_settings({name: value for name, value in own.items() if value is not None}, known, notebook.name)
    at_presets = values_by_preset(text)
    assert set(at_presets) >= {"smoke", "quick", "paper"}
    for values in at_presets.values():
        given = {name: literal(value) for name, value in values.items() if name in known}
        check_settings({k: v for k, v in given.items() if v is not None}, known, notebook.name)
    for advice in re.findall(r'`SET="([^"]*)"`', text):
        check_settings(parse_settings(advice), known, notebook.name)


def literal(text: str) -> Any:
    """Return the value of a literal; a default that is computed, as `tuple(CONTENDERS)`, is none."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return None


@each_notebook
def test_its_presets_are_differences_by_name(notebook: Notebook) -> None:
    nodes = list(ast.walk(ast.parse(notebook.source.read_text(encoding="utf-8"))))
    fields = [f for c in nodes if isinstance(c, ast.ClassDef) and c.name == "Config" for f in c.body]
    without = [ast.unparse(f) for f in fields if isinstance(f, ast.AnnAssign) and f.value is None]
    assert without == [], "the defaults are the paper's values, or ours where it has none"
    calls = [c for c in nodes if isinstance(c, ast.Call) and ast.unparse(c.func) == "Config"]
    assert [ast.unparse(c) for c in calls if c.args] == [], "PAPER = Config(), the others by replace(PAPER, name=...)"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("claims.toml")), ids=lambda p: p.parent.name)
def test_its_claims_are_well_formed(path: Path) -> None:
    assert read_claims(path)
