"""The kernel of a notebook that the runner executes: IPython's own, with two more duties.

Invariants:
    * It ends with the process that executes the notebook, however that ends.
    * A notebook that prints without end fails with the reason, before it fills the memory and the published notebook.
"""

import os
import sys
import threading

from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp

from ctml.companion.headless.order import Order
from ctml.companion.processes import end_with_parent

LIMIT = 10 * 2**20  # characters of text that a notebook may print


class BoundedStream(OutStream):
    """What a notebook prints, up to a limit for all of it."""

    printed = 0

    def write(self, string: str) -> int | None:
        """Take some text.

        Raises:
            RuntimeError: in the cell that goes beyond the limit.
        """
        BoundedStream.printed += len(string)
        if BoundedStream.printed <= LIMIT:
            return super().write(string)
        if threading.current_thread() is threading.main_thread():
            BoundedStream.printed = 0  # for the traceback that follows
            raise RuntimeError(f"this notebook prints more than {LIMIT // 2**20} MB: print less, or write a table")
        return len(string)  # of another process, through a pipe that must not run full


def main() -> None:
    """Tell the runner of this process and serve the notebook."""
    end_with_parent(int(os.environ.get("JPY_PARENT_PID") or os.getppid()), at_once=True)
    if order := Order.given():
        order.tell(kernel=os.getpid())
    sys.path[:] = [folder for folder in sys.path if folder]  # IPython puts the working folder there itself
    app = IPKernelApp.instance(outstream_class=f"{BoundedStream.__module__}.{BoundedStream.__qualname__}")
    app.initialize(sys.argv[1:])
    app.start()
