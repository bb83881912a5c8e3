"""What `import ctml` offers: the learners of the five papers, its rooms, one version, short reprs."""

import ast
import inspect
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
import torch

import ctml
from ctml import MetaTest, learners

ROOT = Path(__file__).resolve().parents[1]


def test_every_learner_of_the_package_is_public():
    """Read from the sources: a class that derives from Learner, at whatever depth, is found under `ctml`."""
    bases = {}
    for path in Path(learners.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).split(".")[-1] for base in node.bases}
    found = {"Learner"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    made_by_hand = {name for name in found if not hasattr(ctml, name)}
    assert made_by_hand <= {"ProximalLearner", "Stacked"}, "a base and what `stack` makes"
    assert {"MAML", "BiMAML", "RKMAML", "COMLN", "FOBMAML", "IMAML", "ANIL", "Reptile"} <= found & set(ctml.__all__)


def test_the_rooms_are_there_without_a_further_import():
    assert {"data", "flows", "models", "tasks"} <= set(ctml.__all__)
    for name in ctml.__all__:
        assert getattr(ctml, name) is not None
    assert all(inspect.ismodule(getattr(ctml, room)) for room in ("data", "flows", "models", "tasks"))


def test_the_version_is_written_once():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^dynamic = \["version"\]$', project, re.M) and not re.search(r"^version = \"", project, re.M)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert cited is not None and cited[1] == ctml.__version__


def test_setuptools_finds_the_version():
    configuration = pytest.importorskip("setuptools.config.pyprojecttoml")
    assert configuration.read_configuration(ROOT / "pyproject.toml")["project"]["version"] == ctml.__version__


def test_the_package_says_that_it_is_typed():
    assert resources.files("ctml").joinpath("py.typed").is_file()
    assert re.search(r'^"ctml" = \["py\.typed"\]$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)


def test_tensors_are_shown_by_type_and_shape():
    batch = ctml.tasks.Sinusoid(shots=3, queries=4).sample(2, ctml.generator(0, "t"))
    assert repr(batch.support) == "Examples(x=float32 (2, 3, 1), y=float32 (2, 3, 1))"
    assert repr(batch) == f"TaskBatch(support={batch.support}, query={batch.query})"
    names = tuple(f"letter {i}" for i in range(300))
    pool = ctml.ClassPool(torch.zeros(600, 1, 28, 28, dtype=torch.uint8), torch.full((300,), 2), names, "noise/train")
    assert repr(pool) == "ClassPool('noise/train': 300 classes, uint8 (600, 1, 28, 28))"
    assert repr(ctml.tasks.FewShot(pool, 5, 1, 1)) == f"FewShot(pool={pool}, ways=5, shots=1, queries=1)"


def test_histories_and_scores_are_shown_in_a_line():
    history = ctml.History([0.5] * 10_000, [(100, 0.3), (200, 0.4)], {"T": [(100, 1.0)]})
    assert repr(history) == "History(10000 steps, last loss 0.5, 2 validations, watched: ['T'])"
    assert repr(ctml.History()) == "History(0 steps, 0 validations, watched: [])"
    scores = MetaTest(torch.linspace(0, 1, 1000), None, 0, "none")
    assert repr(scores) == f"MetaTest({scores})" and len(repr(scores)) < 80


def test_no_function_is_left_that_nobody_calls():
    """A name at the top of a module is met a second time: in the package, a notebook or a benchmark.

    The theorems of `ctml.theory` may be there for their tests alone, and Sphinx calls the `setup` of its configuration.
    """
    folders = {
        name: sorted((ROOT / name).rglob("*.py")) for name in ("ctml", "notebooks", "benchmarks", "tests/theory")
    }
    texts = {path: path.read_text(encoding="utf-8") for paths in folders.values() for path in paths}
    met = Counter(word for path in texts for word in re.findall(r"\w+", texts[path]))
    dead = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "ctml").rglob("*.py"))
        for node in ast.parse(texts[path]).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("__")
        and node.name != "setup"
        and met[node.name] < 2
    ]
    assert not dead, "; ".join(dead)
