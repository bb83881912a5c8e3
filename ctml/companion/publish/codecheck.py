"""`codecheck.yml`: the files that a rerun must make again, for whoever certifies it (https://codecheck.org.uk).

Invariant: a function of the manifests and of `CITATION.cff`'s title and authors; nothing in it is typed twice.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctml.companion.publish.report import Published

SPECIFICATION = "https://codecheck.org.uk/spec/config/1.0"


def codecheck(results: Sequence["Published"], root: Path) -> str:
    """Return the text of the file: drawings, tables and verdicts of the published notebooks, each with what it is.

    Pictures of dots are left out: their bytes depend on the versions of more libraries, and the drawings say the same.
    """
    entries = [
        (result.folder.relative_to(root) / name, _comment(result, name))
        for result in results
        for name in sorted(result.manifest["outputs"])
        if Path(name).suffix in (".csv", ".json") or (Path(name).suffix == ".svg" and len(Path(name).parts) == 2)
    ]
    citation = (root / "CITATION.cff").read_text(encoding="utf-8") if (root / "CITATION.cff").is_file() else ""
    title = re.search(r'^title: "?(.+?)"?$', citation, flags=re.MULTILINE)
    names = re.findall(r"^  - name: (.+)$", citation, flags=re.MULTILINE)
    lines = [
        "---",
        f"version: {SPECIFICATION}",
        "paper:",
        f"  title: {json.dumps(title[1] if title else root.name)}",
        "  authors:",
        *(f"    - name: {json.dumps(name)}" for name in names),
        "# Run: make reproduce. Times, memory and verdicts on them are those of the machine; all else is made again.",
        "manifest:" if entries else "manifest: []",
    ]
    for path, comment in entries:
        lines += [f"  - file: {json.dumps(path.as_posix())}", f"    comment: {json.dumps(comment, ensure_ascii=False)}"]
    return "\n".join(lines) + "\n"


def _comment(result: "Published", name: str) -> str:
    figures = {f"figures/{figure['name']}.svg": figure for figure in result.manifest["figures"]}
    if name in figures:
        where = f" ({figures[name]['where']})" if figures[name]["where"] else ""
        return f"figure of {result.notebook.name}{where}, preset {result.preset}"
    what = "verdicts" if name == "claims.json" else "table"
    return f"{what} of {result.notebook.name}, preset {result.preset}"
