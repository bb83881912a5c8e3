"""The pages that readers see follow from the files in `results/`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml  # comes with JupyterLab

from ctml.companion.project import Project
from ctml.companion.publish.codecheck import codecheck
from ctml.companion.publish.report import outdated, published, readme_page, results_page, summaries, update
from ctml.companion.publish.summary import BY_HAND, SummaryError


@pytest.fixture
def project(root: Path) -> Project:
    folder = root / "results" / "quick" / "demo" / "01_line"
    folder.mkdir(parents=True)
    claim = {
        "id": "demo-f1", "says": "a | b", "where": "Figure 1", "measured": "error 0.1", "accept": "max(error) <= value",
        "source": "seen", "verdict": "same trend", "reason": "",
    }  # fmt: skip
    manifest = {
        "figures": [{"name": "errors", "caption": "Error.", "where": "Figure 1"}],
        "outputs": {"metrics.csv": "0", "claims.json": "0"},
        "runs": 4, "run_seconds": 90.0, "seconds": 60.0, "hardware": {"processor": "A chip", "cores": 2},
    }  # fmt: skip
    (folder / "claims.json").write_text(json.dumps([claim]))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Project(root)


def test_the_page_names_files_claims_and_cost(project: Project) -> None:
    page = results_page(project)
    assert "| Figure 1 | [errors](quick/demo/01_line/figures/errors.svg) | Error. |" in page
    assert "[metrics.csv](quick/demo/01_line/metrics.csv)" in page
    assert r"| `demo-f1` | a \| b | the paper, Figure 1 | error 0.1 | `max(error) <= value` | **same trend** |" in page
    assert "| demo/01_line | 4 | 1.5 | A chip, 2 cores |" in page and "| together |  | 1.5 |  |" in page
    assert "Nothing yet: `make reproduce PRESET=paper`." in page


def test_the_readme_counts_verdicts_and_folds_the_claims(project: Project) -> None:
    (project.root / "README.md").write_text("<!-- claims:begin --><!-- claims:end -->")
    page = readme_page(project)
    assert "| `demo` | 0 | 1 | 0 | 0 | 0 | 0 |" in page and "| **all** | 0 | 1 | 0 | 0 | 0 | 0 |" in page
    assert "Of 1 claim, 1 is stated by the papers (1 same trend)." in page
    assert "<details><summary>demo: 1 claims</summary>" in page


@pytest.mark.parametrize(
    "source, words", [("derived", "derived here: F"), ("unverified", "not checked"), ("ours", "us")]
)
def test_what_is_not_the_papers_is_not_given_as_the_papers(project: Project, source: str, words: str) -> None:
    path = project.results / "quick" / "demo" / "01_line" / "claims.json"
    claims = json.loads(path.read_text())
    path.write_text(json.dumps([{**claims[0], "source": source}]))
    page = results_page(project)
    assert words in page and "the paper, Figure 1" not in page


def test_a_rule_that_was_chosen_afterwards_says_so(project: Project) -> None:
    path = project.results / "quick" / "demo" / "01_line" / "claims.json"
    claims = json.loads(path.read_text())
    path.write_text(json.dumps([{**claims[0], "chosen_after": "a pilot of two seeds"}]))
    assert "**same trend** (rule chosen after a pilot of two seeds)" in results_page(project)


def test_only_what_stands_between_markers_changes(project: Project) -> None:
    text = "# Title\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nkept\n<!-- cost:begin --><!-- cost:end -->\nend\n"
    (project.root / "README.md").write_text(text)
    page = readme_page(project)
    assert page.startswith("# Title\n<!-- claims:begin -->\nPreset `quick`:") and page.endswith(
        "<!-- cost:end -->\nend\n"
    )
    assert "old" not in page and "\nkept\n" in page and "same trend" in page and "1.5" in page


def test_the_readme_shows_all_presets_side_by_side(project: Project) -> None:
    (project.root / "README.md").write_text(
        "<!-- claims:begin --><!-- claims:end -->\n<!-- cost:begin --><!-- cost:end -->"
    )
    page = readme_page(project)
    assert "Preset `long`: nothing yet (`make reproduce PRESET=long`)." in page
    assert "| minutes of one process | `quick` | `long` | `paper` |" in page
    assert "| demo/01_line | 1.5 | - | - |\n| together | 1.5 | - | - |\n\nMachine: A chip, 2 cores." in page
    quick, long = (project.results / preset / "demo" / "01_line" for preset in ("quick", "long"))
    shutil.copytree(quick, long)
    manifest = json.loads((long / "manifest.json").read_text())
    (long / "manifest.json").write_text(json.dumps({**manifest, "run_seconds": 6000.0}))
    page = readme_page(project)
    assert "| demo/01_line | 1.5 | 100.0 | - |" in page and "Preset `long`:\n\nOf 1 claim" in page


def test_the_readme_shows_what_the_benchmark_measured(project: Project) -> None:
    (project.root / "README.md").write_text("<!-- benchmark:begin --><!-- benchmark:end -->")
    assert "make benchmark" in readme_page(project)
    folder = project.results / "benchmark"
    folder.mkdir()
    head = "method,contender,wall_s,ratio_to_ctml,peak_gib"
    (folder / "meta_step.csv").write_text(f"{head}\nmaml,ctml,2.5,1,0.7\nmaml,loop,5,2,0.4\n")
    assert "| MAML | loop | 5 | 2 | 0.4 |" in readme_page(project)


def test_pages_are_up_to_date_after_an_update(project: Project) -> None:
    (project.root / "README.md").write_text("<!-- claims:begin --><!-- claims:end -->")
    assert update(project) == ["results/README.md", "codecheck.yml", "README.md"]
    assert outdated(project) == []
    (project.root / "README.md").write_text("<!-- claims:begin --><!-- claims:end -->\nmine\n")
    assert update(project, keep=["README.md"]) == [] and outdated(project) == ["README.md"]


def test_a_summary_takes_every_verdict_from_the_results(project: Project) -> None:
    words = "".join(f"## {heading}\nWords on\n{heading.lower()}.\n" for heading in BY_HAND)
    (project.root / "notebooks" / "demo").mkdir(exist_ok=True, parents=True)
    path = project.root / "notebooks" / "demo" / "summary.md"
    path.write_text(words)
    claims = project.results / "quick" / "demo" / "01_line" / "claims.json"
    (claim,) = json.loads(claims.read_text())
    kinds = {"a": "reproduced", "b": "not reproduced", "c": "not assessed"}
    told = [{**claim, "id": id, "verdict": verdict, "reason": "needs a GPU"} for id, verdict in kinds.items()]
    claims.write_text(json.dumps([*told, {**claim, "id": "d", "source": "ours", "verdict": "failed"}]))
    (page,) = summaries(published(project, "quick"), project).values()
    held, fell = page.index("**[Re] What"), page.index("**[not Re] What")
    assert held < page.index("(`a`)") < fell < page.index("(`b`)") < page.index("(`d`)") and "(`c`)" not in page
    assert "**Not assessed.** 1 (needs a GPU)." in page and "0 of 1 hold" in page
    assert "**Scope.** Words on scope." in page and "**Cost.** 2 minutes" in page
    (project.root / "README.md").write_text("<!-- summaries:begin --><!-- summaries:end -->")
    assert f"<details><summary>demo: one page</summary>\n\n{page}\n\n</details>" in readme_page(project)
    path.write_text(words.replace("## Scope", "## Aim"))
    with pytest.raises(SummaryError, match="needs Scope"):
        summaries(published(project, "quick"), project)


def test_codecheck_lists_what_a_rerun_makes_again(project: Project) -> None:
    path = project.results / "quick" / "demo" / "01_line" / "manifest.json"
    made = {"figures/errors.svg": "0", "figures/errors.png": "0", "figures/errors/00.svg": "0", "metrics.csv": "0"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "outputs": made}))
    (project.root / "CITATION.cff").write_text('title: "It: all"\nauthors:\n  - name: We\n')
    text = codecheck(published(project, "quick"), project.root)
    assert text.startswith("---\n")  # an explicit document, as the specification asks
    read = yaml.safe_load(text)
    assert read["paper"] == {"title": "It: all", "authors": [{"name": "We"}]}
    folder = "results/quick/demo/01_line"
    assert read["manifest"] == [
        {"file": f"{folder}/figures/errors.svg", "comment": "figure of demo/01_line (Figure 1), preset quick"},
        {"file": f"{folder}/metrics.csv", "comment": "table of demo/01_line, preset quick"},
    ]


def test_codecheck_of_this_project_names_files_that_are_there() -> None:
    root = Project.around(Path(__file__).parent).root
    listed = yaml.safe_load((root / "codecheck.yml").read_text(encoding="utf-8"))["manifest"]
    assert len(listed) > 20 and [entry["file"] for entry in listed if not (root / entry["file"]).is_file()] == []


def test_the_pages_of_this_project_are_up_to_date() -> None:
    assert outdated(Project.around(Path(__file__).parent)) == [], "run make claims"
