"""The site: pages made from the results without a warning or a network, links that lead somewhere, pages that show."""

import base64
import json
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from companion.publish.browser import BROWSER, Browser
from companion.publish.links import faults

from ctml.companion import style
from ctml.companion.project import Project, Refusal
from ctml.companion.publish.site import build
from ctml.companion.publish.site.docstrings import as_rst, escaped
from ctml.companion.publish.site.panel import first_panel
from ctml.companion.publish.site.typeset import typeset

CAPTION = 'An "error" $e_i$ over [seeds].'
EQUATION = r"$$\frac{d\mathcal L}{dT}=-\Bigl\langle\nabla_W,\mathbb 1\Bigr\rangle\quad(13)$$"
VERDICT = "**reproduced**: s *(Figure 1; `demo-f1`)* Rule: `max(error) <= 1`. Measured: error 0.1."
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of the theme, about the next Sphinx
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path: apt install chromium")


def _figure() -> bytes:
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    axes[0].set_xlabel("first")
    axes[1].set(ylabel="second", title="other")
    drawn = style.render(figure, "svg")
    plt.close(figure)
    return drawn


@pytest.fixture
def project(root: Path) -> Project:
    folder = root / "results" / "quick" / "demo" / "01_line"
    (folder / "figures").mkdir(parents=True)
    claim = {
        "id": "demo-f1", "says": "O(delta^(2/3)) < 1", "where": "Figure 1", "measured": "error 0.1", "source": "seen",
        "accept": "max(error) <= 1", "verdict": "reproduced", "reason": "",
    }  # fmt: skip
    manifest = {
        "figures": [{"name": "errors", "caption": CAPTION, "where": "Figure 1"}], "outputs": {},
        "runs": 4, "run_seconds": 90.0, "seconds": 60.0, "hardware": {"processor": "A chip", "cores": 2},
        "parameters": {"seed": 3}, "data": ["glyphs/test"], "code": {"commit": "0123456789abcdef", "dirty": False},
    }  # fmt: skip
    (folder / "claims.json").write_text(json.dumps([claim]))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "figures" / "errors.svg").write_bytes(_figure())
    dot = base64.b64encode(b"not looked at").decode()
    new = nbformat.v4
    figure = new.new_output("display_data", {"image/png": dot}, metadata={"image/png": {"alt": CAPTION}})
    said = [new.new_output("display_data", {"text/markdown": text}) for text in (CAPTION, VERDICT)]
    cells = [
        new.new_markdown_cell(f"# The line\n\n**Answer:** it *is*\nsmall.\n\n{EQUATION}"),
        new.new_code_cell("step = w - rate * gradient"),
        new.new_code_cell('study.figure(figure, "errors", caption)', outputs=[figure, said[0]]),
        new.new_code_cell('study.claim("demo-f1", error=e)', outputs=[said[1]]),
    ]
    kernel = {"language_info": {"name": "python"}}
    nbformat.write(new.new_notebook(cells=cells, metadata=kernel), folder / "01_line.ipynb")
    (root / "README.md").write_text(
        "# All of it\n\nIn short.\n\n![a](results/quick/demo/01_line/figures/errors.svg)\n\n"
        "See [run](results/quick/demo/01_line/01_line.ipynb) in [code](notebooks/demo).\n\n"
        "## How\n\n*Your own images* one folder a class, as in [the line](notebooks/demo/01_line.py).\n\n"
        "*Other* not here\n"
    )
    return Project(root)


@pytest.fixture
def site(project: Project) -> Path:
    return build(project).parent


def test_the_site_of_a_small_project(site: Path) -> None:
    index, claims, images = ((site / f"{name}.html").read_text() for name in ("index", "claims", "your_images"))
    notebook = (site / "quick" / "demo" / "01_line.html").read_text()
    assert "In short." in index and "Of 1 claim, 1 is stated by the papers (1 reproduced)" in index
    assert 'href="quick/demo/01_line.html"' in index and "in code." in index and "How" not in index
    assert 'href="quick/demo/01_line.html#demo-f1"' in claims and "O(δ<sup>2/3</sup>) &lt; 1" in claims
    assert '<a id="demo-f1"></a>' in notebook and notebook.count("An &quot;error&quot;") == 1
    assert "It <em>is</em> small." in (site / "papers" / "demo.html").read_text()
    assert (
        "One folder a class" in images
        and 'href="quick/demo/01_line.html"' in images.split("</article>")[0].split("<article")[1]
    )
    assert "commit <code" in notebook and "seed 3" in notebook and "glyphs/test" in notebook
    folded, shown = (notebook.index(words) for words in ("tag_hide-input", "gradient"))
    assert shown < folded and notebook.count("tag_hide-input") == 1
    assert not faults(site)


def test_a_link_that_leads_nowhere_is_found(site: Path) -> None:
    page = site / "index.html"
    page.write_text(
        page.read_text() + '<a href="claims.html#none">a</a><a href="no.html">b</a><img src="https://x.y/z">'
    )
    assert len(faults(site)) == 3


def test_a_fault_in_a_notebook_is_refused(project: Project) -> None:
    path = project.results / "quick" / "demo" / "01_line" / "01_line.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("![gone](gone.png)"))
    nbformat.write(notebook, path)
    with pytest.raises(Refusal, match="faults"):
        build(project)


def test_without_results_the_site_says_how_to_get_them(root: Path) -> None:
    assert "No results yet" in build(Project(root)).read_text()


@needs_browser
def test_equations_are_set_and_claims_filtered(site: Path) -> None:
    with Browser() as browser:
        browser.open((site / "quick" / "demo" / "01_line.html").as_uri())
        assert browser.ask("document.querySelectorAll('mjx-container[display=true]').length") == 1
        assert "langle" not in browser.ask("document.querySelector('article').innerText")
        assert browser.ask("document.querySelectorAll('mjx-merror').length") == 0
        browser.open((site / "claims.html").as_uri())
        count = "document.querySelector('[data-count]').textContent"
        assert browser.ask(count) == "1 of 1"
        browser.ask(
            "(field => { field.value = 'nothing'; field.dispatchEvent(new Event('input', {bubbles: true})) })"
            "(document.querySelector('[data-search]'))"
        )
        assert browser.ask(count) == "0 of 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O(delta^(2/3)) of mu", "O(δ<sup>2/3</sup>) of μ"),
        ("dW(T)/dW_0 is I - sum B[i,j] (x) phi_i", "dW(T)/dW<sub>0</sub> is I - Σ B[i,j] ⊗ φ<sub>i</sub>"),
        ("a fo_b_maml step <= 2", "a fo_b_maml step ≤ 2"),
        ("alphabet and munu", "alphabet and munu"),
    ],
)
def test_statements_are_typeset(text: str, expected: str) -> None:
    assert typeset(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|theta| and a * b and x_ of y_i", r"\|theta\| and a \* b and x\_ of y_i"),
        ("`|x|` and *so* and **very**", "`|x|` and *so* and **very**"),
        ("* an item", "* an item"),
    ],
)
def test_mathematics_is_no_markup(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_equations_in_docstrings_keep_their_lines() -> None:
    text = ["Step.", "", "    w = |g|", "    v = 2", "After.", "", "Args:", "    x_: the |x|."]
    block = ["", "", ".. code-block:: text", "", "    w = |g|", "    v = 2", ""]
    assert as_rst(text) == ["Step.", "", *block[1:], "After.", "", "Args:", r"    x\_: the \|x\|."]


def test_the_first_panel_ends_before_the_words_of_the_next() -> None:
    whole = _figure().decode()
    first = first_panel(whole)
    width = float(first.split('width="')[1].split("pt")[0])
    assert 150 < width < 8 * 72 / 2 + 20 and first_panel(first) == first
    assert first.split("<g id=", 1)[1] == whole.split("<g id=", 1)[1]
