"""The site of this checkout, once `make site` has built it (minutes: a workflow does both before it publishes).

CTML_SITE=.build/site python -m pytest tests/companion/publish/test_built_site.py
"""

import importlib.util
import os
from pathlib import Path

import pytest
from companion.publish.browser import BROWSER, Browser
from companion.publish.links import faults, pages

SITE = Path(os.environ.get("CTML_SITE") or "/nowhere").absolute()
LARGEST = 150_000  # bytes of HTML of the median page
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="CTML_SITE names no built site: make site")
LOOKS = """[
  document.documentElement.scrollWidth,
  document.querySelectorAll("mjx-merror").length,
  [...document.querySelectorAll(".math")].filter(math => !math.querySelector("mjx-container")).length,
  (() => { // what reads like an equation or like markup that was not understood
    const article = (document.querySelector("article") ?? document.body).cloneNode(true);
    article.querySelectorAll("pre, code, .math, mjx-container, script").forEach(part => part.remove());
    return article.textContent.match(/\\\\[a-zA-Z]{2,}|\\$|:[a-z]+:`/g)?.length ?? 0;
  })(),
  [...document.images].filter(image => !image.alt || !image.naturalWidth).length,
]"""
WEIGHED = {"index", "claims", "gallery", "comln", "01_flow", "anil"}  # one page of each kind: axe takes seconds
VIOLATIONS = """axe.run(document, {runOnly: ["color-contrast", "image-alt", "label", "link-name", "button-name"]})
  .then(found => found.violations.flatMap(rule => rule.nodes.map(node => rule.id + ": " + node.html.slice(0, 150))))"""


def _axe() -> str:
    """Return the text of axe, which the test extra brings."""
    found = importlib.util.find_spec("axe_core_python")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8") if found and found.origin else ""


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere() -> None:
    assert not faults(SITE)


def test_it_has_its_pages_and_they_are_light() -> None:
    named = {"api", "bibliography", "claims", "gallery", "your_images", "your_learner", "your_notebook"}
    assert named <= {path.stem for path in SITE.glob("*.html")}
    sizes = sorted(path.stat().st_size for path in pages(SITE))
    assert sizes[len(sizes) // 2] < LARGEST


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path: apt install chromium")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1440, True)], ids=["telephone", "dark"])
def test_every_page_shows(width: int, dark: bool) -> None:
    wrong = []
    axe = _axe()
    with Browser() as browser:
        for path in pages(SITE) if SITE.is_dir() else ():
            browser.open(path.as_uri(), width=width, dark=dark)
            wide, failed, unset, raw, blind = browser.ask(LOOKS)
            elsewhere = [address for address in browser.asked_for() if not address.startswith(("file:", "data:"))]
            said = [*browser.complaints(), *elsewhere]
            said += [f"{wide} pixels wide"] if wide > width else []
            said += [f"{failed + unset} equations are not set"] if failed + unset else []
            said += [f"{raw} pieces of an equation stand there as text"] if raw else []
            said += [f"{blind} images without words or not loaded"] if blind else []
            if axe and path.stem in WEIGHED:
                browser.ask(axe)
                said += browser.ask(VIOLATIONS)
            wrong += [f"{path.relative_to(SITE)}: {text}" for text in said]
    assert not wrong, "\n".join(wrong)
