"""The key of a run changes with whatever can change its result, and with nothing else."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctml.companion.runs.fingerprint import fingerprint
from ctml.companion.runs.sources import Sources

BASE = """
    scale = 2.0
    unread = 1

    def helper(x):
        return x + 1

    def run(seed):
        return scale * helper(seed)
"""


def key(source: str, root: Path, **arguments: Any) -> str:
    """Return the key of `run` as if the source were the cells of a notebook."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(source), namespace)
    return fingerprint(namespace["run"], arguments or {"seed": 0}, Sources(root), threads=1)


@pytest.fixture
def reference(root: Path) -> str:
    return key(BASE, root)


def test_the_same_code_has_the_same_key(root: Path, reference: str) -> None:
    assert key(BASE, root) == reference


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("unread = 1", "unread = 2"),
        ("return x + 1", "return x + 1  # why"),
        ("def run(seed):", 'def run(seed):\n        """Say what it does."""'),
    ],
)
def test_what_cannot_matter_does_not_count(old: str, new: str, root: Path, reference: str) -> None:
    assert old in BASE
    assert key(BASE.replace(old, new), root) == reference


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale = 2.0", "scale = 3.0"),
        ("return x + 1", "return x + 2"),
        ("return x + 1", "return x - 1"),
        ("scale * helper", "helper"),
        ("def run(seed):", "def run(seed, more=1):"),
    ],
)
def test_what_the_function_reads_counts(old: str, new: str, root: Path, reference: str) -> None:
    assert old in BASE
    assert key(BASE.replace(old, new), root) != reference


def test_arguments_count_with_their_type(root: Path) -> None:
    keys = {
        key(BASE, root, seed=value)
        for value in (0, 1, 0.0, "0", None, [0], (0,), {"a": 0}, np.zeros(1), torch.zeros(1))
    }
    assert len(keys) == 10


def test_equal_arrays_share_a_key_and_others_do_not(root: Path) -> None:
    assert key(BASE, root, seed=torch.arange(4)) == key(BASE, root, seed=torch.arange(4))
    assert key(BASE, root, seed=torch.arange(4)) != key(BASE, root, seed=torch.arange(4).reshape(2, 2))


USING = """
    from lines import draw

    def run(seed):
        return draw(seed)
"""


@pytest.fixture
def _importable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.syspath_prepend(str(root))
    for name in [n for n in sys.modules if n.partition(".")[0] == "lines"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize(
    "source",
    [USING, USING.replace("from lines import draw", "import lines").replace("draw(seed)", "lines.draw(seed)"),
     "def run(seed):\n    from lines import draw\n    return draw(seed)\n"],
    ids=["name", "package", "inside"],
)  # fmt: skip
def test_a_reached_module_counts_and_another_does_not(source: str, root: Path) -> None:
    before = key(source, root)
    (root / "lines" / "other.py").write_text("unused = 2\n")
    assert key(source, root) == before
    (root / "lines" / "drawing.py").write_text("def draw(seed):\n    return 2 / (seed + 2)\n")
    assert key(source, root) != before


def test_classes_of_the_notebook_count_by_their_methods_and_fields(root: Path) -> None:
    source = """
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Config:
            rate: float = 0.1

            def half(self):
                return self.rate / 2

        config = Config()

        def run(seed):
            return config.half()
    """
    keys = {
        key(source, root),
        key(source.replace("/ 2", "/ 3"), root),
        key(source.replace("Config()", "Config(0.2)"), root),
    }
    assert len(keys) == 3
    assert key(source, root) in keys


def test_threads_count_and_a_checkpoint_does_not(root: Path) -> None:
    def run(seed: int, checkpoint: Path) -> int:
        return seed

    keys = [fingerprint(run, {"seed": 0}, Sources(root), threads) for threads in (1, 2, 1)]
    assert keys[0] == keys[2] != keys[1]


def test_recursion_and_closures_end(root: Path) -> None:
    source = """
        def make(n):
            def run(seed):
                return n if seed == 0 else run(seed - 1)
            return run

        run = make({0})
    """
    assert key(source.format(1), root) != key(source.format(2), root)


def test_what_was_copied_before_does_not_count(root: Path) -> None:
    """Python writes `__slotnames__` into a class when an object of it is first copied or sent to a worker."""
    source = """
        import copy
        import dataclasses

        @dataclasses.dataclass(frozen=True)
        class Config:
            width: int = 3

        config = Config()
        {before}

        def run(seed):
            return config.width * seed
    """
    before = "copy.copy(config)"
    assert key(source.format(before=before), root) == key(source.format(before=""), root)
