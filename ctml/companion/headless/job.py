"""One notebook at one preset with given changes: where its results go, and whether they are still those of the code.

Invariant: freshness is a matter of this machine. Stamps lie in `.build`, so a fresh clone runs everything although
`results/` is committed: that is what "reproduce" means.
"""

import errno
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctml.companion.claims import claims_of
from ctml.companion.files import write_atomically
from ctml.companion.headless.seal import damage, other_code
from ctml.companion.manifest import file_hash, versions
from ctml.companion.pairing import read_source, with_header
from ctml.companion.parameters import check_settings, read_parameters
from ctml.companion.project import Notebook, Project, Refusal, available_data
from ctml.companion.runs.sources import Sources

_NAMES = {"notebook": "notebook", "claims": "claims.toml", "changed": "parameters"}


@dataclass(frozen=True)
class Job:
    """What to run and with which changes of parameters."""

    project: Project
    notebook: Notebook
    preset: str
    changed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, project: Project, notebook: Notebook, preset: str, settings: Mapping[str, Any]) -> "Job":
        """Return the job after checking everything that can be checked without running it.

        Raises:
            Refusal: for an unknown parameter or a value of another type.
            ClaimError: when `claims.toml` is wrong.
        """
        claims_of(notebook)
        return cls(project, notebook, preset, check_settings(settings, read_parameters(notebook.source), notebook.name))

    @classmethod
    def rehearsed(cls, project: Project, notebook: Notebook) -> "Job":
        """Return the job that takes preset paper's path in two meta-steps; what it finds decides nothing."""
        return cls(project, notebook, "paper", {"rehearsal": True})

    @property
    def rehearsal(self) -> bool:
        """Whether the configuration is shortened, which no parameter of a notebook asks for."""
        return "rehearsal" in self.changed

    @property
    def folder(self) -> Path:
        """Return where the results go: only an unchanged notebook at quick, long or paper reaches `results/`."""
        if self.changed:
            return self.project.build / "variants" / self.preset / self.notebook.name / self._variant
        if self.preset == "smoke":
            return self.project.build / "smoke" / self.notebook.name
        return self.project.results / self.preset / self.notebook.name

    def scratch(self, kind: str, suffix: str = "") -> Path:
        """Return a path below `.build` that belongs to this job alone."""
        variant = f"@{self._variant}" if self.changed else ""
        return self.project.build / kind / self.preset / f"{self.notebook.name}{variant}{suffix}"

    @property
    def stamp(self) -> Path:
        """Return the file that says what the results were made from."""
        return self.scratch("stamps", ".json")

    @property
    def lock(self) -> Path:
        """Return the file that the runner of this job holds."""
        return self.scratch("locks", ".lock")

    @property
    def _variant(self) -> str:
        text = ",".join(f"{name}={value}" for name, value in self.changed.items())
        safe = re.sub(r"[^\w.,=+-]", "_", text)
        return (
            safe if safe == text and len(safe) < 80 else f"{safe[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        )

    def check_writable(self) -> None:
        """Refuse a folder that cannot be written, before any work is done.

        Raises:
            Refusal: naming the folder and the way out.
        """
        for what, folder in (("results", self.folder), ("caches", self.project.build)):
            existing = folder
            while not existing.exists():
                existing = existing.parent
            try:
                if existing.is_dir() and not existing.stat().st_mode & 0o222:
                    raise PermissionError("it is marked read-only")  # which the superuser could overrule by accident
                with tempfile.TemporaryFile(dir=existing) as file:
                    file.write(b"0" * 4096)
                    file.flush()
            except OSError as error:
                reason = error.strerror or error
                way_out = (
                    "free some space"
                    if error.errno in (errno.ENOSPC, errno.EDQUOT)
                    else (f"make it writable, e.g. chmod -R u+w {existing}")
                )
                raise Refusal(f"Cannot write {what} to {existing} ({reason}): {way_out}.") from None

    def ingredients(self) -> dict[str, Any]:
        """Return everything the results depend on, as it is now."""
        source = with_header(self.notebook.source.read_text(encoding="utf-8"))  # a header alone changes no result
        notebook = read_source(self.notebook.source)
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        sources = Sources(self.project.root)
        try:
            modules, outside = sources.reached(sources.imports_in(code))
        except SyntaxError:
            modules, outside = {}, set()  # the run itself shows where
        claims = {id: vars(claim) for id, claim in claims_of(self.notebook).items()}
        installed = versions()
        return {
            "notebook": hashlib.sha256(source.encode()).hexdigest(),
            "claims": hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).hexdigest(),
            "changed": dict(self.changed),
            "modules": modules,
            "versions": {name: installed[name] for name in sorted({*outside, "python", "torch"}) if name in installed},
            "data": available_data(),
        }

    def write_stamp(self, ingredients: Mapping[str, Any]) -> None:
        """Record that the results in place were made from these ingredients."""
        uses = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))["data"]
        outputs = {
            p.relative_to(self.folder).as_posix(): file_hash(p) for p in sorted(self.folder.rglob("*")) if p.is_file()
        }
        stamp = {**ingredients, "uses": uses, "outputs": outputs}
        write_atomically(self.stamp, json.dumps(stamp, indent=1).encode())

    def why_stale(self) -> str | None:
        """Say why the results are not those of the present code, or return None if they are."""
        try:
            stamp = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "never run on this machine"
        now = self.ingredients()
        try:
            return self._difference(stamp, now)
        except (KeyError, TypeError, AttributeError):
            return "the record of its last run is damaged"

    def _difference(self, stamp: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
        for part, name in _NAMES.items():
            if stamp[part] != now[part]:
                return f"{name} changed"
        for module in sorted({*stamp["modules"], *now["modules"]}):
            if stamp["modules"].get(module) != now["modules"].get(module):
                return f"{self._shown(module)} changed"
        for package, version in now["versions"].items():
            if stamp["versions"].get(package) != version:
                return f"{package} changed from {stamp['versions'].get(package, 'none')} to {version}"
        new_data = sorted(set(now["data"]) - set(stamp["data"]))
        if stamp["uses"] and new_data:
            return f"data now available: {', '.join(new_data)}"
        for name, digest in stamp["outputs"].items():
            path = self.folder / name
            if not path.is_file():
                return f"results file missing: {path.relative_to(self.project.root)}"
            if file_hash(path) != digest:
                return f"results file edited: {path.relative_to(self.project.root)}"
        return None

    def published(self) -> str:
        """Say whether the results in place are whole, and whether they are those of the present code."""
        if not self.folder.is_dir():
            return "none"
        if fault := damage(self.folder):
            return f"DAMAGED: {fault}"
        change = other_code(self.folder, self.ingredients())
        return "results intact, of this code" if change is None else f"results intact, of other code: {change}"

    def _shown(self, module: str) -> str:
        path = Sources(self.project.root).find(module)
        return (
            module if path is None else "/".join(path.parts[-len(module.split(".")) - (path.name == "__init__.py") :])
        )
