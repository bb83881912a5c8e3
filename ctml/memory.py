"""Peak memory of a piece of work, by one measure on each kind of device.

    cuda   torch.cuda.max_memory_allocated: bytes handed out by the caching allocator, at their highest
    cpu    the same of the CPU allocator: the highest running sum of the allocations and releases that torch's profiler
           records, temporaries inside operators included; what a library takes past torch's allocator is not seen

Both count from what is allocated when the work starts, so weights and data that live already are left out.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch


def peak_bytes(work: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Run `work` once and return the most memory it held at a time, in bytes above what was held before."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"device={device}: memory is measured on cpu and cuda only")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _without_notices(), torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    recorded: Any = profiler.profiler  # torch's stubs leave out what its events offer
    records = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    records.sort(key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in records), initial=0))


# That it starts and stops, and that a block from before was released, which is left out here by definition.
_NOTICE = re.compile(rb"profiler_(start|stop)|Memory block of unknown size was allocated before the profiling started")


@contextmanager
def _without_notices() -> Iterator[None]:
    """Hold back what the profiler writes to the process's error stream at each use; pass on everything else."""
    sys.stderr.flush()
    kept = os.dup(2)  # torch writes below Python, to the file descriptor itself
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if not _NOTICE.search(line):
                    os.write(2, line)
