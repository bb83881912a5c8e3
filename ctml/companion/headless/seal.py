"""Whether results are as they were made, and of which code: told by the results themselves, on any machine.

Invariant: a sealed manifest holds the hash of every other file of its folder, the digests of the code that made them,
and a hash of its own content. So a byte that is changed later in any of them is noticed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctml.companion.files import write_atomically
from ctml.companion.manifest import file_hash

MANIFEST = "manifest.json"
_DIGITS = 16  # of a module's digest: enough to notice a change


def seal(folder: Path, ingredients: Mapping[str, Any]) -> None:
    """Complete the manifest of a folder of results: no file in it may change from now on.

    Args:
        folder: results that are about to be published.
        ingredients: what they were made from, as `Job.ingredients` tells it.

    Raises:
        ValueError: when a file is no longer as the notebook made it.
    """
    path = folder / MANIFEST
    if fault := damage(folder):
        raise ValueError(f"{fault}: its disk or another program changed it; start again")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["made_from"] = made_from(ingredients)
    manifest["outputs"] = {name: file_hash(folder / name) for name in _files(folder)}
    write_atomically(path, _text({**manifest, "seal": _hash(manifest)}).encode())


def made_from(ingredients: Mapping[str, Any]) -> dict[str, Any]:
    """Return the code among the ingredients of results, in short."""
    short = {name: digest[:_DIGITS] for name, digest in ingredients["modules"].items()}
    return {"notebook": ingredients["notebook"], "claims": ingredients["claims"], "modules": short}


def damage(folder: Path) -> str | None:
    """Name the first file of a folder of results that is not as it was made, or return None."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        outputs: Mapping[str, str] = dict(manifest["outputs"])
        sealed = manifest.pop("seal", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not as it was made"
    if "made_from" in manifest and (sealed != _hash(manifest) or text != _text({**manifest, "seal": sealed})):
        return f"{MANIFEST} is not as it was made"
    for name, digest in outputs.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_hash(folder / name) != digest:
            return f"{name} is not as it was made"
    if "made_from" in manifest and (more := sorted(set(_files(folder)) - set(outputs))):
        return f"{more[0]} was not made by this notebook"
    return None


def other_code(folder: Path, ingredients: Mapping[str, Any]) -> str | None:
    """Say which code has changed since the results were made, or return None.

    Args:
        folder: results that are as they were made.
        ingredients: what they would be made from now.
    """
    then = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("made_from")
    now = made_from(ingredients)
    if then is None:
        return "made before manifests told of which code"
    if then["notebook"] != now["notebook"]:
        return "the notebook changed"
    if then["claims"] != now["claims"]:
        return "claims.toml changed"
    changed = sorted(m for m in {*then["modules"], *now["modules"]} if then["modules"].get(m) != now["modules"].get(m))
    if not changed:
        return None
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]}{more} changed"


def _files(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name != MANIFEST)


def _text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


def _hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(manifest).encode()).hexdigest()
