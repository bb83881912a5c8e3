"""A small checkout in a temporary folder, one notebook that has everything, and the real command line to run it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2]

NOTEBOOK = """\
# %% [markdown]
# # A line

# %%
from dataclasses import asdict, dataclass

import matplotlib.pyplot as plt
import pandas as pd
from lines import draw

from ctml.companion import Study, choose, style

# %% tags=["parameters"]
PRESET = "quick"
runs: int | None = None  # >= 1: how many errors are drawn
noise = 0.1


# %%
@dataclass(frozen=True)
class Config:
    runs: int
    noise: float = 0.1


PRESETS = {"smoke": Config(2), "quick": Config(4), "long": Config(6), "paper": Config(8)}
config = choose(PRESETS, PRESET, runs=runs, noise=noise)
study = Study("demo", "01_line", PRESET, asdict(config))
config


# %%
def fit(seed):
    return {"seed": seed, "error": draw(seed) * config.noise}


rows = pd.DataFrame(study.map(fit, [{"seed": s} for s in range(config.runs)]))
study.table(rows, "metrics")

# %%
figure, axes = plt.subplots()
axes.plot(rows.seed, rows.error, **style.method("maml").line())
study.figure(figure, "errors", "Error over seeds.", where="Figure 1")

# %%
study.claim("demo-f1", error=rows.error)

# %%
study.close()
"""

CLAIMS = """\
[[claim]]
id = "demo-f1"
says = "the error is small"
where = "Figure 1"
kind = "number"
notebook = "01_line"
value = 0.1
accept = "max(error) <= value"
judged_at = "quick"
source = "ours"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a checkout with one notebook, its claims, and a package `lines` that the notebook reaches."""
    folder = tmp_path / "notebooks" / "demo"
    folder.mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    (folder / "01_line.py").write_text(NOTEBOOK)
    (folder / "claims.toml").write_text(CLAIMS)
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "__init__.py").write_text("from lines.drawing import draw\nfrom lines.other import unused\n")
    (tmp_path / "lines" / "drawing.py").write_text("def draw(seed):\n    return 1 / (seed + 2)\n")
    (tmp_path / "lines" / "other.py").write_text("unused = 1\n")
    return tmp_path


@pytest.fixture
def environment(root: Path) -> dict[str, str]:
    """Return the environment for a process that works in the small checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CTML_")}
    return {**kept, "PYTHONPATH": f"{root}:{PACKAGE}", "CTML_WORKERS": "1", "CTML_DATA": str(root / "data")}


@pytest.fixture
def ctml(root: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command line in the small checkout."""

    def call(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ctml.companion", *arguments]
        return subprocess.run(
            command, cwd=root, env={**environment, **extra}, capture_output=True, text=True, timeout=240, check=False
        )

    return call
