"""The gallery: one figure a notebook, grouped by paper, each leading to the notebook that made it."""

import html
from itertools import groupby
from pathlib import Path

from ctml.companion.publish.site.notebooks import Page, drawing
from ctml.companion.publish.site.pages import short_name
from ctml.companion.publish.site.panel import first_panel


def gallery_page(made: list[Page]) -> str:
    """Return the page as Markdown: cards under a heading for each paper."""
    shown = [page for page in made if page.result.manifest["figures"]]
    if not shown:
        return "# Gallery\n\nNo figures yet: run `make reproduce`."
    parts = [
        "# Gallery",
        "A panel of one figure of every notebook; it leads to the whole, to the others, and to the code.",
    ]
    for (preset, paper), group in groupby(shown, lambda page: (page.result.preset, page.result.notebook.paper)):
        more = f" at preset {preset}" if len({page.result.preset for page in shown}) > 1 else ""
        parts += [f"## {short_name(paper) if paper else 'Tour'}{more}", _cards(list(group))]
    return "\n\n".join(parts) + "\n"


def panel_name(page: Page) -> str:
    """Return where the picture of a notebook lies in the source folder."""
    return f"gallery/{page.name}{Path(drawing(page.result, _chosen(page)['name'])).suffix}"


def panels(made: list[Page]) -> dict[str, bytes]:
    """Return the pictures of the gallery by their place: the first panel of each drawing."""
    pictures = {}
    for page in made:
        if page.result.manifest["figures"]:
            file = page.result.folder / "figures" / drawing(page.result, _chosen(page)["name"])
            is_drawing = file.suffix == ".svg"
            pictures[panel_name(page)] = (
                first_panel(file.read_text(encoding="utf-8")).encode() if is_drawing else file.read_bytes()
            )
    return pictures


def _chosen(page: Page) -> dict[str, str]:
    """Return the figure that stands for a notebook: the first that answers a figure of the paper, or the first."""
    figures = page.result.manifest["figures"]
    figures = [figure for figure in figures if drawing(page.result, figure["name"]).endswith(".svg")] or figures
    return next((figure for figure in figures if figure["where"]), figures[0])


def _cards(group: list[Page]) -> str:
    return "::::{container} cards\n" + "\n".join(_card(page) for page in group) + "\n::::"


def _card(page: Page) -> str:
    figure = _chosen(page)
    alt = html.escape(" ".join(figure["caption"].split()), quote=True)
    options = f":alt: {alt}\n:target: {page.name}.html"
    return f":::{{figure}} {panel_name(page)}\n{options}\n\n[{page.title}](/{page.name}.ipynb)\n:::"
