"""The verdicts that samples earn.

Invariant: a verdict is computed from samples by the claim's rule; nobody types one. NaN never reproduces anything.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ctml.companion.claims.claim import Claim, ClaimError
from ctml.companion.claims.rules import RuleError, evaluate

REPRODUCED, SAME_TREND, NOT_REPRODUCED, NOT_ASSESSED = "reproduced", "same trend", "not reproduced", "not assessed"
VERDICTS = (REPRODUCED, SAME_TREND, NOT_REPRODUCED, NOT_ASSESSED)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim in one run."""

    claim: Claim
    verdict: str
    measured: str
    reason: str = ""

    def as_row(self) -> dict[str, Any]:
        """Return the verdict as one flat record, which is what `claims.json` holds."""
        shown = ("id", "says", "where", "kind", "value", "accept", "trend", "judged_at", "source")
        row = {name: value for name, value in asdict(self.claim).items() if name in shown}
        return {**row, "verdict": self.verdict, "measured": self.measured, "reason": self.reason}

    def _repr_markdown_(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return (
            f"**{self.verdict}**{reason}: {self.claim.says} *({self.claim.where}; `{self.claim.id}`)* "
            f"Rule: `{self.claim.accept}`. Measured: {self.measured}."
        )

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.verdict}{reason}: {self.claim.id}, {self.measured}; rule: {self.claim.accept}"


def judge(claim: Claim, samples: Mapping[str, Any], *, unassessed: str = "") -> Verdict:
    """Decide a claim from its samples.

    Args:
        unassessed: why the samples may not decide, if so (preset, data, changed parameters).

    Raises:
        ClaimError: when the rule cannot be applied to these samples.
    """
    arrays = {name: np.asarray(value, float) for name, value in samples.items() if value is not None}
    given = arrays if claim.value is None else {**arrays, "value": claim.value}
    if not arrays or any(sample.size == 0 for sample in arrays.values()):
        return Verdict(claim, NOT_ASSESSED, "nothing", unassessed or "no samples were given")
    broken = [name for name, sample in arrays.items() if np.isnan(sample).any()]
    try:
        reproduced = bool(np.all(evaluate(claim.accept, given)))
        trend = claim.trend is not None and bool(np.all(evaluate(claim.trend, given)))
        measured = _measured(claim, arrays, given)
    except RuleError as error:
        raise ClaimError(f"claim {claim.id!r}: {error}.") from None
    if unassessed:
        return Verdict(claim, NOT_ASSESSED, measured, unassessed)
    if broken:
        return Verdict(claim, NOT_REPRODUCED, measured, f"NaN in {', '.join(broken)}")
    if reproduced:
        return Verdict(claim, REPRODUCED, measured)
    return Verdict(claim, SAME_TREND if trend else NOT_REPRODUCED, measured)


def _measured(claim: Claim, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> str:
    if claim.measure is not None:
        return f"{float(np.mean(evaluate(claim.measure, given))):.4g}"
    parts = []
    for name, sample in arrays.items():
        if sample.size == 1:
            parts.append(f"{name} {sample.item():.4g}")
        else:
            parts.append(f"{name} {sample.mean():.4g} [{sample.min():.4g}, {sample.max():.4g}] n={sample.size}")
    return "; ".join(parts)
