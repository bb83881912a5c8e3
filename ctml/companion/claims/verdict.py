"""The verdicts that samples earn.

Invariant: a verdict is computed from samples by the claim's rule; nobody types one. NaN never decides for a claim, and
where there are no values, or too few for the rule, nothing is decided.

    a paper's statement    reproduced, same trend, not reproduced
    ours or derived here   checked, failed                             (a derivation has no paper's run to reproduce)
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ctml.companion.claims.claim import Claim, ClaimError
from ctml.companion.claims.rules import RuleError, TooFew, evaluate
from ctml.statistics import interval

REPRODUCED, SAME_TREND, NOT_REPRODUCED, NOT_ASSESSED = "reproduced", "same trend", "not reproduced", "not assessed"
CHECKED, FAILED = "checked", "failed"
VERDICTS = (REPRODUCED, SAME_TREND, NOT_REPRODUCED, CHECKED, FAILED, NOT_ASSESSED)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim in one run."""

    claim: Claim
    verdict: str
    measured: str
    reason: str = ""

    def as_row(self) -> dict[str, Any]:
        """Return the verdict as one flat record, which is what `claims.json` holds."""
        shown = ("id", "says", "where", "kind", "value", "accept", "trend", "judged_at", "source", "chosen_after")
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
        accepted = bool(np.all(evaluate(claim.accept, given)))
        trend = claim.trend is not None and bool(np.all(evaluate(claim.trend, given)))
        measured = _measured(claim, arrays, given)
    except TooFew as error:
        return Verdict(claim, NOT_ASSESSED, "too few values", unassessed or str(error))
    except RuleError as error:
        raise ClaimError(f"claim {claim.id!r}: {error}.") from None
    if unassessed:
        return Verdict(claim, NOT_ASSESSED, measured, unassessed)
    reason = f"NaN in {', '.join(broken)}" if broken else ""
    if not claim.of_the_paper:
        weaker = "the weaker rule holds" if trend and not accepted else ""
        return Verdict(claim, CHECKED if accepted and not broken else FAILED, measured, reason or weaker)
    if broken:
        return Verdict(claim, NOT_REPRODUCED, measured, reason)
    if accepted:
        return Verdict(claim, REPRODUCED, measured)
    return Verdict(claim, SAME_TREND if trend else NOT_REPRODUCED, measured)


def _measured(claim: Claim, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> str:
    unit = f" {claim.unit}" if claim.unit else ""
    if claim.measure is not None:
        return _mean(np.asarray(evaluate(claim.measure, given), float)) + unit
    return "; ".join(f"{name} {_mean(sample)}{unit}" for name, sample in arrays.items())


def _mean(sample: np.ndarray) -> str:
    """Return a number, or the mean of several with its 95% interval, in words that stand alone in a table."""
    if sample.size == 1:
        return f"{sample.item():.4g}"
    found = interval(torch.tensor(sample))
    return f"{found.mean:.4g} ± {found.half_width:.2g} (mean of {found.n}, 95%)"
