"""What a person would complain of who opened every page of a site: nothing asked of it but a browser and axe."""

import importlib.util
from pathlib import Path

from companion.publish.browser import Browser
from companion.publish.links import pages

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
VIOLATIONS = """axe.run(document, {runOnly: ["color-contrast", "image-alt", "label", "link-name", "button-name"]})
  .then(found => found.violations.flatMap(rule => rule.nodes.map(node => rule.id + ": " + node.html.slice(0, 150))))"""


def axe() -> str:
    """Return the text of axe, which the test extra brings."""
    found = importlib.util.find_spec("axe_core_python")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8") if found and found.origin else ""


def wrong_pages(site: Path, width: int, dark: bool, weighed: set[str]) -> list[str]:
    """Open every page and return what is wrong with it; axe, which takes seconds, weighs only some of them."""
    wrong = []
    rules = axe()
    with Browser() as browser:
        for path in pages(site):
            browser.open(path.as_uri(), width=width, dark=dark)
            wide, failed, unset, raw, blind = browser.ask(LOOKS)
            elsewhere = [address for address in browser.asked_for() if not address.startswith(("file:", "data:"))]
            said = [*browser.complaints(), *elsewhere]
            said += [f"{wide} pixels wide"] if wide > width else []
            said += [f"{failed + unset} equations are not set"] if failed + unset else []
            said += [f"{raw} pieces of an equation stand there as text"] if raw else []
            said += [f"{blind} images without words or not loaded"] if blind else []
            if rules and path.stem in weighed:
                browser.ask(rules)
                said += browser.ask(VIOLATIONS)
            wrong += [f"{path.relative_to(site)}: {text}" for text in said]
    return wrong
