"""The states of a path that a backward pass needs: all of them, or about the square root of their number."""

import torch
from jaxtyping import Float
from torch import Tensor


class Trajectory:
    """A growing buffer of states, M N numbers each.

    With record="sqrt" only every `stride`-th state stays. The number of steps is not known beforehand, so whenever
    2 * stride states are kept every second one is dropped and the stride doubles: after n steps both the states kept
    and the stride lie between sqrt(n / 2) and about sqrt(2 n).

    Args:
        like: a state.
        record: "all", "sqrt" or "none".
        expected: number of states to make room for (record="all").
    """

    def __init__(self, like: Float[Tensor, "tasks *state"], record: str, expected: int):
        if record not in ("all", "sqrt", "none"):
            raise ValueError(f"record={record!r}: must be 'all', 'sqrt' or 'none'")
        self.record, self.stride, self.kept, self.steps = record, 1, 0, 0
        room = {"all": expected, "sqrt": 2, "none": 0}[record]
        self._buffer = like.new_empty(room, *like.shape)

    def append(self, state: Float[Tensor, "tasks *state"]) -> None:
        """Take in the state before the next step."""
        if self.record == "none":
            return
        if self.steps % self.stride == 0:
            if self.record == "sqrt" and self.kept == 2 * self.stride:
                self._thin()
            elif self.kept == len(self._buffer):
                self._buffer = torch.cat([self._buffer, torch.empty_like(self._buffer)])
            # After thinning, the state at hand falls on the wider grid too: its number is a multiple of both strides.
            self._buffer[self.kept].copy_(state)
            self.kept += 1
        self.steps += 1

    def _thin(self) -> None:
        self.stride *= 2
        self.kept //= 2
        thinned = self._buffer.new_empty(2 * self.stride, *self._buffer.shape[1:])
        thinned[: self.kept] = self._buffer[: 2 * self.kept : 2]
        self._buffer = thinned

    def states(self) -> Float[Tensor, "kept tasks *state"] | None:
        """Return what was kept, without spare room; None if nothing was to be recorded."""
        if self.record == "none":
            return None
        return self._buffer if self.kept == len(self._buffer) else self._buffer[: self.kept].clone()
