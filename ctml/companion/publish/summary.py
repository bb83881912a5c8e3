"""One page a paper in the form of the reproducibility challenge: scope, what held and what did not, easy, hard, cost.

Invariant: what needs judgement is written by hand in `notebooks/<paper>/summary.md`, under the headings of `BY_HAND`;
every verdict, count and minute comes from the results, so that the page cannot say anything else than they do.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BY_HAND = ("Scope", "What was easy", "What was hard")


class SummaryError(ValueError):
    """A summary that lacks a heading, or has one too many."""


def read_words(path: Path) -> dict[str, str]:
    """Return the paragraphs of a `summary.md` by their headings; none where there is no such file.

    Raises:
        SummaryError: when its headings are not those of `BY_HAND`, in that order.
    """
    if not path.is_file():
        return {}
    parts = re.split(r"^## +(.+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))
    if tuple(found) != BY_HAND or not all(found.values()):
        raise SummaryError(f"{path}: has the headings {', '.join(found)}; needs {', '.join(BY_HAND)}, each with a text")
    return found


def summary(words: dict[str, str], claims: Sequence[dict[str, Any]], counts: str, minutes: float) -> str:
    """Return the page as Markdown.

    Args:
        words: what was written by hand.
        claims: verdicts of the paper's notebooks at one preset.
        counts: the sentence that counts them (`report.headline`).
        minutes: of one process, for all of the notebooks.
    """
    stated = [c for c in claims if c["source"] in ("seen", "unverified")]
    own = [c for c in claims if c["source"] not in ("seen", "unverified")]
    waiting = [c for c in stated if c["verdict"] == "not assessed"]
    why = dict.fromkeys(c["reason"] for c in waiting)
    held = f"{sum(c['verdict'] == 'checked' for c in own)} of {len(own)} hold"
    parts = [
        f"**Scope.** {_line(words['Scope'])}",
        f"**Counts.** {counts}",
        _listed("[Re] What the paper states and held", stated, ("reproduced",)),
        _listed("Held in its weaker form", stated, ("same trend",)),
        _listed("[not Re] What the paper states and did not hold", stated, ("not reproduced",)),
        f"**Not assessed.** {len(waiting)} ({'; '.join(why)})." if waiting else "",
        f"**Derived or aimed at here.** {held}." if own else "",
        _listed("Derived or aimed at here, and failed", own, ("failed", "not reproduced")),
        f"**What was easy.** {_line(words['What was easy'])}",
        f"**What was hard.** {_line(words['What was hard'])}",
        f"**Cost.** {minutes:.0f} minutes of one process for all of its notebooks.",
    ]
    return "\n\n".join(filter(None, parts))


def _listed(title: str, claims: Sequence[dict[str, Any]], verdicts: tuple[str, ...]) -> str:
    chosen = [c for c in claims if c["verdict"] in verdicts]
    by_others = {c["id"]: "; said of the paper by others" for c in chosen if c["source"] == "unverified"}
    lines = "\n".join(f"* {c['says']} (`{c['id']}`{by_others.get(c['id'], '')})" for c in chosen)
    return f"**{title}.**\n\n{lines}" if chosen else ""


def _line(text: str) -> str:
    return " ".join(text.split())
