"""Imports are followed in the text, and only meaning counts."""

from pathlib import Path

import pytest

from ctml.companion.runs.sources import Sources, code_digest


@pytest.mark.parametrize(
    "other",
    ["x = 1  # a comment\n", "\n\nx = 1\n", '"""A docstring."""\nx = (1)\n'],
)
def test_layout_comments_and_docstrings_do_not_count(other: str) -> None:
    assert code_digest("x = 1\n") == code_digest(other)


def test_a_changed_number_counts() -> None:
    assert code_digest("def f():\n    return 1\n") != code_digest("def f():\n    return 2\n")


def test_a_name_from_a_package_reaches_only_the_module_that_defines_it(root: Path) -> None:
    modules, outside = Sources(root).reached([("lines", "draw")])
    assert list(modules) == ["lines.drawing"]
    assert outside == set()


def test_a_whole_package_reaches_all_that_it_imports(root: Path) -> None:
    modules, _ = Sources(root).reached([("lines", None)])
    assert list(modules) == ["lines", "lines.drawing", "lines.other"]


def test_relative_imports_and_circles_are_followed(root: Path) -> None:
    (root / "lines" / "a.py").write_text("import json\nfrom . import b\n")
    (root / "lines" / "b.py").write_text("from .a import json\nfrom .drawing import draw\n")
    modules, outside = Sources(root).reached([("lines.a", None)])
    assert list(modules) == ["lines.a", "lines.b", "lines.drawing"]
    assert outside == {"json"}


def test_the_public_names_of_ctml_lead_to_their_own_modules() -> None:
    modules, outside = Sources(Path("/nowhere")).reached([("ctml", "MAML")])
    assert "ctml.learners.maml" in modules
    assert "ctml.training" not in modules
    assert "torch" in outside
