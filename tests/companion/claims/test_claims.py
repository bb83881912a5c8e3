"""Rules read, calculate and refuse as they should; verdicts follow from samples alone."""

import contextlib
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from ctml.companion.claims import Claim, ClaimError, judge, read_claims
from ctml.companion.claims.rules import RuleError, evaluate, read_rule
from ctml.companion.parameters import Parameter, check_settings, parse_settings
from ctml.companion.project import Refusal

CLAIM = Claim(
    "demo-a", "small", "Eq. 1", "number", "n", "max(error) <= value", "quick", "seen", "median(error) <= value", 0.1
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("max(a) <= 3", True),
        ("0 < min(a) < max(a) <= 3", True),
        ("all(a < b)", True),
        ("any(a >= b)", False),
        ("not any(a >= b) and len(a) == 3", True),
        ("min(a) > 5 or median(a) == 2", True),
        ("abs(mean(a) - 2.0) <= 1e-12", True),
        ("-1 <= slope(log2(a), log2(a * a)) - 2 + 1e-9 <= 1", True),
        ("overlaps(1, 2, 2, 3)", True),
        ("overlaps(1, 2, 2.1, 3)", False),
        ("last(a) / first(a) == 3 and sum(diff(a)) == 2", True),
    ],
)
def test_rules_calculate(rule: str, expected: bool) -> None:
    assert bool(np.all(evaluate(rule, {"a": np.array([1.0, 2, 3]), "b": np.array([2.0, 3, 4])}))) is expected


def test_slope_finds_the_order_of_a_method() -> None:
    steps = np.array([0.1, 0.05, 0.025])
    assert evaluate("slope(log(h), log(e))", {"h": steps, "e": 7 * steps**4}) == pytest.approx(4)


def test_the_interval_is_students() -> None:
    sample = np.array([0.97, 0.99, 0.98, 0.95])
    low, high = stats.t.interval(0.95, 3, loc=sample.mean(), scale=stats.sem(sample))
    assert evaluate("ci_low(x)", {"x": sample}) == pytest.approx(low)
    assert evaluate("ci_high(x)", {"x": sample}) == pytest.approx(high)


@pytest.mark.parametrize(
    "rule",
    ["__import__('os')", "a.b", "a[0]", "open(a)", "lambda: 1", "[x for x in a]", "'text'", "a @ b", "max(a, axis=0)",
     "a if b else c", "(a := 1)", "a <", "a is b", "max.real", "f(a)(b)", ""],
)  # fmt: skip
def test_a_rule_can_do_nothing_else(rule: str) -> None:
    with pytest.raises(RuleError):
        read_rule(rule)


def test_a_missing_sample_is_named() -> None:
    with pytest.raises(RuleError, match="needs the sample error; given: errors"):
        evaluate("max(error) < 1", {"errors": [1.0]})


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ([0.01, 0.1], "reproduced"),
        ([0.01, 0.02, 0.5], "same trend"),
        ([0.5, 0.6], "not reproduced"),
        ([], "not assessed"),
        (None, "not assessed"),
        (0.05, "reproduced"),
        (torch.tensor([0.05]), "reproduced"),
        ([math.nan], "not reproduced"),
        ([0.01, math.nan, 0.02], "not reproduced"),
        ([math.inf], "not reproduced"),
    ],
)
def test_verdicts_follow_from_samples(error: Any, verdict: str) -> None:
    assert judge(CLAIM, {"error": error}).verdict == verdict


@pytest.mark.parametrize("source", ["derived", "ours"])
@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        ([0.01, 0.1], "checked", ""),
        ([0.01, 0.02, 0.5], "failed", "the weaker rule holds"),
        ([0.5, 0.6], "failed", ""),
        ([0.01, math.nan], "failed", "NaN in error"),
        ([], "not assessed", "no samples were given"),
    ],
)
def test_what_is_not_the_papers_is_checked_and_never_reproduced(source, error, verdict, reason) -> None:
    found = judge(replace(CLAIM, source=source), {"error": error})
    assert (found.verdict, found.reason) == (verdict, reason)


def test_the_measured_value_is_the_mean_with_its_interval_and_unit() -> None:
    sample = np.array([0.97, 0.99, 0.98, 0.95])
    half = stats.t.ppf(0.975, 3) * stats.sem(sample)
    claim = replace(CLAIM, unit="points")
    assert judge(claim, {"error": sample}).measured == f"error {sample.mean():.4g} ± {half:.2g} (mean of 4, 95%) points"
    assert judge(replace(claim, measure="max(error)"), {"error": sample}).measured == "0.99 points"
    assert judge(replace(CLAIM, measure="2 * error"), {"error": sample}).measured.startswith(
        f"{2 * sample.mean():.4g} ±"
    )


def test_equivalence_is_harder_to_pass_the_noisier_the_samples_are() -> None:
    quiet, noisy = np.array([0.1, -0.2, 0.05, 0.0, 0.1]), 20 * np.array([0.1, -0.2, 0.05, 0.0, 0.1])
    below, above = (stats.ttest_1samp(quiet, m, alternative=a).pvalue for m, a in ((-1, "greater"), (1, "less")))
    assert max(below, above) < 0.05 and evaluate("equivalent(x, 1)", {"x": quiet})
    below, above = (stats.ttest_1samp(noisy, m, alternative=a).pvalue for m, a in ((-1, "greater"), (1, "less")))
    assert max(below, above) > 0.05 and not evaluate("equivalent(x, 1)", {"x": noisy})


def test_nan_does_not_slip_through_a_rule_that_is_true_of_it() -> None:
    claim = Claim("demo-a", "s", "w", "rate", "n", "not any(error > 1)", "quick", "seen")
    found = judge(claim, {"error": [math.nan]})
    assert (found.verdict, found.reason) == ("not reproduced", "NaN in error")


def test_a_reason_not_to_assess_keeps_the_measurement() -> None:
    found = judge(CLAIM, {"error": [0.01]}, unassessed="judged only at preset paper")
    assert (found.verdict, found.reason, found.measured) == (
        "not assessed",
        "judged only at preset paper",
        "error 0.01",
    )


@pytest.mark.parametrize(
    ("accept", "sample"),
    [
        ("all(diff(error) > 0)", [1.0]),
        ("not any(diff(error) > 0)", [1.0]),
        ("all(diff(diff(error)) > 0) or mean(error) > 0", [1.0, 2.0]),
        ("ci_low(error) > 0", [1.0]),
        ("equivalent(error, 1)", 0.0),
        ("abs(slope(error, error) - 1) < 1", [1.0]),
        ("max(error) > 0", []),
        ("max(error) > 0", np.empty((3, 0))),
    ],
)
def test_nothing_is_decided_where_there_is_too_little(accept: str, sample: Any) -> None:
    claim = Claim("demo-a", "s", "w", "rate", "n", accept, "quick", "seen")
    assert judge(claim, {"error": sample}).verdict == "not assessed"
    assert judge(replace(claim, source="ours"), {"error": sample}).verdict == "not assessed"


@pytest.mark.parametrize(
    "rule", ["1 < 2", "True", "mean(error)", "any(error)", "0.1", "not mean(error)", "a and b > 1"]
)
def test_a_rule_that_decides_nothing_is_refused(rule: str) -> None:
    with pytest.raises(RuleError, match=r"says neither yes nor no|decides without a sample"):
        read_rule(rule, decides=True)


def test_a_rule_leaves_the_samples_as_they_are() -> None:
    sample = np.array([-1.0, 2.0])
    with pytest.raises(RuleError, match="abs takes 1 samples, not 2"):
        evaluate("max(abs(error, error)) > 0", {"error": sample})  # numpy would write into the second
    assert sample.tolist() == [-1, 2]


# Pieces that a hostile rule or setting is made of; the first would leave a file if anything were executed.
PIECES = (
    "__import__('pathlib').Path('{trap}').touch()", "open('{trap}','w')", "exec('open(\"{trap}\",\"w\")')", "eval",
    "(", ")", "[", "]", "{", "}", "{[]:1}", "{{}}", "lambda: 1", "f'{1}'", "a", "error", "value", "mean(",
    "ci_low(error, 2)", "max(error, 0, error)", "diff(error)", "**", "9**9**9**9**9", "1e400", "10" * 400, "-" * 300,
    "not " * 100, "((" * 120, "0 < ", " == ", " and ", " or ", "+", "/ 0", "@", ":=", "if", "else", "'", '"', "\\",
    "\x00", "\n", "é", "\u202e", "=", ".__class__", ".__globals__", "[0]", "None", "True", "...", "0x", "1_0", "1j",
    "b'x'", "#", ",", " ", "=1 b=", "-" * 3000, "yield",
)  # fmt: skip


def hostile(trap: Path, n: int = 1000) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 7))).replace("{trap}", str(trap)) for _ in range(n)]


def test_a_thousand_hostile_rules_calculate_or_are_refused(tmp_path: Path) -> None:
    trap, sample = tmp_path / "executed", np.array([0.1, 0.2, 0.3])
    samples = {"error": sample, "a": np.array(1.0), "value": 0.1}
    ends = Counter()
    for text in hostile(trap):
        for whole in (text, f"mean(error) < {text}"):
            try:
                evaluate(whole, samples)
                ends["calculated"] += 1
            except RuleError:
                ends["refused"] += 1
    assert not trap.exists()
    assert sample.tolist() == [0.1, 0.2, 0.3]
    assert ends["calculated"] >= 10 and ends["refused"] >= 1000 and sum(ends.values()) == 2000


def test_a_thousand_hostile_settings_are_values_or_refused(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    ends = Counter()
    for text in hostile(trap):
        for whole in (text, f"rate={text}", f"name={text} rate=1"):
            try:
                settings = parse_settings(whole)
                ends["read"] += 1
            except Refusal:
                ends["refused"] += 1
                continue
            for value in settings.values():
                assert type(value).__module__ == "builtins" and not callable(value)
            known = {"rate": Parameter("rate", 0.1, (float,)), "name": Parameter("name", "a", (str,))}
            with contextlib.suppress(Refusal):
                check_settings(settings, known, "demo")
    assert not trap.exists()
    assert ends["read"] >= 100 and ends["refused"] >= 100 and sum(ends.values()) == 3000


def test_samples_of_the_wrong_size_are_an_error_of_the_notebook() -> None:
    claim = Claim("demo-a", "s", "w", "rate", "n", "all(a < b)", "quick", "seen")
    with pytest.raises(ClaimError, match=r"demo-a.*cannot be calculated"):
        judge(claim, {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]})


def write(root: Path, *changes: tuple[str, str]) -> Path:
    path = root / "notebooks" / "demo" / "claims.toml"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_a_right_file_is_read(root: Path) -> None:
    (claim,) = read_claims(write(root))
    assert (claim.id, claim.value, claim.accept) == ("demo-f1", 0.1, "max(error) <= value")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('where = "Figure 1"\n', "", "lacks where"),
        ('where = "Figure 1"', 'where = "Figure 1"\ncolour = "red"', "unknown field colour"),
        ('kind = "number"', 'kind = "big"', "kind must be one of number, order, rate, identity, not 'big'"),
        ('judged_at = "quick"', 'judged_at = "smoke"', "judged_at must be one of quick, long, paper"),
        ('source = "ours"', 'source = "memory"', "source must be one of"),
        ('id = "demo-f1"', 'id = "f1"', "must begin with the paper's slug, demo-"),
        ('notebook = "01_line"', 'notebook = "02_line"', "names the notebook '02_line', which is not in"),
        ("value = 0.1", "value = nan", "finite number"),
        ("value = 0.1\n", "", "uses value, but the claim states none"),
        ("max(error) <= value", "exec(error)", "knows no function 'exec'"),
        ('accept = "max(error) <= value"', "accept = 3", "accept must be text"),
        ("[[claim]]", "[[claims]]", r"holds only \[\[claim\]\] tables, not claims"),
        ('says = "the error', "says = the error", "no valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(old: str, new: str, message: str, root: Path) -> None:
    with pytest.raises(ClaimError, match=message):
        read_claims(write(root, (old, new)))


def test_an_id_may_occur_once(root: Path) -> None:
    path = write(root)
    path.write_text(path.read_text() * 2)
    with pytest.raises(ClaimError, match="has the claim demo-f1 twice"):
        read_claims(path)
