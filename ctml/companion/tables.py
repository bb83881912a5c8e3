"""What several runs found, as a tidy table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ctml.statistics import interval

if TYPE_CHECKING:
    from pandas import DataFrame


def over_seeds_and_tasks(scores: Mapping[str, Any]) -> "DataFrame":
    """Return one row a method: its mean, the 95% intervals over seeds and over tasks, and its worst seed.

    Args:
        scores: method to its numbers `(seeds, tasks)`; the interval over tasks is of the tasks' means over seeds.
    """
    from pandas import DataFrame

    rows = {}
    for method, numbers in scores.items():
        both = torch.as_tensor(numbers, dtype=torch.float64)
        rows[method] = {
            "mean": float(both.mean()),
            "ci95_seeds": interval(both.mean(1)).half_width,
            "ci95_tasks": interval(both.mean(0)).half_width,
            "worst_seed": float(both.mean(1).min()),
        }
    return DataFrame(rows).T.rename_axis("method")


def means(samples: Mapping[tuple[Any, ...], Any], names: Sequence[str]) -> "DataFrame":
    """Return one row a case: its names, the mean over seeds and tasks, the interval over tasks, the mean of each seed.

    Args:
        samples: the case, one value for each name, to its numbers `(seeds, tasks)`, such as accuracies.
        names: the first columns.

    Raises:
        ValueError: if a case has not one value for each name, or its numbers are no such table.
    """
    from pandas import DataFrame

    rows = []
    for case, numbers in samples.items():
        by_seed = torch.as_tensor(numbers, dtype=torch.float64)
        if len(case) != len(names):
            raise ValueError(f"names={list(names)}: must be as many as the values of the case {case!r}")
        if by_seed.ndim != 2:
            raise ValueError(f"samples of {case!r} have shape {tuple(by_seed.shape)}: must be (seeds, tasks)")
        over_tasks = interval(by_seed.mean(0))
        row = {"mean": over_tasks.mean, "ci95_tasks": over_tasks.half_width}
        each = {f"seed {i}": float(seed.mean()) for i, seed in enumerate(by_seed)}
        rows.append(dict(zip(names, case, strict=True)) | row | each)
    return DataFrame(rows)
