"""The site of this checkout, once `make site` has built it (minutes: a workflow does both before it publishes).

CTML_SITE=.build/site python -m pytest tests/companion/publish/test_built_site.py
"""

import os
from pathlib import Path

import pytest
from companion.publish.browser import BROWSER
from companion.publish.links import faults, pages
from companion.publish.looks import wrong_pages

SITE = Path(os.environ.get("CTML_SITE") or "/nowhere").absolute()
LARGEST = 150_000  # bytes of HTML of the median page
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="CTML_SITE names no built site: make site")
# one page of each kind: axe takes seconds
WEIGHED = {"index", "claims", "gallery", "comln", "01_flow", "anil", "01_three_sliders", "how_it_hangs_together"}


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
    wrong = wrong_pages(SITE, width, dark, WEIGHED)
    assert not wrong, "\n".join(wrong)
