"""The site needs no network and no script, and shows equations, pictures and verdicts."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from ctml.companion.project import Project
from ctml.companion.publish.equations import with_mathml
from ctml.companion.publish.site import build


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"the rate $\alpha_{i}$ of", ["<msub>", "&#x003B1;"]),
        (r"$$\frac{d\theta}{dt} = -\nabla F(\theta) \tag{3}$$", ["<mfrac>", 'display="block"', "<mtext>3</mtext>"]),
        (r"$$\begin{aligned} a &= b \\ c &= d * e \end{aligned}$$", ["<mtable", "&#x0002A;"]),
        (r"$\arg\min_\phi f$", ["arg"]),
    ],
)
def test_equations_become_mathml(text: str, expected: list[str]) -> None:
    made = with_mathml(text)
    assert made.count("<math") == made.count("</math>") == 1
    assert "$" not in made and "\\" not in made
    assert not re.search(r"&(?!#|\w+;)", made)
    for part in expected:
        assert part in made


@pytest.mark.parametrize("text", ["`$HOME/x$`", "```\na $x$ b\n```", "from 5$ to 6$ each", r"a \$x\$ b"])
def test_dollars_that_are_no_equation_stay(text: str) -> None:
    assert with_mathml(text) == text


def test_what_cannot_be_read_is_shown_as_it_is_written() -> None:
    assert with_mathml(r"see $x^a^b$ there") == r"see `x^a^b` there"


@pytest.fixture
def project(root: Path) -> Project:
    folder = root / "results" / "quick" / "demo" / "01_line"
    (folder / "figures").mkdir(parents=True)
    claim = {
        "id": "demo-f1", "says": "s", "where": "Figure 1", "measured": "error 0.1", "accept": "max(error) <= 1",
        "source": "seen", "verdict": "reproduced", "reason": "",
    }  # fmt: skip
    manifest = {
        "figures": [{"name": "errors", "caption": 'An "error".', "where": "Figure 1"}], "outputs": {},
        "runs": 4, "run_seconds": 90.0, "seconds": 60.0, "hardware": {"processor": "A chip", "cores": 2},
    }  # fmt: skip
    (folder / "claims.json").write_text(json.dumps([claim]))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "figures" / "errors.svg").write_text('<?xml version="1.0"?><svg width="10"></svg>')
    cells = [nbformat.v4.new_markdown_cell(r"# The line" + "\n\n" + r"$\theta_i$"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "01_line.ipynb")
    opening = (
        "In short.\n\n![a](b.png)\n\nSee [run](results/quick/demo/01_line/01_line.ipynb) in [code](notebooks/demo)."
    )
    (root / "README.md").write_text(f"# All of it\n\n{opening}\n\n## Commands\n\nnot on the site\n")
    return Project(root)


def test_the_site_stands_alone(project: Project) -> None:
    index = build(project)
    page = index.read_text()
    notebook = (index.parent / "quick" / "demo" / "01_line.html").read_text()
    assert 'href="quick/demo/01_line.html"' in page and "The line" in page
    assert '<strong class="good">reproduced</strong>' in page
    assert 'aria-label="An &quot;error&quot;."' in page and '<svg width="10">' in page
    assert "<h1>All of it</h1>" in page and "In short." in page and "not on the site" not in page
    assert '<a href="quick/demo/01_line.html">run</a> in code' in page and "<img" not in page
    assert "<msub>" in notebook and 'href="../../index.html"' in notebook
    for text in (page, notebook):
        assert "<script" not in text
        assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(["']?http""", text)


def test_without_results_the_site_says_how_to_get_them(root: Path) -> None:
    assert "make reproduce" in build(Project(root)).read_text()
