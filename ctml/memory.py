"""Peak memory of a piece of work, by one measure on each kind of device.

    cuda   torch.cuda.max_memory_allocated: bytes handed out by the caching allocator, at their highest
    cpu    the same of the CPU allocator: the highest running sum of the allocations and releases that torch's profiler
           records, temporaries inside operators included; what a library takes past torch's allocator is not seen

Both count from what is allocated when the work starts, so weights and data that live already are left out.
"""

from collections.abc import Callable
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
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    recorded: Any = profiler.profiler  # torch's stubs leave out what its events offer
    records = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    records.sort(key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in records), initial=0))
