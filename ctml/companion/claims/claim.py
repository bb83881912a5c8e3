"""The papers' claims, written down before the run in `claims.toml`, one file a paper.

Invariant: what is wrong with a file is said when it is read, long before a result exists.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ctml.companion.claims.rules import RuleError, read_rule
from ctml.companion.project import PRESETS, Notebook

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("number", "order", "rate", "identity")
SOURCES = ("seen", "derived", "unverified", "ours")


class ClaimError(ValueError):
    """A claims file, or a use of a claim, that is wrong."""


@dataclass(frozen=True)
class Claim:
    """One statement of a paper and the rule by which samples decide it.

    Attributes:
        id: paper slug and place, as in `comln-t2-r3`.
        says: the statement in one sentence.
        where: table, figure, theorem or equation.
        kind: number, order, rate or identity.
        notebook: the notebook that decides it, by the name of its file.
        accept: rule over named samples that decides for the claim; `value` stands for the paper's number.
        judged_at: quick, long or paper, the smallest preset at which samples may decide.
        source: seen (in the paper), derived (by us from it), unverified (quoted elsewhere), ours (not the paper's).
        trend: weaker rule for "same trend".
        value: the paper's number.
        measure: expression of the number to show beside the claim; otherwise the first sample's mean is shown.
        unit: of what `measure` (or else the samples' mean) shows.
        data: data set without which the claim cannot be decided.
        chosen_after: what had been seen before the rule or a setting behind it was chosen; none for a rule that was
            written before any run.
    """

    id: str
    says: str
    where: str
    kind: str
    notebook: str
    accept: str
    judged_at: str
    source: str
    trend: str | None = None
    value: float | None = None
    measure: str | None = None
    unit: str | None = None
    data: str | None = None
    chosen_after: str | None = None

    @property
    def of_the_paper(self) -> bool:
        """Whether the statement is a paper's; what we derived or set ourselves can be checked, not reproduced."""
        return self.source in ("seen", "unverified")


def read_claims(path: Path) -> list[Claim]:
    """Read and check one `claims.toml`; no file means no claims.

    Raises:
        ClaimError: naming the file, the claim and what is wrong with it.
    """
    if not path.is_file():
        return []
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ClaimError(f"{path} is no valid TOML: {error}") from None
    if set(content) - {"claim"}:
        raise ClaimError(f"{path} holds only [[claim]] tables, not {', '.join(sorted(set(content) - {'claim'}))}.")
    claims = [_read(entry, number, path) for number, entry in enumerate(content.get("claim", []), start=1)]
    ids = [claim.id for claim in claims]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ClaimError(f"{path} has the claim {', '.join(twice)} twice.")
    return claims


def claims_of(notebook: Notebook) -> dict[str, Claim]:
    """Return the claims that a notebook must decide, by id."""
    return {c.id: c for c in read_claims(notebook.source.parent / "claims.toml") if c.notebook == notebook.title}


def _read(entry: Mapping[str, Any], number: int, path: Path) -> Claim:
    name = f"{path}: claim {entry.get('id', f'number {number}')!r}"
    known = {field.name: field for field in fields(Claim)}
    needed = [field.name for field in fields(Claim) if field.default is MISSING]
    if missing := [n for n in needed if n not in entry]:
        raise ClaimError(f"{name} lacks {', '.join(missing)}.")
    if unknown := sorted(set(entry) - set(known)):
        raise ClaimError(f"{name} has the unknown field {', '.join(unknown)}; known: {', '.join(known)}.")
    for field, value in entry.items():
        if field == "value":
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ClaimError(f"{name}: value must be a finite number, not {value!r}.")
        elif not isinstance(value, str) or not value.strip():
            raise ClaimError(f"{name}: {field} must be text, not {value!r}.")
    for field, allowed in (("kind", KINDS), ("source", SOURCES), ("judged_at", PRESETS[1:])):
        if entry[field] not in allowed:
            raise ClaimError(f"{name}: {field} must be one of {', '.join(allowed)}, not {entry[field]!r}.")
    slug = path.parent.name
    if slug != "notebooks" and not entry["id"].startswith((f"{slug}-", f"{slug.replace('_', '-')}-")):
        raise ClaimError(f"{name} must begin with the paper's slug, {slug}-.")
    if not (path.parent / f"{entry['notebook']}.py").is_file():
        raise ClaimError(f"{name} names the notebook {entry['notebook']!r}, which is not in {path.parent}.")
    for field in ("accept", "trend", "measure"):
        if field in entry:
            try:
                _, names = read_rule(entry[field], decides=field != "measure")
            except RuleError as error:
                raise ClaimError(f"{name}: {field}: {error}.") from None
            if "value" in names and "value" not in entry:
                raise ClaimError(f"{name}: {field} uses value, but the claim states none.")
    return Claim(**entry)
