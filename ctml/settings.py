"""What a run is, as one flat table of names and plain values: `learner.inner_lr` -> 0.01.

Invariants:
    * Settings, not state: parameters and buffers count by name, shape and type, never by their numbers.
    * Nothing that leaves the numbers alone: no device, no `tasks_at_once`, no choice between equal kernels.
    * Names with a leading underscore are their owner's business, here as everywhere.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor, nn

Plain = None | bool | int | float | str
Settings = dict[str, Plain]

WITHOUT_EFFECT = {"training", "tasks_at_once", "foreach", "fused", "capturable", "differentiable"}
"""Attributes and optimiser options that bound memory or choose a kernel; `training` is where a verb stands."""
COUNTERS = {"optimizer", "last_epoch", "T_cur", "params"}
"""Where a scheduler stands, and what it holds, not what it is."""
LONGEST = 32
"""Items of a sequence that are told one by one; a longer one is told by its digest."""
LARGEST = 2**16
"""Numbers of a tensor that are read for a digest; of a larger one the shape must do."""


def describe(**parts: object) -> Settings:
    """Return the settings of the named parts, one line for each plain value in them.

    Functions count by their name: two lambdas of one place are one. Objects count by class and public attributes.
    """
    return {line: value for name, part in parts.items() for line, value in _lines(name, part, ())}


def _lines(name: str, value: object, above: tuple[int, ...]) -> Iterator[tuple[str, Plain]]:
    if value is None or isinstance(value, bool | int | float | str):
        yield name, value
    elif isinstance(value, Fraction | torch.dtype):
        yield name, str(value)
    elif isinstance(value, Tensor):
        yield name, _tensor(value)
    elif isinstance(value, torch.Generator | torch.device) or id(value) in above:
        return
    elif isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        yield name, value.__qualname__
    elif isinstance(value, Mapping) or (isinstance(value, list | tuple) and not hasattr(value, "_fields")):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        lines = [line for k, v in pairs for line in _lines(f"{name}.{k}", v, (*above, id(value)))]
        yield from lines if len(value) <= LONGEST else [(name, f"{len(value)} items, {_digest(repr(lines).encode())}")]
    else:
        yield name, type(value).__qualname__
        for attribute, inside in _attributes(value).items():
            if not attribute.startswith("_") and attribute not in WITHOUT_EFFECT:
                yield from _lines(f"{name}.{attribute}", inside, (*above, id(value)))


def _attributes(value: object) -> Mapping[str, object]:
    if isinstance(value, nn.Module):
        tensors = [*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)]
        return {**vars(value), **{k: _shape(t) for k, t in tensors}, **dict(value.named_children())}
    if isinstance(value, torch.optim.Optimizer):
        return {"groups": [_group(group) for group in value.param_groups]}
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return {k: v for k, v in vars(value).items() if k not in COUNTERS}
    if isinstance(value, partial):
        return {"function": value.func, "args": value.args, "keywords": value.keywords}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):  # with names
        return value._asdict()  # type: ignore[attr-defined]
    return getattr(value, "__dict__", {})


def _group(group: dict) -> dict[str, object]:
    """Return an optimiser group's options, as they were before a scheduler moved them."""
    moved = {"params"}
    if "initial_lr" in group:
        moved |= {"lr"}
    if "base_momentum" in group:
        moved |= {"momentum", "betas"}
    options = {k: v for k, v in group.items() if k not in moved | WITHOUT_EFFECT}
    return {"parameters": len(group["params"]), **options}


def _shape(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}{' trained' if t.requires_grad else ''}"


def _tensor(t: Tensor) -> Plain:
    if t.numel() == 1 and t.dim() == 0:
        return t.detach().item()
    if t.numel() > LARGEST:
        return _shape(t)
    return f"{_shape(t)}, {_digest(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())}"


def _digest(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()[:12]}"
