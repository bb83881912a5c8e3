"""What another machine must have to do a run: the same modules, packages and data."""

import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ctml.companion.project import available_data
from ctml.companion.runs.fingerprint import version
from ctml.companion.runs.sources import code_digest


@dataclass(frozen=True)
class Needs:
    """What a run reaches.

    Attributes:
        modules: digests of the project's modules by name.
        packages: versions of the packages by name.
        data: folders of the data home.
        python: version of Python.
    """

    modules: Mapping[str, str]
    packages: Mapping[str, str]
    data: tuple[str, ...]
    python: str = platform.python_version()

    def missing(self) -> str | None:
        """Say what this machine lacks or has otherwise, or return None."""
        if self.python != platform.python_version():
            return f"has Python {platform.python_version()}, and this checkout runs on {self.python}"
        for name, wanted in self.packages.items():
            if version(name) != wanted:
                return f"has {name} {version(name)}, and this checkout runs with {wanted}"
        for name, digest in self.modules.items():
            found = _digest(name)
            if found != digest:
                return f"{'has another' if found else 'lacks'} {name}: bring it to the same commit, and start it again"
        if lacking := [name for name in self.data if name not in available_data()]:
            return f"lacks the data {', '.join(lacking)}: put CTML_DATA there, and name that folder to it"
        return None


def _digest(module: str) -> str | None:
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        return None
    return code_digest(Path(found.origin).read_text(encoding="utf-8")) if found and found.origin else None
