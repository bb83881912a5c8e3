"""Where things lie in a checkout: notebooks, published results, and everything that can be deleted (`.build`)."""

import difflib
import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

PRESETS = ("smoke", "quick", "long", "paper")


class Refusal(Exception):
    """A request that cannot be met; its text is the one line shown to the person who asked."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]  # what a notebook shows: how we came to the line helps nobody


def check_known(kind: str, name: str, known: list[str] | tuple[str, ...]) -> None:
    """Refuse a name that does not exist, saying which ones do.

    Raises:
        Refusal: naming everything that exists, closest names first.
    """
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise Refusal(f"Unknown {kind} {name!r}.{hint} There is: {', '.join(known) or 'none'}.")


@dataclass(frozen=True)
class Notebook:
    """One notebook, named by its path below `notebooks/` without the suffix (`comln/01_flow`)."""

    name: str
    source: Path

    @property
    def paper(self) -> str:
        """Return the paper's slug, empty for a notebook that lies directly in `notebooks/`."""
        return self.name.rpartition("/")[0]

    @property
    def title(self) -> str:
        """Return the last part of the name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Project:
    """A checkout, by its root folder."""

    root: Path

    @classmethod
    def around(cls, folder: Path | None = None) -> "Project":
        """Find the project that a folder lies in.

        Raises:
            Refusal: when no folder above holds `pyproject.toml` beside `notebooks/`.
        """
        start = (folder or Path.cwd()).resolve()
        for candidate in (start, *start.parents):
            if (candidate / "pyproject.toml").is_file() and (candidate / "notebooks").is_dir():
                return cls(candidate)
        raise Refusal(f"{start} lies in no checkout: no folder above it holds pyproject.toml beside notebooks/.")

    @property
    def build(self) -> Path:
        """Return the folder of everything that can be made again."""
        return self.root / ".build"

    @property
    def results(self) -> Path:
        """Return the folder of published results."""
        return self.root / "results"

    @property
    def publishing(self) -> Path:
        """Return the file that whoever writes into the results holds."""
        return self.build / "locks" / "publishing"

    def notebooks(self) -> list[Notebook]:
        """List the notebooks in reading order."""
        folder = self.root / "notebooks"
        sources = [p for p in folder.rglob("*.py") if not any(part.startswith((".", "_")) for part in p.parts)]
        return [Notebook(p.relative_to(folder).with_suffix("").as_posix(), p) for p in sorted(sources)]

    def select(self, wanted: str | None) -> list[Notebook]:
        """Return the notebooks that a request names: full names, folders or patterns, separated by spaces or commas.

        Raises:
            Refusal: when one of the names matches nothing.
        """
        everything = self.notebooks()
        if not wanted:
            return everything
        chosen: set[str] = set()
        names = [n.name for n in everything]
        for raw in wanted.replace(",", " ").split():
            word = (
                raw.removeprefix("./").removeprefix("notebooks/").removesuffix(".py").removesuffix(".ipynb").strip("/")
            )
            matches = [n for n in names if n == word or n.startswith(word + "/") or fnmatch(n, word)]
            if not matches:
                check_known("notebook", word, names)
            chosen.update(matches)
        return [n for n in everything if n.name in chosen]


def available_data() -> list[str]:
    """List the data sets that lie ready on this machine."""
    try:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctml" / "data"
        folder = Path(os.environ.get("CTML_DATA") or default).expanduser()
        inside = list(folder.iterdir()) if folder.is_dir() else []
        return sorted(p.name for p in inside if p.is_dir() and not p.name.startswith(".") and any(p.iterdir()))
    except (OSError, RuntimeError):  # a folder that cannot be read; no home
        return []
