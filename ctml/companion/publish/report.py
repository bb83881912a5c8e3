"""The tables that readers see: `results/README.md`, and the parts of the README between markers.

Invariant: both are functions of the files in `results/`, so a test can tell whether they are up to date.
"""

import csv
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctml.companion.claims import VERDICTS
from ctml.companion.files import write_atomically
from ctml.companion.project import PRESETS, Notebook, Project, Refusal
from ctml.companion.publish.codecheck import codecheck
from ctml.companion.publish.summary import read_words, summary

_PUBLISHED = PRESETS[1:]


@dataclass(frozen=True)
class Published:
    """The results of one notebook at one preset, as they lie in `results/`."""

    notebook: Notebook
    preset: str
    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """Return how the results came about."""
        return _read(self.folder / "manifest.json")

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Return the verdicts."""
        return _read(self.folder / "claims.json")


def published(project: Project, preset: str) -> list[Published]:
    """List the published results of a preset in reading order."""
    found = [Published(n, preset, project.results / preset / n.name) for n in project.notebooks()]
    return [p for p in found if (p.folder / "manifest.json").is_file() and (p.folder / "claims.json").is_file()]


def results_page(project: Project) -> str:
    """Return the text of `results/README.md`."""
    parts = [
        "# Results",
        "Written by `python -m ctml.companion claims` from the files in this folder; do not edit. "
        "Each folder holds the figures, the tables as csv, the verdicts (`claims.json`), the executed notebook, and "
        "`manifest.json`: code, versions, machine, parameters, data and the hash of every file.",
    ]
    for preset in _PUBLISHED:
        results = published(project, preset)
        parts.append(f"## Preset `{preset}`")
        if not results:
            parts.append(f"Nothing yet: `make reproduce PRESET={preset}`.")
            continue
        parts += ["### Claims", claims_table(results), "### Figures and tables", _files_table(results, project)]
        parts += ["### Cost", cost_table(results)]
    return "\n\n".join(parts) + "\n"


def claims_table(results: list[Published]) -> str:
    """Return the verdicts as a Markdown table."""
    rows = [
        [f"`{c['id']}`", c["says"], _origin(c), c["measured"], f"`{c['accept']}`", _verdict(c)]
        for result in results
        for c in result.claims
    ]
    if not rows:
        return "No claims yet."
    return _table(["claim", "statement", "stated by", "measured here", "rule", "verdict"], rows)


def claims_overview(results: list[Published]) -> str:
    """Return whose claims have which verdict, paper by paper, and the claims themselves folded away below it."""
    papers = _by_paper(results)
    if not papers:
        return "No claims yet."
    parts = [headline([claim for claims in papers.values() for claim in claims]), counts_table(results)]
    for paper, claims in papers.items():
        rows = [[f"`{c['id']}`", c["says"], _origin(c), c["measured"], _verdict(c)] for c in claims]
        table = _table(["claim", "statement", "stated by", "measured here", "verdict"], rows)
        parts.append(f"<details><summary>{paper}: {len(claims)} claims</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


def counts_table(results: list[Published]) -> str:
    """Return how many claims of each paper have which verdict as a Markdown table."""
    papers = _by_paper(results)
    counts = [_counts(f"`{paper}`", claims) for paper, claims in papers.items()]
    every = [claim for claims in papers.values() for claim in claims]
    return _table(["", *VERDICTS], [*counts, _counts("**all**", every)])


def _by_paper(results: list[Published]) -> dict[str, list[dict[str, Any]]]:
    papers: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        papers.setdefault(result.notebook.paper or result.notebook.name, []).extend(result.claims)
    return {paper: claims for paper, claims in papers.items() if claims}


def _counts(name: str, claims: list[dict[str, Any]]) -> list[str]:
    return [name, *(str(sum(c["verdict"] == verdict for c in claims)) for verdict in VERDICTS)]


def headline(claims: list[dict[str, Any]]) -> str:
    """Say whose statements were judged and how: what a paper states apart from what was derived or aimed at here."""

    def of(words: str, *sources: str) -> str:
        chosen = [c for c in claims if c["source"] in sources]
        kinds = [(v, sum(c["verdict"] == v for c in chosen)) for v in VERDICTS]
        words = words if len(chosen) != 1 else words.replace("are ", "is ", 1).replace("aims", "an aim")
        return f"{len(chosen)} {words} ({', '.join(f'{n} {verdict}' for verdict, n in kinds if n)})"

    groups = (
        ("are stated by the papers", "seen"),
        ("are said of the papers by others", "unverified"),
        ("are derived here from what the papers define", "derived"),
        ("are aims of our own", "ours"),
    )
    present = {c["source"] for c in claims}
    said = "; ".join(of(words, source) for words, source in groups if source in present)
    return f"Of {len(claims)} claim{'s' * (len(claims) != 1)}, {said}."


def cost_table(results: list[Published]) -> str:
    """Return what each notebook cost as a Markdown table.

    A run that came from the cache counts with its own time; a notebook without runs, or with little in them, with the
    time from its first cell to its last.
    """
    rows, total = [], 0.0
    for result in results:
        total += _seconds(result)
        runs = str(result.manifest["runs"])
        rows.append([result.notebook.name, runs, _minutes(_seconds(result)), _machine(result)])
    rows.append(["together", "", _minutes(total), ""])
    return _table(["notebook", "runs", "minutes of one process", "machine"], rows)


def cost_of_presets(project: Project, presets: Mapping[str, list[Published]]) -> str:
    """Return the minutes of each notebook at every preset as one Markdown table, with a dash where it was not run."""
    seconds = {p: {r.notebook.name: _seconds(r) for r in results} for p, results in presets.items()}
    shown = [n.name for n in project.notebooks() if any(n.name in of for of in seconds.values())]
    rows = [[name, *(_minutes(of[name]) if name in of else "-" for of in seconds.values())] for name in shown]
    rows.append(["together", *(_minutes(sum(of.values())) if of else "-" for of in seconds.values())])
    machines = sorted({_machine(result) for results in presets.values() for result in results})
    table = _table(["minutes of one process", *(f"`{preset}`" for preset in presets)], rows)
    return f"{table}\n\nMachine: {'; '.join(machines)}."


def _claims_at(preset: str, results: list[Published]) -> str:
    if not results:
        return f"Preset `{preset}`: nothing yet (`make reproduce PRESET={preset}`)."
    return f"Preset `{preset}`:\n\n{claims_overview(results)}"


def _seconds(result: Published) -> float:
    return max(result.manifest["run_seconds"], result.manifest["seconds"])


def _machine(result: Published) -> str:
    machine = result.manifest["hardware"]
    return "; ".join(machine.get("gpus") or [f"{machine['processor']}, {machine['cores']} cores"])


def summaries(results: list[Published], project: Project) -> dict[str, str]:
    """Return one page for each paper that has words by hand (`notebooks/<paper>/summary.md`), as Markdown.

    Raises:
        SummaryError: when such words lack a heading.
    """
    made = {}
    for paper, claims in _by_paper(results).items():
        words = read_words(project.root / "notebooks" / paper / "summary.md")
        if words:
            own = [result for result in results if result.notebook.paper == paper]
            made[paper] = summary(words, claims, headline(claims), sum(_seconds(result) for result in own) / 60)
    return made


def folded_summaries(results: list[Published], project: Project) -> str:
    """Return the pages of all papers as Markdown, each folded away below its name."""
    pages = summaries(results, project)
    folded = (f"<details><summary>{paper}: one page</summary>\n\n{text}\n\n</details>" for paper, text in pages.items())
    return "\n\n".join(folded) or "No summaries yet."


def update(project: Project, keep: Collection[str] = ()) -> list[str]:
    """Write the pages that are not up to date, but for those to keep as they are, and name them."""
    pages = _pages(project)
    written = [name for name in outdated(project) if name not in keep]
    for name in written:
        write_atomically(project.root / name, pages[name].encode())
    return written


def outdated(project: Project) -> list[str]:
    """Name the pages that differ from what the results say."""
    return [name for name, text in _pages(project).items() if _text(project.root / name) != text]


def _pages(project: Project) -> dict[str, str]:
    everything = [result for preset in _PUBLISHED for result in published(project, preset)]
    pages = {"results/README.md": results_page(project), "codecheck.yml": codecheck(everything, project.root)}
    return pages | ({"README.md": readme_page(project)} if (project.root / "README.md").is_file() else {})


def readme_page(project: Project) -> str:
    """Return the README with what stands between its markers (`<!-- claims:begin -->` and so on) renewed."""
    text = _text(project.root / "README.md")
    presets = {preset: published(project, preset) for preset in _PUBLISHED}
    claims = cost = pages = "No results yet: `make reproduce`."
    if any(presets.values()):
        claims = "\n\n".join(_claims_at(preset, results) for preset, results in presets.items())
        cost = cost_of_presets(project, presets)
        folded = {preset: folded_summaries(results, project) for preset, results in presets.items() if results}
        pages = "\n\n".join(f"Preset `{preset}`:\n\n{text}" for preset, text in folded.items())
    for name, content in (("claims", claims), ("cost", cost), ("summaries", pages)):
        text = _between_markers(text, name, content)
    return _between_markers(text, "benchmark", benchmark_table(project))


def benchmark_table(project: Project) -> str:
    """Return what `make benchmark` measured as a Markdown table, the method's own row first."""
    path = project.results / "benchmark" / "meta_step.csv"
    if not path.is_file():
        return "Not measured yet: `make benchmark`."
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            [row["method"].upper(), row["contender"], row["wall_s"], row["ratio_to_ctml"], row["peak_gib"]]
            for row in csv.DictReader(file)
        ]
    return _table(["meta-step of", "by", "seconds", "times ctml's", "peak memory (GiB)"], rows)


def _between_markers(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)


def _files_table(results: list[Published], project: Project) -> str:
    rows = []
    for result in results:
        base = result.folder.relative_to(project.results).as_posix()
        notebook = f"[{result.notebook.name}]({base}/{result.notebook.title}.ipynb)"
        for figure in result.manifest["figures"]:
            link = f"[{figure['name']}]({base}/figures/{figure['name']}.svg)"
            rows.append([figure["where"] or "ours", link, figure["caption"], notebook])
        for name in result.manifest["outputs"]:
            if name.endswith(".csv"):
                rows.append(["table", f"[{name}]({base}/{name})", "", notebook])
    return _table(["of the paper", "file", "what it shows", "notebook"], rows)


def _origin(claim: dict[str, Any]) -> str:
    """Say whose statement it is: a reader must not take our derivations for the paper's words."""
    return {
        "seen": f"the paper, {claim['where']}",
        "derived": f"derived here: {claim['where']}",
        "unverified": f"said of the paper, not checked: {claim['where']}",
        "ours": "us",
    }[claim["source"]]


def _verdict(claim: dict[str, Any]) -> str:
    seen = f"rule chosen after {claim['chosen_after']}" if claim.get("chosen_after") else ""
    remarks = "; ".join(filter(None, (claim["reason"], seen)))
    return f"**{claim['verdict']}**" + (f" ({remarks})" if remarks else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise Refusal(f"{path} is damaged: bring it back (git checkout), or run its notebook again.") from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
