"""Equal terms: the same start and tasks for all, grids of one size, and settings that the test classes never decide."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import ctml
from ctml.comparison import Contender, Terms, by_test_steps, compete, gradients_a_task, grid, meta_trained, winners
from ctml.inner_solvers import GradientDescent

TERMS = Terms(
    meta_steps=6, meta_batch=2, ways=3, queries=2, width=4, schedule="one cycle", validate_every=3, validation_tasks=3,
    test_queries=2,
)  # fmt: skip
STEPS: dict[str, Any] = {"dial": "inner_lr", "values": (0.1, 0.4)}
PULL: dict[str, Any] = {"dial": "lam", "values": (0.5, 2.0), "fixed": {"solver": GradientDescent(rate=0.1, steps=2)}}
CONTENDERS = {
    "maml": Contender("maml", **STEPS, test_steps=(1, 3)),
    "bi_maml": Contender("bi_maml", **STEPS, joint_share=0.5),
    "comln": Contender("comln", "horizon", (1.0, 4.0)),
    "imaml": Contender("imaml", **{**PULL, "fixed": {**PULL["fixed"], "truncate": True}}, test_steps=(1,)),
}


def pool(name: str, classes: int = 6) -> ctml.ClassPool:
    images = torch.rand(8 * classes, 1, 28, 28, generator=ctml.generator(0, name))
    return ctml.ClassPool(images, torch.full((classes,), 8), tuple(map(str, range(classes))), name)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_starts_from_the_weights_of_the_seed(name: str) -> None:
    first, other = (CONTENDERS[name].learner(TERMS, 0.5, (1, 28, 28), seed) for seed in (3, 4))
    maml = CONTENDERS["maml"].learner(TERMS, 0.1, (1, 28, 28), 3)
    same = [torch.equal(p, q) for p, q in zip(first.model.parameters(), maml.model.parameters(), strict=True)]
    assert all(same)
    pairs = zip(first.model.parameters(), other.model.parameters(), strict=True)
    assert not all(torch.equal(p, q) for p, q in pairs)


def test_the_share_of_joint_training_is_one_of_the_meta_steps() -> None:
    learner = CONTENDERS["bi_maml"].learner(replace(TERMS, meta_steps=10), 0.1, (1, 28, 28), 0)
    assert isinstance(learner, ctml.BiMAML)
    assert learner.switch.at_most == 5


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_run_is_that_of_meta_train(name: str) -> None:
    train, val, contender = pool("train"), pool("val"), CONTENDERS[name]
    learner, history = meta_trained(contender, TERMS, contender.values[0], 1e-2, 1, train, val)
    assert [step for step, _ in history.validation] == [3, 6] and history.steps == 6
    plain = contender.learner(TERMS, contender.values[0], (1, 28, 28), 1)
    optimizer = torch.optim.Adam(plain.parameters(), 1e-2)
    twin = ctml.meta_train(
        plain, ctml.tasks.FewShot(train, 3, 1, 2), optimizer=optimizer, steps=6, meta_batch=2, seed=1, progress=False,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=6, pct_start=0.1),
    )  # fmt: skip
    assert history.loss == twin.loss
    assert set(by_test_steps(contender, learner, TERMS, val)) == set(contender.test_steps or (None,))


def test_a_constant_rate_is_another_run() -> None:
    runs = [
        meta_trained(CONTENDERS["maml"], replace(TERMS, schedule=s), 0.1, 1e-2, 0, pool("train"), pool("val"))[1].loss
        for s in ("one cycle", "constant")
    ]
    assert runs[0][0] == runs[1][0] and runs[0][-1] != runs[1][-1]


def test_the_search_is_as_thorough_for_all_and_takes_the_best() -> None:
    tried = grid({"a": Contender("maml", **STEPS), "b": Contender("fo_maml", **STEPS)}, (1e-3, 1e-2))
    assert len(tried) == 8 and sum(t["name"] == "a" for t in tried) == 4
    scores = [0.1, 0.4, 0.4, 0.2, 0.9, 0.1, 0.1, 0.1]
    assert winners(tried, scores) == {"a": {"value": 0.1, "outer_lr": 1e-2}, "b": {"value": 0.1, "outer_lr": 1e-3}}
    with pytest.raises(ValueError, match=r"'b': 1.*every dial must have as many values as the others"):
        grid({"a": CONTENDERS["maml"], "b": Contender("fo_maml", "inner_lr", (0.1,))}, (1e-3,))


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(ValueError, match="schedule='linear': must be one of one cycle, constant"):
        Terms(schedule="linear")
    with pytest.raises(ValueError, match="meta_steps=0"):
        Terms(meta_steps=0)


def test_the_test_is_of_the_steps_that_adapt_best_on_validation_tasks(tmp_path) -> None:
    contender, splits = CONTENDERS["maml"], {name: pool(name) for name in ("train", "val", "test")}
    found = compete(contender, TERMS, 0.4, 1e-2, 0, splits, test_tasks=5, checkpoint=tmp_path / "run.pt")
    assert found["steps"] == max(found["by steps"], key=found["by steps"].get)
    learner, history = meta_trained(contender, TERMS, 0.4, 1e-2, 0, splits["train"], splits["val"])
    assert found["validation"] == history.validation
    assert found["by steps"] == by_test_steps(contender, learner, TERMS, splits["val"])
    tasks = ctml.tasks.FewShot(splits["test"], 3, 1, 2)
    assert found["test"] == ctml.meta_test(learner, tasks, n_tasks=5, inner_steps=found["steps"]).scores.tolist()
    other = {**splits, "test": pool("other test")}
    again = compete(contender, TERMS, 0.4, 1e-2, 0, other, test_tasks=5)
    assert {k: again[k] for k in ("validation", "by steps", "steps")} == {
        k: found[k] for k in ("validation", "by steps", "steps")
    }, "the test classes decided something"


def test_the_budget_counts_second_order_products_twice() -> None:
    batch = TERMS.tasks(pool("train"), training=True).sample(2, ctml.generator(0, "t"))
    budgets = {
        m: gradients_a_task(Contender(m, **STEPS).learner(TERMS, 0.1, (1, 28, 28), 0), batch)
        for m in ("maml", "fo_maml")
    }
    assert budgets == {"maml": 4.0, "fo_maml": 2.0}
