"""Every variant that a notebook proposes is run: its SET at smoke, and its replacements of code in a copy.

Only the notebooks named below; their sections "Variants to try" say a variant as `SET="name=value"`, or as: Replace
`old` by `new`. What is a matter of length alone (steps, seeds) is run short.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ctml.companion.parameters import parse_settings

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.py" for name in ("maml_ode/01_flow", "maml_ode/02_strongly_convex")]
LONG = ("steps", "seeds")


def proposed(path: Path) -> str:
    """Return the section of variants as running text."""
    text = re.sub(r"^# ?", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = re.search(r"#* *(?:\d+ )?Variants to try\n(.*?)(?=\n## |\n%%|\Z)", text, flags=re.DOTALL)
    assert found, f"{path} proposes no variants"
    return " ".join(found[1].split())


def settings() -> list:
    found = []
    for path in NOTEBOOKS:
        for text in re.findall(r'SET="([^"]+)"', proposed(path)):
            short = {k: 20 if k.endswith(LONG[0]) else v for k, v in parse_settings(text).items()}
            words = [f"{k}={v}".replace(" ", "") for k, v in short.items()]
            found.append(pytest.param(path, words, id=f"{path.stem}-{text}"))
    return found


def replacements() -> list:
    found = []
    for path in NOTEBOOKS:
        for old, new in re.findall(r"[Rr]eplace `([^`]+)` by `([^`]+)`", proposed(path)):
            found.append(pytest.param(path, old, new, id=f"{path.stem}-{new}"))
    return found


def run_at_smoke(root: Path, name: str, *settings: str) -> None:
    command = [sys.executable, "-m", "ctml.companion", "smoke", "--nb", name]
    environment = {**os.environ, "CTML_WORKERS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    given = ["--set", *settings] if settings else []
    done = subprocess.run(
        command + given, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("path, words", settings())
def test_a_setting_that_is_proposed_runs(path: Path, words: list[str]) -> None:
    run_at_smoke(ROOT, f"{path.parent.name}/{path.stem}", *words)


@pytest.mark.parametrize("path, old, new", replacements())
def test_a_replacement_that_is_proposed_runs(path: Path, old: str, new: str, tmp_path: Path) -> None:
    """A copy of the project, linked but for the one notebook, in which the proposal is carried out."""
    for part in ("ctml", "pyproject.toml", "jupytext.toml"):
        (tmp_path / part).symlink_to(ROOT / part)
    folder = tmp_path / "notebooks" / path.parent.name
    folder.mkdir(parents=True)
    (folder / "claims.toml").symlink_to(path.parent / "claims.toml")
    for other in path.parent.glob("*.py"):  # the claims name them
        if other != path:
            (folder / other.name).symlink_to(other)
    code, proposals = re.split(r"(?=# ## (?:\d+ )?Variants to try)", path.read_text(encoding="utf-8"))
    assert code.count(old) == 1, f"{old!r} stands {code.count(old)} times in {path.name}: name what stands there once"
    (folder / path.name).write_text(code.replace(old, new) + proposals, encoding="utf-8")
    run_at_smoke(tmp_path, f"{path.parent.name}/{path.stem}")


def test_there_is_something_to_run() -> None:
    assert len(settings()) >= len(NOTEBOOKS) and len(replacements()) >= 1
