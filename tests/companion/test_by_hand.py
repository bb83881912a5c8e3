"""A notebook in a person's hands: cells are run again, values are changed, and no checkout need be around."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from ctml.companion import by_hand
from ctml.companion.__main__ import main
from ctml.companion.parameters import cells_of
from ctml.companion.project import Notebook, Project

matplotlib.use("agg")
CHECKOUT = Path(__file__).resolve().parents[2]

# What a kernel does with the cells that a person runs, one after the other.
SESSION = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(sys.stdin):
    shell.run_cell(cell).raise_error()
"""

Session = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def session(root: Path, environment: dict[str, str]) -> Session:
    """Return a function that runs cells one after the other, as a kernel does."""

    def run(cells: list[str], folder: Path = root / "notebooks" / "demo") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SESSION]
        done = subprocess.run(
            command, input=json.dumps(cells), cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return done

    return run


def cells(root: Path, *changes: tuple[str, str]) -> list[str]:
    text = (root / "notebooks" / "demo" / "01_line.py").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return [cell.code for cell in cells_of(text)]


def claim(root: Path, preset: str = "quick") -> dict[str, str]:
    (found,) = json.loads((root / ".build" / "lab" / preset / "demo" / "01_line" / "claims.json").read_text())
    return found


def test_what_a_cell_makes_again_replaces_what_it_made(root: Path, session: Session) -> None:
    everything = cells(root)
    table, *others = everything[3:]
    session([*everything, table.replace("config.noise", "config.noise * 10"), *others])
    folder = root / ".build" / "lab" / "quick" / "demo" / "01_line"
    assert (folder / "metrics.csv").read_text().startswith("seed,error\n0,0.5\n")
    assert claim(root)["verdict"] == "failed"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [figure["name"] for figure in manifest["figures"]] == ["errors"]
    assert list(manifest["outputs"]) == ["figures/errors.svg", "figures/errors.png", "metrics.csv", "claims.json"]


@pytest.mark.parametrize(
    ("change", "preset", "verdict", "reason"),
    [
        ((), "quick", "checked", ""),
        ((('PRESET = "quick"', 'PRESET = "paper"'),), "paper", "checked", ""),
        ((("noise = 0.1\n\n", "noise = 0.01\n\n"),), "quick", "not assessed", "with noise=0.01"),
        ((('"quick": Config(4)', '"quick": Config(5)'),), "quick", "not assessed", "with runs=5"),
    ],
)
def test_a_verdict_says_what_was_changed(
    change: tuple[tuple[str, str], ...], preset: str, verdict: str, reason: str, root: Path, session: Session
) -> None:
    session(cells(root, *change))
    assert (claim(root, preset)["verdict"], claim(root, preset)["reason"]) == (verdict, reason)


@pytest.mark.parametrize("notebook", Project(CHECKOUT).notebooks(), ids=lambda n: n.name)
def test_nothing_is_changed_in_the_notebooks_as_they_are(notebook: Notebook) -> None:
    text = notebook.source.read_text()
    code = [cell.code for cell in cells_of(text)]
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in code[: next(place for place, cell in enumerate(code) if "Study(" in cell) + 1]:
        exec(cell, names)
    study = names["study"]
    assert by_hand.changed(text, "quick", names, study.parameters) == {}
    name = next(iter(study.parameters))
    assert by_hand.changed(text, "quick", names, {**study.parameters, name: "other"}) == {name: "other"}


def test_a_value_out_of_its_range_ends_in_one_line(
    root: Path, environment: dict[str, str], ctml: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    message = "Parameter runs must be >= 1, not -1 (default None: how many errors are drawn)."
    first = cells(root, ("runs: int | None = None", "runs: int | None = -1"))[:3]
    tried = SESSION.replace(
        "(cell).raise_error()", "(cell, store_history=True)"
    )  # a kernel shows the error and goes on
    command = [sys.executable, "-c", tried]
    done = subprocess.run(
        command, input=json.dumps(first), cwd=root, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert message in done.stdout.replace("-1 (default -1", "-1 (default None")
    assert "Traceback" not in done.stdout + done.stderr
    assert not (root / ".build").exists()
    refused = ctml("reproduce", "--set", "runs=-1")
    assert (refused.returncode, refused.stderr) == (2, f"ctml: {message}\n")


@pytest.mark.parametrize("command", [["list"], ["status"], ["sync"], ["claims"]])
def test_a_strangers_notebook_runs_by_the_explicit_command_alone(
    command: list[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = root / "executed"
    source = root / "notebooks" / "demo" / "01_line.py"
    act = f"open({str(trap)!r}, 'w').close()"
    text = (
        source.read_text()
        .replace("PRESETS = {", f"{act}\nPRESETS = {{")
        .replace("# # A line", f"# # A line\n\n# %%\n{act}")
    )
    source.write_text(text)
    monkeypatch.chdir(root)
    main(command)
    assert not trap.exists()
    monkeypatch.syspath_prepend(root)
    exec(compile(cells_of(text)[0].code, "first", "exec"), {})
    assert trap.exists(), "the trap works"


def test_saving_a_change_does_not_hide_it(root: Path, session: Session) -> None:
    def git(*arguments: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *name, *arguments], cwd=root, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    source = root / "notebooks" / "demo" / "01_line.py"
    source.write_text(source.read_text().replace("noise = 0.1\n\n", "noise = 0.01\n\n"))
    session(cells(root))
    assert claim(root)["reason"] == "with noise=0.01"
    git("commit", "-am", "less noise")
    session(cells(root))
    assert (claim(root)["verdict"], claim(root)["reason"]) == ("checked", "")


OUTSIDE = """
import matplotlib.pyplot as plt
import pandas as pd
from ctml.companion import Study, style

study = Study("", "mine", "quick", {"seeds": 2})

def square(seed, checkpoint):
    assert checkpoint.parent.is_dir()
    return seed**2

table = study.table(pd.DataFrame({"y": study.map(square, [{"seed": s} for s in range(3)])}), "squares")
figure, axes = plt.subplots()
axes.plot(table.y, **style.method("maml").line())
study.figure(figure, "squares", "Squares.")
study.close()
"""


def test_a_study_needs_no_checkout(root: Path, session: Session) -> None:
    folder = root.parent / "elsewhere"
    folder.mkdir()
    session([OUTSIDE], folder)
    made = folder / ".build" / "lab" / "quick" / "mine"
    assert (made / "squares.csv").read_text() == "y\n0\n1\n4\n"
    assert json.loads((made / "manifest.json").read_text())["parameters"] == {"seeds": 2}
    assert (made / "figures" / "squares.svg").is_file()


def test_the_table_of_claims_is_whole(root: Path, session: Session) -> None:
    path = root / "notebooks" / "demo" / "claims.toml"
    statement = "the error is small, and this sentence about it goes on for a good while before it comes to its end"
    path.write_text(path.read_text().replace("the error is small", statement))
    done = session([*cells(root), "print(study.close()._repr_html_())"])
    assert statement in done.stdout
