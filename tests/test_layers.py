"""Imports go one way: the order of the layers, read from the source and not from intentions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "ctml").rglob("*.py"))

# A module may import from its own layer and from those before it. Theory, rl and data lie beside the learners: they use
# what lies below and are used by notebooks alone.
LAYERS = [
    {
        "types",
        "trees",
        "rng",
        "checks",
        "agreement",
        "settings",
        "checkpoint",
        "locks",
        "statistics",
        "losses",
        "memory",
        "timing",
        "conjugate_gradients",
    },
    {"tasks", "models", "flows", "optimizers", "inner_solvers"},
    {"learners", "counting"},
    {"evaluation", "training", "pretraining"},
    {"theory", "rl", "data", "comparison"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BESIDE = LAYERS[-1]

# The companion is one machine in four parts, and the files that they share. The parts of a line do not know each other.
COMPANION = [
    {"files", "project", "ranges", "style"},
    {"manifest", "parameters", "pairing", "plots", "slider", "tables"},
    {"outside"},
    {"processes"},
    {"claims", "runs", "by_hand", "presets"},
    {"headless", "publish"},
    {"study"},
    {"__main__", "__init__"},
]
PART = {name: level for level, names in enumerate(COMPANION) for name in names}


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "ctml").parts[0].removesuffix(".py")


def part(path: Path) -> str:
    return path.relative_to(ROOT / "ctml" / "companion").parts[0].removesuffix(".py")


def modules_imported(path: Path) -> set[str]:
    """Return what a file imports from ctml, inside functions too, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name for name in names if name.startswith("ctml.")}
        assert "ctml" not in names, f"{path}: name the module, not the whole package"
    return found


def imported(path: Path) -> set[str]:
    """Return the layers of ctml that a file imports."""
    return {name.split(".")[1] for name in modules_imported(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_down(path: Path) -> None:
    own = layer(path)
    if own == "__init__":
        assert imported(path) <= set(LEVEL) - BESIDE | {"data"}  # the front door of data imports no loader
    elif own == "companion":
        # both towers need a mean's interval, and locks for what two processes could begin: in the lowest layer
        assert imported(path) <= {"companion", "statistics", "locks"}, "the companion knows no mathematics"
    else:
        assert own in LEVEL, f"which layer is ctml/{own}?"
        allowed = {own} | {name for name in LEVEL if LEVEL[name] <= LEVEL[own] and (name not in BESIDE or name == own)}
        assert imported(path) <= allowed, f"ctml/{own} may import only {', '.join(sorted(allowed))}"


@pytest.mark.parametrize("path", [m for m in MODULES if layer(m) == "companion"], ids=lambda p: "/".join(p.parts[-2:]))
def test_the_parts_of_the_companion_are_in_order(path: Path) -> None:
    own = part(path)
    assert own in PART, f"which part of the companion is {own}?"
    names = {name.removeprefix("ctml.companion.") for name in modules_imported(path) if "ctml.companion." in name}
    allowed = {own} | {name for name in PART if PART[name] < PART[own]}
    assert {name.split(".")[0] for name in names} <= allowed, f"{own} may import only {', '.join(sorted(allowed))}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_private_names_of_others(path: Path) -> None:
    """A leading underscore says that the next release may take it away; where it is used, a fallback stands beside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    private = set()
    own = {"self", "cls"} | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("ctml"):
            private |= {a.name for a in node.names if a.name.startswith("_")}
            private |= {part for part in node.module.split(".") if part.startswith("_") and part != "__future__"}
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            of_self = isinstance(node.value, ast.Name) and node.value.id in own
            private |= set() if of_self or node.attr in own else {ast.unparse(node)}
    private -= {"os._exit", "value._asdict"}  # documented, whatever their names
    assert not private, f"{path}: {', '.join(sorted(private))}"


@pytest.mark.parametrize("package", ["ctml", "ctml.companion.claims"])
def test_importing_pulls_in_nothing_heavy(package: str) -> None:
    heavy = ["matplotlib", "papermill", "pooch", "gymnasium", "pandas", "seaborn", "IPython", "PIL", "scipy"]
    loaders = ["ctml.data.omniglot", "ctml.data.glyphs", "ctml.data.download"]
    code = f"import sys, {package}; print([m for m in {heavy + loaders} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
