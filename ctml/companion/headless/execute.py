"""The process in which one notebook runs: papermill, a fresh kernel of this very Python, news of every step.

Invariant: what is published holds neither papermill's marks nor times nor the injected cell, so that running again
without a change gives the same file.
"""

import contextlib
import json
import logging
import os
import re
import sys
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ctml.companion import outside
from ctml.companion.files import write_atomically
from ctml.companion.headless.order import Order
from ctml.companion.pairing import read_source, stable_ids
from ctml.companion.processes import Ended, end_with_parent, peak_of_children, thread_limits

KERNEL = "ctml"
_SAID_IN_ONE_LINE = ("Refusal", "RunLost", "ClusterLost", "DataError", "ClaimError")


def main(order: Order) -> int:
    """Execute a notebook, tell the news, and return the exit code."""
    end_with_parent(order.runner, at_once=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    order.executed.parent.mkdir(parents=True, exist_ok=True)
    _prepare_kernel(order)
    notebook = read_source(order.source)
    cells = len(notebook.cells) + 1  # papermill adds one
    kernel = AsyncKernelManager(kernel_name=KERNEL)
    try:
        papermill.execute_notebook(
            notebook,
            str(order.executed),
            parameters={"PRESET": order.preset, **order.changed},
            kernel_name=KERNEL,
            cwd=str(order.source.parent),
            progress_bar=False,
            start_timeout=1800,  # a busy machine, or a kernel that takes only idle cycles, is no dead kernel
            on_cell_start=lambda cell, cell_index: order.tell(cell=[cell_index + 1, cells]),
            km=kernel,
        )
    except PapermillExecutionError as error:
        if line := _one_line(error.ename, error.evalue):
            return _failed(order, line)
        return _failed(order, _plain("\n".join(error.traceback)), cell=error.source)
    except (DeadKernelError, RuntimeError):
        how = _ended(kernel)
        if how is None:
            raise
        order.tell(died={"code": how.code, "peak": how.peak})
        return 1
    except OSError as error:
        if line := outside.reason("OSError", str(error)):
            return _failed(order, line)
        raise
    finally:
        with contextlib.suppress(OSError):
            order.tell(kernel=None)  # from here on nobody needs to miss it
        if (process := getattr(kernel.provisioner, "process", None)) is not None:
            process.kill()  # what it wrote is whole, and nobody waits for its goodbye
    missing = [name for name in ("claims.json", "manifest.json") if not (order.output / name).is_file()]
    if missing:
        return _failed(order, f"{' and '.join(missing)} missing: the last cell must be study.close()")
    published = clean(nbformat.read(order.executed, as_version=4))
    write_atomically(order.output / order.executed.name, nbformat.writes(published).encode() + b"\n")
    return 0


def _failed(order: Order, traceback: str, cell: str = "") -> int:
    order.tell(failed={"cell": cell, "traceback": traceback})
    return 1


def _one_line(kind: str, text: str) -> str | None:
    """Return the line for a failure of which the traceback says nothing more."""
    return text if kind in _SAID_IN_ONE_LINE else outside.reason(kind, text)


def _ended(kernel: AsyncKernelManager) -> Ended | None:
    """Say how the kernel ended, or return None if it lives."""
    process = getattr(kernel.provisioner, "process", None)
    code = None if process is None else process.poll()
    if code is None:
        return None
    return Ended(code, peak_of_children())  # this process has no other child


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
        "argv": [
            sys.executable,
            "-c",
            "from ctml.companion.headless.kernel import main; main()",
            "-f",
            "{connection_file}",
        ],
        "display_name": "Python 3",
        "language": "python",
    }
    folder = order.scratch / "jupyter"  # one's own: a home may be missing, or full of settings that change results
    write_atomically(folder / "kernels" / KERNEL / "kernel.json", json.dumps(spec).encode())
    own = str(Path(__file__).resolve().parents[3])
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(order.root), own, os.environ.get("PYTHONPATH")]))
    os.environ["JUPYTER_RUNTIME_DIR"] = str(order.scratch / "runtime")
    os.environ["IPYTHONDIR"] = str(order.scratch / "ipython")
    # sums depend on the number of threads, and results must not depend on the machine; runs state their own number
    os.environ.update(thread_limits(1))
    os.environ["TQDM_DISABLE"] = "1"  # bars would be published with the notebook
    os.environ.pop("MPLBACKEND", None)  # agg in a shell would leave the notebook without its pictures


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


if __name__ == "__main__":
    given = Order.given()
    sys.exit(main(given) if given else "only the runner starts an execution: python -m ctml.companion reproduce")
