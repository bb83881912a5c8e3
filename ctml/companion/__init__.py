"""What a notebook needs around its mathematics: runs, figures, claims, and a record of how they came about.

Invariant: nothing here knows any mathematics but the interval of a mean (`ctml.statistics`, which lies below both), and
nothing in `ctml` outside this package imports it.

One word for each thing:
    study      what stands beside one open notebook: its runs, figures, tables and claims (`study.py`).
    run        one call of a function with its arguments, kept in the cache under its key (`runs/`).
    worker     the process that does runs (`runs/worker.py`).
    claim      what a paper states, in `claims.toml`; a rule over samples decides it, a verdict says how (`claims/`).
    job        one notebook at one preset with the parameters that were changed (`headless/job.py`).
    order      a job as the process that executes it gets it: what to execute and where everything goes.
    runner     what turns jobs into orders and puts results in their place (`headless/runner.py`).
    execution  a notebook from its first cell to its last in a process of its own (`headless/execute.py`).
    results    the folder that an execution leaves; readers see it as tables and as a site (`publish/`).
"""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a command that is still being loaded: Ctrl-C ends it, and no more

from ctml.companion import style
from ctml.companion.presets import choose
from ctml.companion.study import Study

__all__ = ["Study", "choose", "style"]
