"""The command line from end to end on a small checkout: what it runs, where results go, what it refuses."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from ctml.companion.__main__ import main
from ctml.companion.headless.job import Job
from ctml.companion.project import Project

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_notebook_is_run_published_and_not_run_again(ctml: Call, root: Path) -> None:
    first = ctml("reproduce")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "demo/01_line: runs (never run on this machine)" in first.stdout
    assert "demo-f1" in first.stdout and "checked" in first.stdout
    folder = root / "results" / "quick" / "demo" / "01_line"
    published = files(folder)
    assert set(published) == {
        "01_line.ipynb", "claims.json", "manifest.json", "metrics.csv", "figures/errors.svg", "figures/errors.png",
    }  # fmt: skip
    assert published["metrics.csv"].startswith(b"seed,error\n0,0.05\n")
    manifest = json.loads(published["manifest.json"])
    assert manifest["parameters"] == {"runs": 4, "noise": 0.1}
    assert str(root) not in published["manifest.json"].decode()

    notebook = nbformat.reads(published["01_line.ipynb"].decode(), as_version=4)
    nbformat.validate(notebook)
    assert "papermill" not in published["01_line.ipynb"].decode()
    assert "injected-parameters" not in published["01_line.ipynb"].decode()
    assert any("image/png" in o.get("data", {}) for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert "demo-f1" in (root / "results" / "README.md").read_text()

    second = ctml("reproduce")
    assert second.returncode == 0
    assert "demo/01_line: runs" not in second.stdout
    assert "nothing changed since it ran on this machine" in second.stdout
    assert files(folder) == published

    (root / ".build" / "stamps" / "quick" / "demo" / "01_line.json").unlink()
    assert ctml("reproduce").returncode == 0
    again = files(folder)
    kept = {name for name in published if name != "manifest.json"}  # which holds the seconds
    assert {name: again[name] for name in kept} == {name: published[name] for name in kept}

    project = Project(root)
    job = Job.checked(project, project.notebooks()[0], "quick", {})
    assert job.why_stale() is None
    for path, text, reason in (
        ("notebooks/demo/01_line.py", "\n# more\n", "notebook changed"),
        ("notebooks/demo/claims.toml", '\n[[claim]]\nid = "demo-2"\nsays = "s"\nwhere = "w"\nkind = "rate"\n'
         'notebook = "01_line"\naccept = "x > 0"\njudged_at = "quick"\nsource = "ours"\n', "claims.toml changed"),
        ("lines/drawing.py", "\nmore = 1\n", "lines/drawing.py changed"),
        ("results/quick/demo/01_line/metrics.csv", "5,0\n",
         "results file edited: results/quick/demo/01_line/metrics.csv"),
    ):  # fmt: skip
        before = (root / path).read_text()
        (root / path).write_text(before + text)
        assert job.why_stale() == reason
        (root / path).write_text(before)
        assert job.why_stale() is None
    (root / "lines" / "other.py").write_text("unused = 2\n")
    assert job.why_stale() is None
    (folder / "claims.json").unlink()
    assert job.why_stale() == "results file missing: results/quick/demo/01_line/claims.json"


def test_changed_parameters_and_smoke_stay_out_of_results(ctml: Call, root: Path) -> None:
    done = ctml("reproduce", "--nb", "demo/01_line", "--set", "noise=1 runs=3")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = root / ".build" / "variants" / "quick" / "demo" / "01_line" / "noise=1.0,runs=3"
    assert (folder / "metrics.csv").read_text() == "seed,error\n0,0.5\n1,0.3333333333333333\n2,0.25\n"
    (claim,) = json.loads((folder / "claims.json").read_text())
    assert (claim["verdict"], claim["reason"]) == ("not assessed", "with noise=1.0, runs=3")

    assert ctml("smoke").returncode == 0
    smoke = root / ".build" / "smoke" / "demo" / "01_line"
    assert (smoke / "metrics.csv").read_text() == "seed,error\n0,0.05\n1,0.03333333333333333\n"
    assert json.loads((smoke / "claims.json").read_text())[0]["reason"] == "numbers mean nothing at preset smoke"
    assert not (root / "results").exists()


def test_a_failing_notebook_stops_no_other_and_leaves_results_alone(ctml: Call, root: Path) -> None:
    good = (root / "notebooks" / "demo" / "01_line.py").read_text()
    broken = good.replace('"01_line"', '"00_bad"').replace("figure, axes = ", "1 / 0\nfigure, axes = ")
    broken = broken.replace('study.claim("demo-f1", error=rows.error)', "None")
    (root / "notebooks" / "demo" / "00_bad.py").write_text(broken)
    old = root / "results" / "quick" / "demo" / "00_bad" / "metrics.csv"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    done = ctml("reproduce", "--jobs", "2")
    assert done.returncode == 1
    assert "demo/00_bad: failed" in done.stdout
    assert "demo/01_line: ok" in done.stdout
    assert "| 1 / 0" in done.stdout, "the cell is shown"
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert "All of it: .build/executed/quick/demo/00_bad.ipynb" in done.stdout
    assert (root / ".build" / "executed" / "quick" / "demo" / "00_bad.ipynb").is_file()
    assert files(old.parent) == {"metrics.csv": b"old"}


def test_notebooks_that_skip_their_duties_fail(ctml: Call, root: Path) -> None:
    source = root / "notebooks" / "demo" / "01_line.py"
    good = source.read_text()
    claims = (root / "notebooks" / "demo" / "claims.toml").read_text()
    source.unlink()
    (root / "notebooks" / "demo" / "claims.toml").unlink()
    duties = [
        ('study.claim("demo-f1", error=rows.error)', "None", "must decide its claims: missing {name}-f1"),
        ("study.close()", "None", "the last cell must be study.close()"),
        ('study.claim("demo-f1"', 'study.claim("demo-f2"', "{name}/01_line has no claim 'demo-f2'"),
        (
            '"01_line", PRESET',
            '"01_line", "paper"',
            "calls itself {name}/01_line at preset paper, but it was started as",
        ),
    ]
    for number, (old, new, _) in enumerate(duties):
        folder = root / "notebooks" / f"d{number}"
        folder.mkdir()
        assert old in good
        text = good.replace(old, new).replace("demo-f1", f"d{number}-f1").replace('"demo"', f'"d{number}"')
        (folder / "01_line.py").write_text(text)
        (folder / "claims.toml").write_text(claims.replace("demo-f1", f"d{number}-f1"))
    done = ctml("smoke", "--jobs", "2")
    assert done.returncode == 1
    for number, (_, _, message) in enumerate(duties):
        assert f"d{number}/01_line: failed" in done.stdout
        assert message.format(name=f"d{number}") in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["reproduce", "--preset", "qick"],
            "Unknown preset 'qick'. Did you mean quick? There is: smoke, quick, long, paper.",
        ),
        (["reproduce", "--nb", "demo/1_line"], "Unknown notebook 'demo/1_line'. Did you mean demo/01_line?"),
        (["reproduce", "--set", "noize=1"], "Unknown parameter of notebook demo/01_line 'noize'. Did you mean noise?"),
        (
            ["reproduce", "--set", "runs=many"],
            "Parameter runs takes int or None (default None), not 'many' of type str.",
        ),
        (["reproduce", "--set", "PRESET=paper"], "The preset is its own dial: PRESET=paper"),
        (["reproduce", "--jobs", "0"], "JOBS='0' is no number of notebooks"),
        (["status", "--nb", "nothing"], "Unknown notebook 'nothing'. There is: demo/01_line."),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(
    arguments: list[str], message: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (root / ".build").exists(), "nothing was started"


def test_a_wrong_claims_file_is_refused_before_work(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    path = root / "notebooks" / "demo" / "claims.toml"
    path.write_text(path.read_text().replace("quick", "never"))
    assert main(["reproduce"]) == 2
    assert "judged_at must be one of quick, long, paper, not 'never'" in capsys.readouterr().err
    assert not (root / ".build").exists()


def test_read_only_results_are_refused_before_work(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    (root / "results").mkdir(mode=0o555)
    assert main(["reproduce"]) == 2
    error = capsys.readouterr().err
    assert f"Cannot write results to {root / 'results'} (it is marked read-only): make it writable" in error
    assert error.count("\n") == 1
    assert not (root / ".build").exists()
    assert main(["status"]) == 0, "looking is allowed"


def test_a_file_in_the_place_of_results_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    (root / "results").touch()
    assert main(["reproduce"]) == 2
    assert "Cannot write results to" in capsys.readouterr().err


def test_new_data_make_results_stale_only_where_data_are_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTML_DATA", str(root / "data"))
    project = Project(root)
    job = Job.checked(project, project.notebooks()[0], "quick", {})
    job.folder.mkdir(parents=True)
    for uses, reason in (["glyphs/train"], "data now available: omniglot"), ([], None):
        (job.folder / "manifest.json").write_text(json.dumps({"data": uses}))
        job.write_stamp(job.ingredients())
        assert job.why_stale() is None
        (root / "data" / "omniglot").mkdir(parents=True)
        (root / "data" / "omniglot" / "images.zip").touch()
        assert job.why_stale() == reason
        (root / "data" / "omniglot" / "images.zip").unlink()
        (root / "data" / "omniglot").rmdir()
