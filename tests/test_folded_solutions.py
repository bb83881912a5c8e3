"""The solutions of exercises, folded away in the notebooks' text: each is a program that asserts its answer."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.py"))
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)


def solutions() -> list:
    """Return the programs of all folded solutions, named by notebook and place."""
    found = []
    for path in NOTEBOOKS:
        text = re.sub(r"^# ?", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        programs = [code for folded in FOLDED.findall(text) for code in PROGRAM.findall(folded)]
        name = path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()
        found += [pytest.param(code, id=f"{name}-{i}") for i, code in enumerate(programs, 1)]
    return found


@pytest.mark.parametrize("code", solutions())
def test_a_solution_runs_and_asserts_what_it_says(code: str) -> None:
    assert re.search(r"^ *assert ", code, re.MULTILINE), "a solution ends with what it shows, as an assertion"
    exec(compile(code, "solution", "exec"), {"__name__": "solution"})
