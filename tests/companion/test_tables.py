"""Means and intervals against scipy's."""

import numpy as np
import pytest
import torch
from scipy import stats

from ctml.companion import tables
from ctml.statistics import interval

ACCURACIES = np.array([[60.0, 80.0, 70.0, 90.0], [50.0, 90.0, 60.0, 80.0]])


def test_each_case_is_a_row_with_its_interval_over_tasks() -> None:
    table = tables.means({("glyphs", "anil"): ACCURACIES, ("glyphs", "maml"): torch.ones(3, 2)}, ["data", "method"])
    assert table.columns.tolist() == ["data", "method", "mean", "ci95_tasks", "seed 0", "seed 1", "seed 2"]
    assert table.method.tolist() == ["anil", "maml"]
    low, high = stats.t.interval(0.95, 3, 72.5, stats.sem(ACCURACIES.mean(0)))
    assert table["mean"].tolist() == pytest.approx([72.5, 1])
    assert table.ci95_tasks.tolist() == pytest.approx([(high - low) / 2, 0])
    assert table.loc[0, ["seed 0", "seed 1"]].tolist() == [75, 70]
    assert np.isnan(table["seed 2"][0]), "the first has two seeds"


@pytest.mark.parametrize(
    ("case", "numbers", "message"),
    [
        (("anil",), ACCURACIES, r"names=\['data', 'method'\]: must be as many as the values of the case \('anil',\)"),
        (("glyphs", "anil"), ACCURACIES[0], r"have shape \(4,\): must be \(seeds, tasks\)"),
    ],
)
def test_what_is_no_such_table_is_refused(case, numbers, message) -> None:
    with pytest.raises(ValueError, match=message):
        tables.means({case: numbers}, ["data", "method"])


def test_intervals_over_seeds_and_over_tasks_stand_beside_each_other():
    scores = torch.rand(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = tables.over_seeds_and_tasks({"maml": scores, "anil": scores[:, :20].tolist()})
    assert table.loc["maml", "mean"] == pytest.approx(float(scores.mean()))
    assert table.loc["maml", "ci95_seeds"] == interval(scores.mean(1)).half_width
    assert table.loc["maml", "ci95_tasks"] == interval(scores.mean(0)).half_width
    assert table.loc["anil", "worst_seed"] == pytest.approx(float(scores[:, :20].mean(1).min()))
    assert table.index.name == "method"
