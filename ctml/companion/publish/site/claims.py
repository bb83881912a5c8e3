"""The page of claims: one table that a reader sorts and filters, each row leading to the cell that decided it."""

import html

from ctml.companion.claims import VERDICTS
from ctml.companion.publish.report import headline
from ctml.companion.publish.site.notebooks import Page
from ctml.companion.publish.site.typeset import typeset

SOURCES = {
    "seen": "the paper",
    "unverified": "others, of the paper",
    "derived": "derived here",
    "ours": "our own aim",
}
_KINDS = {"reproduced": "good", "checked": "good", "same trend": "fair", "not reproduced": "bad", "failed": "bad"}


def claims_page(made: list[Page]) -> str:
    """Return the page as Markdown around one table of HTML."""
    rows = [(page, claim) for page in made for claim in page.result.claims]
    if not rows:
        return "# Claims\n\nNo claims yet: run `make reproduce`."
    papers = dict.fromkeys(_paper(page) for page, _ in rows)
    presets = dict.fromkeys(page.result.preset for page in made)
    counts = "\n\n".join(
        f"Preset `{preset}`: {headline([c for page, c in rows if page.result.preset == preset])}" for preset in presets
    )
    filters = "".join(
        (
            _choice("paper", list(papers)),
            _choice("stated by", [words for key, words in SOURCES.items() if any(c["source"] == key for _, c in rows)]),
            _choice("verdict", [verdict for verdict in VERDICTS if any(c["verdict"] == verdict for _, c in rows)]),
            '<label>contains <input type="search" data-search></label><output data-count></output>',
        )
    )
    heads = ("paper", "statement", "stated by", "measured here", "verdict")
    head = "".join(f'<th scope="col" aria-sort="none"><button type="button">{name}</button></th>' for name in heads)
    body = "\n".join(_row(page, claim) for page, claim in rows)
    return (
        "# Claims\n\nEvery claim has a rule, written before the run, and a verdict computed from the numbers. A row "
        "leads to the notebook cell that decided it; the rule stands there and under the statement.\n\n"
        f"{counts}\n\n```{{raw}} html\n"
        f'<div class="claims"><form class="filters">{filters}</form><div class="scroll" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></div>\n```\n"
    )


def _row(page: Page, claim: dict[str, str]) -> str:
    anchor = f"#{claim['id']}" if claim["id"] in page.anchors else ""
    link = f'<a href="{page.name}.html{anchor}">{typeset(claim["says"])}</a>'
    rule = (
        f"<details><summary>{html.escape(claim['id'])}</summary><code>{html.escape(claim['accept'])}</code></details>"
    )
    where = "" if claim["source"] == "ours" else f"<small>{html.escape(claim['where'])}</small>"
    remarks = [claim["reason"], f"rule chosen after {claim['chosen_after']}" if claim.get("chosen_after") else ""]
    reason = "; ".join(filter(None, remarks))
    kind = _KINDS.get(claim["verdict"], "open")
    cells = (
        f"<td>{html.escape(_paper(page))}</td>",
        f"<td>{link}{rule}</td>",
        f'<td data-value="{SOURCES[claim["source"]]}">{SOURCES[claim["source"]]} {where}</td>',
        f"<td>{html.escape(claim['measured'])}</td>",
        f'<td data-value="{claim["verdict"]}"><strong class="verdict {kind}">{claim["verdict"]}</strong> '
        f"<small>{html.escape(reason)}</small></td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _paper(page: Page) -> str:
    return page.result.notebook.paper or page.result.notebook.name


def _choice(name: str, values: list[str]) -> str:
    options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
    return f'<label>{name} <select data-column="{name}"><option value="">all</option>{options}</select></label>'
