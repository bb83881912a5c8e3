"""The reference: one page for each part of the package, written from its docstrings by autodoc."""

from pathlib import Path

_HIDDEN = ("__main__",)


def pages(root: Path) -> dict[str, str]:
    """Return the pages of the reference by name; none for a checkout without the package."""
    package = root / "ctml"
    parts = sorted(path for path in package.glob("*") if _is_public(path)) if package.is_dir() else []
    if not parts:
        return {}
    names = [path.stem for path in parts]
    toctree = "\n".join(f"{name} <api/{name}>" for name in names)
    made = {"api": f"# API reference\n\n```{{toctree}}\n:maxdepth: 1\n\n{toctree}\n```\n"}
    return made | {f"api/{path.stem}": _part(path, package) for path in parts}


def _part(path: Path, package: Path) -> str:
    files = [path] if path.is_file() else [path / "__init__.py", *sorted(path.rglob("*.py"))]
    modules = dict.fromkeys(_module(file, package) for file in files if _is_public_file(file, path))
    shown = [f"# ctml.{path.stem}"]
    for name in modules:
        if name != f"ctml.{path.stem}":
            shown.append(f"## {name}")
        shown.append(
            f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :ignore-module-all:\n   :show-inheritance:\n```"
        )
    return "\n\n".join(shown) + "\n"


def _module(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_public(path: Path) -> bool:
    is_module = path.suffix == ".py" or (path / "__init__.py").is_file()
    return is_module and not path.stem.startswith("_") and path.stem not in _HIDDEN


def _is_public_file(file: Path, part: Path) -> bool:
    inner = file.relative_to(part).parts if part.is_dir() else ()
    return not any(name.startswith("_") and name != "__init__.py" for name in inner) and "site" not in inner
