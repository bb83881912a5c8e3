"""What the papers claim and what became of it: a claim is read from a file, a rule decides, the verdict is shown."""

from ctml.companion.claims.claim import Claim, ClaimError, claims_of, read_claims
from ctml.companion.claims.rules import RuleError, evaluate, read_rule
from ctml.companion.claims.verdict import VERDICTS, Verdict, judge

__all__ = [
    "VERDICTS",
    "Claim",
    "ClaimError",
    "RuleError",
    "Verdict",
    "claims_of",
    "evaluate",
    "judge",
    "read_claims",
    "read_rule",
]
