"""The site: pages made from the results without a warning or a network, links that lead somewhere, pages that show."""

import base64
import json
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from companion.publish.browser import BROWSER, Browser
from companion.publish.links import faults
from companion.publish.looks import axe, wrong_pages

from ctml.companion import style
from ctml.companion.pairing import read_source
from ctml.companion.project import Project, Refusal
from ctml.companion.publish.site import build
from ctml.companion.publish.site.docstrings import as_rst, escaped
from ctml.companion.publish.site.launch import alone
from ctml.companion.publish.site.panel import first_panel
from ctml.companion.publish.site.typeset import typeset
from ctml.companion.publish.summary import BY_HAND

CAPTION = 'An "error" $e_i$ over [seeds].'
MOVED = "What moves."
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
    moved = {"name": "moved", "caption": MOVED, "where": "", "moves": "horizon T", "values": ["0", "1", "10"]}
    manifest = {
        "figures": [{"name": "errors", "caption": CAPTION, "where": "Figure 1"}, moved], "outputs": {},
        "runs": 4, "run_seconds": 90.0, "seconds": 60.0, "hardware": {"processor": "A chip", "cores": 2},
        "parameters": {"seed": 3}, "data": ["glyphs/test"], "code": {"commit": "0123456789abcdef", "dirty": False},
    }  # fmt: skip
    (folder / "claims.json").write_text(json.dumps([claim]))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("errors", "moved"):
        (folder / "figures" / f"{name}.svg").write_bytes(_figure())
    (folder / "figures" / "moved").mkdir()
    for place in range(3):
        (folder / "figures" / "moved" / f"{place:02d}.svg").write_bytes(_figure())
    (root / "notebooks" / "demo" / "summary.md").write_text(
        "".join(f"## {heading}\nWords on {heading.lower()}.\n" for heading in BY_HAND)
    )
    dot = base64.b64encode(b"not looked at").decode()
    new = nbformat.v4
    figure = new.new_output("display_data", {"image/png": dot}, metadata={"image/png": {"alt": CAPTION}})
    strip = new.new_output("display_data", {"image/png": dot}, metadata={"image/png": {"alt": MOVED}})
    said = [new.new_output("display_data", {"text/markdown": text}) for text in (CAPTION, VERDICT)]
    cells = [
        new.new_markdown_cell(f"# The line\n\n**Answer:** it *is*\nsmall.\n\n{EQUATION}"),
        new.new_code_cell("step = w - rate * gradient"),
        new.new_code_cell('study.figure(figure, "errors", caption)', outputs=[figure, said[0]]),
        new.new_code_cell('study.slider(draw, values, "moved", caption)', outputs=[strip]),
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


BUILT: list[Path] = []  # building takes seconds: the same small site is built once, and copied for each test


@pytest.fixture
def site(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUILT:
        BUILT.append(shutil.copytree(build(project).parent, tmp_path_factory.mktemp("built") / "site"))
    return shutil.copytree(BUILT[0], project.root / "site")


def test_the_site_of_a_small_project(site: Path) -> None:
    index, claims, images = ((site / f"{name}.html").read_text() for name in ("index", "claims", "your_images"))
    notebook = (site / "quick" / "demo" / "01_line.html").read_text()
    assert "In short." in index and "Of 1 claim, 1 is stated by the papers (1 reproduced)" in index
    assert 'href="quick/demo/01_line.html"' in index and "in code." in index and "<h2>How" not in index
    assert 'href="quick/demo/01_line.html#demo-f1"' in claims and "O(δ<sup>2/3</sup>) &lt; 1" in claims
    assert '<a id="demo-f1"></a>' in notebook and notebook.count("An &quot;error&quot;") == 1
    assert "It <em>is</em> small." in (site / "papers" / "demo.html").read_text()
    assert (
        "One folder a class" in images
        and 'href="quick/demo/01_line.html"' in images.split("</article>")[0].split("<article")[1]
    )
    assert (
        'Cell 2 of <code class="docutils literal notranslate"><span class="pre">notebooks/demo/01_line.py' in notebook
    )
    assert "Words on scope." in (site / "papers" / "demo.html").read_text() and "Binder" not in notebook
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


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1440, True)], ids=["telephone", "dark"])
def test_every_page_of_the_small_site_shows(site: Path, width: int, dark: bool) -> None:
    assert wrong_pages(site, width, dark, weighed={"index", "claims", "01_line"}) == []


@needs_browser
def test_what_axe_forbids_is_found(site: Path) -> None:
    if not axe():
        pytest.skip("axe is not installed: pip install -e '.[test]'")
    page = site / "index.html"
    page.write_text(page.read_text().replace("<p>In short.", '<p style="color: #ddd; background: #fff">In short.'))
    assert any("color-contrast" in said for said in wrong_pages(site, 1440, False, weighed={"index"}))


@needs_browser
def test_a_slider_changes_the_drawing_and_print_gets_the_filmstrip(site: Path) -> None:
    with Browser() as browser:
        browser.open((site / "quick" / "demo" / "01_line.html").as_uri())
        picture, control = "document.querySelector('.slider img')", "document.querySelector('.slider input')"
        assert browser.ask(f"{picture}.src").endswith("frames/quick/demo/01_line/moved/01.svg")
        browser.ask(f"({control}.value = 2, {control}.dispatchEvent(new Event('input')))")
        assert browser.ask(f"{picture}.src").endswith("moved/02.svg")
        assert browser.ask(f"{picture}.alt") == f"horizon T = 10. {MOVED}"
        assert browser.ask("document.querySelector('.slider output').textContent") == "10"
        assert browser.ask(f"{picture}.decode().then(() => {picture}.naturalWidth)") > 0
        browser.ask("dispatchEvent(new Event('beforeprint'))")
        assert "/moved" in browser.ask(f"{picture}.src") and "frames" not in browser.ask(f"{picture}.src")
        assert browser.ask(f"{picture}.alt") == MOVED


def test_where_a_repository_is_named_notebooks_run_elsewhere(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CTML_REPOSITORY", "https://github.com/owner/name")
    monkeypatch.setenv("CTML_BRANCH", "mine")
    site = build(project).parent
    page = (site / "quick" / "demo" / "01_line.html").read_text()
    assert "mybinder.org/v2/gh/owner/name/mine?labpath=notebooks%2Fdemo%2F01_line.ipynb" in page
    assert 'href="../../alone/demo_01_line.ipynb" download' in page and not faults(site)
    copy = nbformat.read(site / "alone" / "demo_01_line.ipynb", as_version=4)
    nbformat.validate(copy)
    source = read_source(project.root / "notebooks" / "demo" / "01_line.py")
    assert [c.source for c in copy.cells[:1] + copy.cells[2:]] == [c.source for c in source.cells]


def test_a_notebook_alone_fetches_and_installs_before_its_first_import(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CTML_REPOSITORY", "https://example.org/ctml")
    (notebook,) = project.notebooks()
    copy = nbformat.reads(alone(notebook), as_version=4)
    first = next(cell.source for cell in copy.cells if cell.cell_type == "code")
    called: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command, check: called.append(command))
    exec(first, {})
    assert called == []  # ctml is at hand here
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkout" / "notebooks" / "demo").mkdir(parents=True)
    exec(first, {})
    assert Path.cwd() == tmp_path / "checkout" / "notebooks" / "demo"
    assert called[0][:2] == ["git", "clone"] and "https://example.org/ctml" in called[0]
    assert called[1][1:4] == ["-m", "pip", "install"] and called[1][-1] == "checkout[notebooks,data,rl]"


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
