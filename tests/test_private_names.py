"""Nothing in ctml leans on a name that its owner keeps private: such a name may go with any release."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "ctml").rglob("*.py"))
KNOWN = {
    "_asdict",  # named tuples: documented, the underscore keeps it apart from fields
    "_exit",  # of os
    "_softmax_backward_data",  # an operation of torch with the speed of one; its numbers are checked against autograd
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in KNOWN


def leans_on(tree: ast.Module) -> list[str]:
    """Return the private attributes that are read off other objects, and the private names that are imported."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in defined:
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found += [] if own else [ast.unparse(node)]
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("ctml"):
            found += [alias.name for alias in node.names if private(alias.name)]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_private_name_of_another(path: Path) -> None:
    assert leans_on(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_check_itself_finds_them() -> None:
    source = "from torch.nn import _Norm\nnoise = made._reset_noise_scale\nself._own = 1\n"
    assert sorted(leans_on(ast.parse(source))) == ["_Norm", "made._reset_noise_scale"]
