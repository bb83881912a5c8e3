"""The process in which one notebook runs: papermill, a fresh kernel of this very Python, news of every step.

Invariant: what is published holds neither papermill's marks nor times nor the injected cell, so that running again
without a change gives the same file.
"""

import json
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ctml.companion.files import write_atomically
from ctml.companion.pairing import read_source, stable_ids
from ctml.companion.runs.worker import leave_with

KERNEL = "ctml"


def main(order: dict[str, Any]) -> int:
    """Run a notebook and return the exit code; news goes to the order's progress file, one JSON object a line."""
    leave_with(order["runner"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # an exception, so that papermill stops the kernel
    logging.getLogger("papermill").setLevel(logging.ERROR)
    source, executed, output = Path(order["source"]), Path(order["executed"]), Path(order["output"])
    executed.parent.mkdir(parents=True, exist_ok=True)
    _prepare_kernel(Path(order["build"]), order)
    notebook = read_source(source)
    cells = len(notebook.cells) + 1  # papermill adds one

    def news(**content: Any) -> None:
        with Path(order["progress"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")

    try:
        papermill.execute_notebook(
            notebook,
            str(executed),
            parameters={"PRESET": order["preset"], **order["changed"]},
            kernel_name=KERNEL,
            cwd=str(source.parent),
            progress_bar=False,
            on_cell_start=lambda cell, cell_index: news(cell=[cell_index + 1, cells]),
        )
    except PapermillExecutionError as error:
        news(failed={"cell": error.source, "traceback": _plain("\n".join(error.traceback))})
        return 1
    except DeadKernelError:
        news(
            failed={
                "cell": "",
                "traceback": "The kernel died: killed, or out of memory. Try fewer CTML_WORKERS or JOBS.",
            }
        )
        return 1
    missing = [name for name in ("claims.json", "manifest.json") if not (output / name).is_file()]
    if missing:
        news(failed={"cell": "", "traceback": f"{' and '.join(missing)} missing: the last cell must be study.close()"})
        return 1
    published = clean(nbformat.read(executed, as_version=4))
    write_atomically(output / executed.name, nbformat.writes(published).encode() + b"\n")
    return 0


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what belongs to one execution only."""
    cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in cells:
        for mark in ("papermill", "execution"):
            cell.metadata.pop(mark, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        cell.pop("execution_count", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
    notebook.cells = cells
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
        }
    )
    return stable_ids(notebook)


def _prepare_kernel(build: Path, order: dict[str, Any]) -> None:
    """Name this Python as a kernel: another `python3` kernel of the user's might come first on Jupyter's path."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    write_atomically(build / "jupyter" / "kernels" / KERNEL / "kernel.json", json.dumps(spec).encode())
    own = str(Path(__file__).resolve().parents[3])
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(build / "jupyter"), os.environ.get("JUPYTER_PATH")]))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [order["root"], own, os.environ.get("PYTHONPATH")]))
    os.environ["CTML_ROOT"] = order["root"]
    os.environ["CTML_ORDER"] = json.dumps(
        {k: order[k] for k in ("notebook", "preset", "output", "progress", "changed")}
    )
    os.environ["TQDM_DISABLE"] = "1"  # bars would be published with the notebook
    os.environ.pop("MPLBACKEND", None)  # agg in a shell would leave the notebook without its pictures


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
