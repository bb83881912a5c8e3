"""What Sphinx is told: no execution, no network, MathJax from a package, every warning an error."""

import importlib.util
import shutil
import typing
from pathlib import Path

from sphinx.application import Sphinx

from ctml.companion.publish.site.docstrings import as_rst
from ctml.companion.publish.site.launch import repository

_HERE = Path(__file__).parent

project = "ctml"
author = "The ctml maintainers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinxcontrib.bibtex"]

exclude_patterns = ["extra"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # captions and verdicts hold equations
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "dollarmath"]
myst_dmath_double_inline = True  # an equation on a line of its own within a paragraph
myst_heading_anchors = 3
bibtex_bibfiles = [str(_HERE / "papers.bib")]
bibtex_reference_style = "author_year"

autodoc_member_order = "bysource"
autodoc_default_options = {"no-value": True}
autodoc_inherit_docstrings = False  # torch's words for `forward` say nothing of ours
autodoc_typehints = "none"  # shapes stand in the text; in a signature they hide its names
napoleon_use_ivar = True  # an attribute is listed once, with its class
napoleon_attr_annotations = False
default_role = "code"  # what stands between single backticks in a docstring is code

html_theme = "sphinx_book_theme"
html_title = "ctml"
html_use_index = False  # the search finds more
html_domain_indices = False
html_static_path = [str(_HERE / "static")]
html_css_files = ["site.css"]
html_js_files = [("claims.js", {"defer": "defer"}), ("slider.js", {"defer": "defer"})]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's machine is set
html_theme_options = {
    "home_page_in_toc": False,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

if repository():
    html_theme_options |= {"repository_url": repository(), "use_repository_button": True}

mathjax_path = "mathjax/tex-chtml.js"
_MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2")  # a fifth of what the package holds


def setup(app: Sphinx) -> None:
    """Register what is done to docstrings, and to the finished site."""
    app.connect("autodoc-process-docstring", _rewrite, priority=400)  # before napoleon, which reads the sections
    app.connect("autodoc-skip-member", _is_alias)
    app.connect("build-finished", _copy_mathjax)


def _rewrite(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def _is_alias(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out names of types: their shapes are written for the checker and read badly."""
    return True if typing.get_origin(obj) is not None else None


def _copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    assert found is not None and found.origin is not None, "pip install sphinx-mathjax-offline"
    package = Path(found.origin).parent / "static" / "mathjax"
    if exception is None:
        for name in _MATHJAX:
            target = Path(app.outdir) / "_static" / "mathjax" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (package / name).is_dir() else shutil.copyfile)(package / name, target)
