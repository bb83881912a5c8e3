"""A static site from the README, the results and the executed notebooks: every page one file that needs no network."""

import html
import re
import shutil
from pathlib import Path

import mistune
import nbformat
from nbconvert import HTMLExporter

from ctml.companion.files import write_atomically
from ctml.companion.manifest import commit
from ctml.companion.project import PRESETS, Project
from ctml.companion.publish.equations import with_mathml
from ctml.companion.publish.report import Published, claims_table, cost_table, published

_STYLE = Path(__file__).with_name("site.css")
_NOTEBOOK_STYLE = (
    "<style>main, .up { max-width: 62rem; margin: auto; } .up { padding: 1rem 2rem; font-family: sans-serif; }"
    " .up a { text-decoration: underline; } .jp-OutputArea-output img { max-width: 100%; }</style>"
)


def build(project: Project) -> Path:
    """Write the site to `.build/site` and return its first page."""
    site = project.build / "site"
    shutil.rmtree(site, ignore_errors=True)
    results = {preset: published(project, preset) for preset in reversed(PRESETS[1:])}
    for group in results.values():
        for result in group:
            _notebook_page(result, site)
    write_atomically(site / "index.html", _index(project, results).encode())
    return site / "index.html"


def _index(project: Project, results: dict[str, list[Published]]) -> str:
    readme = project.root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else "# Results"
    # the README shows the same tables; here they stand once, beside the pictures
    title, _, rest = text.partition("\n")
    opening = rest.partition("\n## ")[0]
    parts = [f"<h1>{html.escape(title.lstrip('# '))}</h1>", _markdown(_opening(opening))]
    for preset, group in results.items():
        if group:
            parts.append(f'<h2 id="{preset}">Results at preset {preset}</h2>')
            parts.append(f'<div class="cards">{"".join(_card(result) for result in group)}</div>')
            parts.append(f"<h3>Claims</h3>{_coloured(_markdown(claims_table(group)))}")
            parts.append(f"<h3>Cost</h3>{_markdown(cost_table(group))}")
    if not any(results.values()):
        parts.append("<p>No results yet: run <code>make reproduce</code>.</p>")
    code = commit(project.root)
    if code:
        parts.append(
            f"<footer>Made from commit {code['commit'][:12]}{' with local changes' if code['dirty'] else ''}.</footer>"
        )
    return _page(title.lstrip("# "), "\n".join(parts))


def _card(result: Published) -> str:
    figures = result.manifest["figures"]
    picture = ""
    if figures:
        drawing = (result.folder / "figures" / f"{figures[0]['name']}.svg").read_text(encoding="utf-8")
        label = html.escape(figures[0]["caption"], quote=True)
        picture = f'<div class="picture" role="img" aria-label="{label}">{drawing[drawing.index("<svg") :]}</div>'
    verdicts = [claim["verdict"] for claim in result.claims]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    return (
        f'<a class="card" href="{result.preset}/{result.notebook.name}.html">{picture}'
        f"<strong>{html.escape(_title(result))}</strong><span>{html.escape(result.notebook.name)}</span>"
        f"<span>{html.escape(counted)}</span></a>"
    )


def _title(result: Published) -> str:
    """Return the notebook's first heading."""
    notebook = nbformat.read(result.folder / f"{result.notebook.title}.ipynb", as_version=4)
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), result.notebook.title)


def _notebook_page(result: Published, site: Path) -> None:
    notebook = nbformat.read(result.folder / f"{result.notebook.title}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": _title(result)}})
    up = "../" * (result.notebook.name.count("/") + 1)
    link = f'{_NOTEBOOK_STYLE}<p class="up"><a href="{up}index.html">All results</a></p>'
    # what the template loads from the network (MathJax, Mermaid, RequireJS) is not needed here
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)
    head, tag, rest = body.partition("<main")
    write_atomically(site / result.preset / f"{result.notebook.name}.html", f"{head}{link}{tag}{rest}".encode())


def _markdown(text: str) -> str:
    made = mistune.html(with_mathml(text))
    assert isinstance(made, str)
    return made.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _coloured(table: str) -> str:
    colours = {"reproduced": "good", "checked": "good", "same trend": "fair", "not reproduced": "bad", "failed": "bad"}
    for verdict, colour in colours.items():
        table = table.replace(f"<strong>{verdict}</strong>", f'<strong class="{colour}">{verdict}</strong>')
    return table


def _opening(text: str) -> str:
    """Return the README's opening without its pictures, and with only the links that lead to pages of the site."""

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        page = re.fullmatch(r"results/(\w+)/(.+)/\w+\.ipynb", target)
        if page:
            return f"[{words}]({page[1]}/{page[2]}.html)"
        return match[0] if target.startswith("http") else words

    blocks = [block for block in text.split("\n\n") if "![" not in block and "<img" not in block]
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", link, "\n\n".join(blocks))


def _page(title: str, body: str) -> str:
    style = _STYLE.read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )
