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

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ctml.companion.files import write_atomically
from ctml.companion.headless.order import Order
from ctml.companion.pairing import read_source, stable_ids
from ctml.companion.project import Project
from ctml.companion.runs.worker import leave_with

KERNEL = "ctml"


def main(order: Order) -> int:
    """Execute a notebook, tell the news, and return the exit code."""
    leave_with(order.runner)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # an exception, so that papermill stops the kernel
    logging.getLogger("papermill").setLevel(logging.ERROR)
    order.executed.parent.mkdir(parents=True, exist_ok=True)
    _prepare_kernel(order)
    notebook = read_source(order.source)
    cells = len(notebook.cells) + 1  # papermill adds one
    try:
        papermill.execute_notebook(
            notebook,
            str(order.executed),
            parameters={"PRESET": order.preset, **order.changed},
            kernel_name=KERNEL,
            cwd=str(order.source.parent),
            progress_bar=False,
            on_cell_start=lambda cell, cell_index: order.tell(cell=[cell_index + 1, cells]),
        )
    except PapermillExecutionError as error:
        return _failed(order, _plain("\n".join(error.traceback)), cell=error.source)
    except DeadKernelError:
        return _failed(order, "The kernel died: killed, or out of memory. Try fewer CTML_WORKERS or JOBS.")
    missing = [name for name in ("claims.json", "manifest.json") if not (order.output / name).is_file()]
    if missing:
        return _failed(order, f"{' and '.join(missing)} missing: the last cell must be study.close()")
    published = clean(nbformat.read(order.executed, as_version=4))
    write_atomically(order.output / order.executed.name, nbformat.writes(published).encode() + b"\n")
    return 0


def _failed(order: Order, traceback: str, cell: str = "") -> int:
    order.tell(failed={"cell": cell, "traceback": traceback})
    return 1


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


def _prepare_kernel(order: Order) -> None:
    """Name this Python as a kernel: another `python3` kernel of the user's might come first on Jupyter's path."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    folder = Project(order.root).build / "jupyter"
    write_atomically(folder / "kernels" / KERNEL / "kernel.json", json.dumps(spec).encode())
    own = str(Path(__file__).resolve().parents[3])
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(order.root), own, os.environ.get("PYTHONPATH")]))
    os.environ["TQDM_DISABLE"] = "1"  # bars would be published with the notebook
    os.environ.pop("MPLBACKEND", None)  # agg in a shell would leave the notebook without its pictures


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


if __name__ == "__main__":
    given = Order.given()
    sys.exit(main(given) if given else "only the runner starts an execution: python -m ctml.companion reproduce")
