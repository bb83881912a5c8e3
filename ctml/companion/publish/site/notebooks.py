"""Executed notebooks as pages: plotting folded, figures as drawings with their captions and where each comes from.

Invariant: nothing is executed and no number is touched; only how an output is shown changes.
"""

import html
import json
import re
from dataclasses import dataclass
from typing import Any

import nbformat

from ctml.companion.project import PRESETS, Project
from ctml.companion.publish.report import Published, published
from ctml.companion.publish.site.launch import launch_links

FRAMES = "frames"  # folder of the site for the drawings under sliders
LARGEST = 300_000  # bytes of a drawing; above it the picture of dots is shown

_CLAIM = re.compile(r"[(; ]`([\w-]+)`\)\*")  # how a verdict names its claim
_EXECUTED = re.compile(r"^\*Executed, .*\]\(.*results/.*\)\n+", re.MULTILINE)  # in the source: where the site's page is
_HTML_ID = re.compile(r"<style scoped>.*?</style>", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """An executed notebook as a page of the site: its place there, its title, its text, and the claims it shows."""

    result: Published
    name: str
    title: str
    answer: str
    text: str
    anchors: frozenset[str]


def notebook_pages(project: Project) -> list[Page]:
    """Return the pages of all published notebooks, the most thorough preset first, each preset in reading order."""
    return [_page(result) for preset in reversed(PRESETS[1:]) for result in published(project, preset)]


def _page(result: Published) -> Page:
    notebook = nbformat.read(result.folder / f"{result.notebook.title}.ipynb", as_version=4)
    name = f"{result.preset}/{result.notebook.name}"
    captions = {figure["caption"]: figure for figure in result.manifest["figures"]}
    anchors: set[str] = set()
    number = 0  # of code cells, as a reader counts them
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _links_on_site(cell.source)
            continue
        number += 1
        if "study.figure(" in cell.source:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
        cell.outputs = _shown(cell.outputs, captions, result, anchors, number)
    notebook.cells.append(nbformat.v4.new_markdown_cell(provenance(result)))
    if links := launch_links(result.notebook, name):
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(f"```{{raw}} html\n{links}\n```"))
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    title = next((line for text in prose for line in text.splitlines() if line.startswith("# ")), result.notebook.title)
    answer = re.search(r"\*\*Answer:\*\*\s*(.+?)(\n\s*\n|\Z)", "\n\n".join(prose), flags=re.DOTALL)
    return Page(
        result,
        name,
        title.lstrip("# ").strip(),
        " ".join(answer[1].split()) if answer else "",
        nbformat.writes(notebook),
        frozenset(anchors),
    )


def provenance(result: Published) -> str:
    """Return the line under a notebook that says which code, data and seeds its numbers come from."""
    record = result.manifest
    minutes = max(record["run_seconds"], record["seconds"]) / 60
    said = f"{record['runs']} runs, {minutes:.1f} minutes of one process ({record['hardware']['processor']})"
    return f":::{{container}} provenance\nHow these numbers came about: {_origin(result)}; {said}.\n:::"


def _origin(result: Published) -> str:
    record = result.manifest
    parameters: dict[str, Any] = record.get("parameters", {})
    seeds = (f"{name} {json.dumps(value)}" for name, value in parameters.items() if "seed" in name.lower())
    code = record.get("code") or {}
    changed = " with local changes" if code.get("dirty") else ""
    said = (
        f"preset `{result.preset}`",
        f"commit `{code['commit'][:12]}`{changed}" if code else "",
        f"data: {', '.join(record.get('data', [])) or 'made on the spot'}",
        *seeds,
    )
    return "; ".join(filter(None, said))


def _shown(
    outputs: list[Any], captions: dict[str, dict[str, Any]], result: Published, anchors: set[str], number: int
) -> list[Any]:
    shown = []
    for output in outputs:
        data = output.get("data", {})
        caption = output.get("metadata", {}).get("image/png", {}).get("alt", "")
        if "image/png" in data and caption in captions:
            shown.append(_markdown(_figure(result, captions[caption], number)))
        elif data.get("text/markdown") in captions:
            continue  # the caption again, which the figure now carries
        else:
            if "text/html" in data:
                data["text/html"] = _HTML_ID.sub("", data["text/html"]).replace(' border="1"', "")
            claim = _CLAIM.search(data.get("text/markdown", ""))
            if claim and claim[1] not in anchors:
                anchors.add(claim[1])
                data["text/markdown"] = f'<a id="{claim[1]}"></a>{data["text/markdown"]}'
            shown.append(output)
    return shown


def drawing(result: Published, name: str) -> str:
    """Return the file of a figure that the site shows: the drawing, or the picture of dots where that is too large."""
    vector = result.folder / "figures" / f"{name}.svg"
    return vector.name if vector.is_file() and vector.stat().st_size <= LARGEST else f"{name}.png"


def frames(result: Published, figure: dict[str, Any]) -> list[str]:
    """Return the drawings of a figure that a reader moves, below the folder of figures; none for any other."""
    return [f"{figure['name']}/{place:02d}.svg" for place in range(len(figure.get("values", ())))]


def _figure(result: Published, figure: dict[str, Any], number: int) -> str:
    path, caption = f"{result.notebook.title}/figures/{drawing(result, figure['name'])}", figure["caption"]
    shown = f"````{{figure}} {path}\n:alt: {' '.join(caption.split())}\n\n{caption}\n````"
    if "values" in figure:
        shown = f":::::{{container}} slider\n{shown}\n\n{_slider(result, figure)}\n:::::"
    origin = f"Cell {number} of `notebooks/{result.notebook.name}.py`; {_origin(result)}."
    return f"{shown}\n\n:::{{container}} provenance\n{origin}\n:::"


def _slider(result: Published, figure: dict[str, Any]) -> str:
    """Return the browser's own slider over the drawings; it stays hidden where no script runs."""
    base = f"{FRAMES}/{result.preset}/{result.notebook.name}"
    upwards = "../" * (result.notebook.name.count("/") + 1)
    given = {
        "data-frames": json.dumps([f"{upwards}{base}/{name}" for name in frames(result, figure)]),
        "data-values": json.dumps(figure["values"], ensure_ascii=False),
    }
    attributes = " ".join(f'{name}="{html.escape(value, quote=True)}"' for name, value in given.items())
    control = f'<input type="range" min="0" max="{len(figure["values"]) - 1}" value="0" {attributes}>'
    return f"```{{raw}} html\n<label hidden>{html.escape(figure['moves'])} {control}<output></output></label>\n```"


def _markdown(text: str) -> Any:
    return nbformat.v4.new_output("display_data", {"text/markdown": text})


def _links_on_site(text: str) -> str:
    """Return the text with links to a folder of notebooks leading to that paper's page, and none to itself."""
    text = _EXECUTED.sub("", text)
    return re.sub(r"\]\((\w+)\)", r"](/papers/\1.md)", text)
