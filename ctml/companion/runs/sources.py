"""Which source files some code reaches through its imports, followed in the text without running anything.

Invariant: a digest changes when the meaning of a file changes, and not when a comment, a docstring or the layout does.
A name imported from a package is followed to the module that defines it, so that `from ctml import MAML` depends on the
modules of MAML and not on everything that `ctml` exports.
"""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

Import = tuple[str, str | None]  # module, and the name taken from it (None: the whole module)


def code_digest(text: str) -> str:
    """Hash source text by what it does: its syntax tree without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


class Sources:
    """The modules of a project: every package in its root folder, and the package that this file belongs to."""

    def __init__(self, root: Path) -> None:
        own = Path(__file__).resolve().parents[2]
        self._folders = {own.name: own.parent}
        self._folders |= {p.parent.name: root for p in root.glob("*/__init__.py")}
        self._digests: dict[Path, str] = {}
        self._imports: dict[str, list[tuple[Import, str]]] = {}

    def find(self, module: str) -> Path | None:
        """Return the file of one of the project's modules, or None for a module from elsewhere."""
        folder = self._folders.get(module.partition(".")[0])
        if folder is None:
            return None
        stem = folder.joinpath(*module.split("."))
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.is_file():
                return candidate
        return None

    def reached(self, starts: Iterable[Import]) -> tuple[dict[str, str], set[str]]:
        """Follow imports to their end.

        Returns:
            The digest of each project module that is reached, and the names of the other top-level packages.
        """
        modules: dict[str, str] = {}
        outside: set[str] = set()
        waiting, seen = list(starts), set()
        while waiting:
            step = waiting.pop()
            if step in seen:
                continue
            seen.add(step)
            module, name = step
            path = self.find(module)
            if path is None:
                outside.add(module.partition(".")[0])
            elif name is not None and self.find(f"{module}.{name}"):
                waiting.append((f"{module}.{name}", None))
            elif name is not None and path.name == "__init__.py" and (target := self._exported(module, name)):
                waiting.append(target)
            else:
                modules[module] = self._digest(path)
                waiting += [target for target, _ in self._imports_of(module)]
        return dict(sorted(modules.items())), outside

    def imports_in(self, text: str, module: str = "") -> list[Import]:
        """List what a piece of source imports; `module` is its dotted name, for relative imports."""
        return [target for target, _ in _imports(ast.parse(text), module, is_package=False)]

    def _exported(self, package: str, name: str) -> Import | None:
        return next((target for target, bound in self._imports_of(package) if bound == name), None)

    def _imports_of(self, module: str) -> list[tuple[Import, str]]:
        if module not in self._imports:
            path = self.find(module)
            assert path is not None
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self._imports[module] = _imports(tree, module, is_package=path.name == "__init__.py")
        return self._imports[module]

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = code_digest(path.read_text(encoding="utf-8"))
        return self._digests[path]


def _imports(tree: ast.AST, module: str, *, is_package: bool) -> list[tuple[Import, str]]:
    """List each import of a tree as (what is imported, the name it is bound to)."""
    found: list[tuple[Import, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [((alias.name, None), alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                found.append(((base, None if alias.name == "*" else alias.name), alias.asname or alias.name))
    return found
