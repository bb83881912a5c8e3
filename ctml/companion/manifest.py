"""How a result came about: code, versions, machine, parameters, data, time, and the hash of every file.

Invariant: nothing here names a person, a host or a path outside the checkout; manifests are published.
"""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("ctml", "torch", "torchdiffeq", "numpy", "scipy", "pandas", "matplotlib", "seaborn", "papermill")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory of this machine, 0 where the system does not tell."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def hardware() -> dict[str, Any]:
    """Describe the machine: processor, cores, memory and accelerators."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores(),
    }
    if memory():
        found["memory_gb"] = round(memory() / 2**30)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def commit(root: Path) -> dict[str, Any]:
    """Return the commit of the checkout, and whether tracked code differs from it; empty outside a git checkout."""
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return {}
    # results change by the very run that is being recorded, so they do not count as a change
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!README.md")
    return {"commit": head, "dirty": bool(changed)}


def file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
