"""The wheel: it builds, installs where nothing of this checkout is, and the README's Python runs on it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
USE = """
import pathlib, sys
from ctml.models import MLP
from ctml.tasks import Sinusoid
model = MLP([1, 8, 1], generator=ctml.generator(0, "weights"))
learner = Falling(model, ctml.mse, inner_lr=0.05, inner_steps=2)
before = [p.clone() for p in learner.parameters()]
import torch
optimizer = torch.optim.SGD(learner.parameters(), 0.01)
ctml.meta_train(learner, Sinusoid(), optimizer=optimizer, steps=2, meta_batch=3, seed=0, progress=False)
assert any((p != q).any() for p, q in zip(learner.parameters(), before))
assert pathlib.Path(ctml.__file__).is_relative_to(sys.prefix), ctml.__file__
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="69", reason="the build needs setuptools: pip install setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves files beside the package
    shutil.copytree(ROOT / "ctml", source / "ctml", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ctml").rglob("*") if p.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    assert there - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_installed_alone_the_readmes_learner_trains(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    python = fresh / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel, cwd=tmp_path
    )
    home = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    # the dependencies of this environment, but not the checkout that is installed in it
    (Path(home) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-c", f"{QUICK_START}\n{USE}", cwd=tmp_path)
    assert "omniglot" in run(python, "-m", "ctml.data", cwd=tmp_path)
