"""The pages around the notebooks: the first one, one for each paper, and those that say how to add one's own."""

import re
from pathlib import Path

from ctml.companion.manifest import commit
from ctml.companion.project import Project
from ctml.companion.publish.report import counts_table, headline, summaries
from ctml.companion.publish.site.notebooks import Page

_HERE = Path(__file__).parent
_SHORT = {
    "anil": "ANIL",
    "comln": "COMLN",
    "fo_b_maml": "FO-B-MAML",
    "maml_ode": "The MAML ODE and BI-MAML",
    "rk_maml": "Runge-Kutta MAML",
    "side_by_side": "Side by side",
}
WRITTEN = ("bibliography", "how_it_hangs_together")  # pages that are written by hand, whole
# page -> its title, and the words that begin its paragraph in the README
_HOW_TO = {"your_images": ("Your own images", "*Your own images*"), "your_learner": ("Your own learner", "*A method*")}


def short_name(paper: str) -> str:
    """Return the name by which a paper stands in the menu."""
    return _SHORT.get(paper, paper)


def index(project: Project, made: list[Page]) -> str:
    """Return the first page: the README's opening, whose claims have which verdict, and the way to everything else."""
    title, opening = _opening(_readme(project))
    papers = list(dict.fromkeys(page.result.notebook.paper for page in made))
    parts = [f"# {title}", _links_on_site(opening, [page.name for page in made])]
    for preset in dict.fromkeys(page.result.preset for page in made):
        results = [page.result for page in made if page.result.preset == preset]
        claims = [claim for result in results for claim in result.claims]
        if claims:
            words = f"{headline(claims)} [Read them, sorted and filtered](claims.md)."
            parts += [f"## Do the claims hold? (preset {preset})", words, counts_table(results)]
    if not made:
        parts.append("No results yet: run `make reproduce`.")
    alone = [page.name for page in made if not page.result.notebook.paper]
    parts.append(_toctree("Notebooks", [*alone, *(f"papers/{paper}" for paper in papers if paper)]))
    parts.append(_toctree("Findings", ["claims", "gallery"]))
    parts.append(_toctree("Your own", ["your_notebook", *how_to_from_readme(project)]))
    reference = ["api"] if (project.root / "ctml").is_dir() else []
    parts.append(_toctree("Reference", ["how_it_hangs_together", *reference, "bibliography"]))
    code = commit(project.root)
    if code:
        parts.append(f"Made from commit `{code['commit'][:12]}`{' with local changes' if code['dirty'] else ''}.")
    return "\n\n".join(parts) + "\n"


def papers(project: Project, made: list[Page]) -> dict[str, str]:
    """Return a page for each paper: what it is, what of it could be read, its verdicts and its notebooks in order."""
    readme = _readme(project)
    found: dict[str, list[Page]] = {}
    for page in made:
        if page.result.notebook.paper:
            found.setdefault(page.result.notebook.paper, []).append(page)
    return {f"papers/{paper}": _paper_page(project, paper, group, readme) for paper, group in found.items()}


def _paper_page(project: Project, paper: str, group: list[Page], readme: str) -> str:
    parts = [f"# {short_name(paper)}"]
    row = next((line for line in readme.splitlines() if line.startswith("|") and f"/{paper}/" in line), "")
    if row:
        citation, read, *_ = (cell.strip() for cell in row.strip("|").split("|"))
        parts.append(f"{citation} {{cite}}`{paper}`. What of it could be read: {read}.")
    for preset in dict.fromkeys(page.result.preset for page in group):
        pages = [page for page in group if page.result.preset == preset]
        claims = [claim for page in pages for claim in page.result.claims]
        if claims:
            parts.append(f"At preset `{preset}`: {headline(claims)}")
        parts += [f"1. [{page.title}](/{page.name}.ipynb). {_sentence(page.answer)}" for page in pages]
        for text in summaries([page.result for page in pages], project).values():
            parts.append(f"## In one page (preset {preset})\n\n{text}")
        parts.append(_toctree(f"Preset {preset}", [page.name for page in pages]))
    return "\n\n".join(parts) + "\n"


def how_to_from_readme(project: Project) -> list[str]:
    """Name the pages that the README has a paragraph for."""
    return [name for name, (_, start) in _HOW_TO.items() if f"\n{start}" in _readme(project)]


def how_to(project: Project, made: list[Page]) -> dict[str, str]:
    """Return the pages that say how to add a notebook, images and a learner; the last two in the README's own words."""
    shown = {"your_notebook": (_HERE / "pages" / "your_notebook.md").read_text(encoding="utf-8")}
    for name in how_to_from_readme(project):
        title, start = _HOW_TO[name]
        paragraph = _readme(project).partition(f"\n{start}")[2]
        paragraph = re.split(r"\n(?=\*[A-Z][\w ]+\* |## )", paragraph, maxsplit=1)[0].strip()
        shown[name] = f"# {title}\n\n{_links_on_site(_sentence(paragraph), [page.name for page in made])}\n"
    return shown


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _readme(project: Project) -> str:
    readme = project.root / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else "# Results\n"


def _opening(readme: str) -> tuple[str, str]:
    title, _, rest = readme.partition("\n")
    return title.lstrip("# "), rest.partition("\n## ")[0]


def _links_on_site(text: str, names: list[str]) -> str:
    """Return the text with its links to results leading to pages; of a link into the checkout only the words stay."""

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        executed = re.fullmatch(r"results/(.+)/[^/]+\.ipynb", target)
        source = re.fullmatch(r"notebooks/(.+)\.py", target)
        figure = re.fullmatch(r"results/(.+)/(figures/[^/]+)", target)
        for name in names:
            if (executed and executed[1] == name) or (source and name.partition("/")[2] == source[1]):
                return f"[{words}](/{name}.ipynb)"
        if mark:
            return f"![{words}](/{figure[1]}/{figure[2]})" if figure and figure[1] in names else ""
        return match[0] if target.startswith("http") else words

    return re.sub(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)]+)\)", link, text)


def _toctree(caption: str, names: list[str]) -> str:
    shown = "\n".join(f"/{name}" for name in names)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{shown}\n```" if names else ""
