"""The few-shot sampler draws what the words say."""

import time

import pytest
import torch

from ctml.learners import MAML
from ctml.losses import cross_entropy
from ctml.models import Conv4
from ctml.rng import generator
from ctml.tasks import FewShot
from ctml.timing import in_turns
from ctml.types import ClassPool


def pool(counts=(6, 9, 7, 8, 6), device="cpu"):
    """A pool whose examples carry (class, index within class) as their values."""
    rows = [(c, i) for c, n in enumerate(counts) for i in range(n)]
    return ClassPool(
        torch.tensor(rows, dtype=torch.float32), torch.tensor(counts), tuple(map(str, range(len(counts)))), "made"
    )


def test_shapes_labels_and_classes():
    batch = FewShot(pool(), ways=3, shots=2, queries=4).sample(50, generator(0, "t"))
    assert batch.support.x.shape == (50, 6, 2)
    assert batch.query.x.shape == (50, 12, 2)
    assert batch.support.y[0].tolist() == [0, 0, 1, 1, 2, 2]
    support_class, query_class = batch.support.x[..., 0], batch.query.x[..., 0]
    for label in range(3):
        of_label = torch.cat(
            [support_class[:, 2 * label : 2 * label + 2], query_class[:, 4 * label : 4 * label + 4]], 1
        )
        assert (of_label == of_label[:, :1]).all(), "one label, one class"
    assert all(len(set(row.tolist())) == 3 for row in support_class), "three labels, three classes"


def test_no_example_twice_in_a_task_and_every_example_reachable():
    counts = (6, 9, 7, 8, 6)
    batch = FewShot(pool(counts), ways=5, shots=2, queries=4).sample(400, generator(1, "t"))
    seen = torch.cat([batch.support.x, batch.query.x], 1)
    assert all(len({tuple(e) for e in task.tolist()}) == 30 for task in seen)
    assert {tuple(map(int, e)) for e in seen.flatten(0, 1).tolist()} == {
        (c, i) for c, n in enumerate(counts) for i in range(n)
    }


def test_uint8_images_become_unit_floats():
    images = torch.full((12, 1, 2, 2), 255, dtype=torch.uint8)
    batch = FewShot(ClassPool(images, torch.tensor([6, 6]), ("a", "b"), "made"), 2, 1, 2).sample(3, generator(0, "t"))
    assert batch.support.x.dtype == torch.float32
    assert (batch.support.x == 1.0).all()


def test_same_stream_same_tasks():
    tasks = FewShot(pool(), 3, 1, 2)
    a, b = tasks.sample(4, generator(5, "t")), tasks.sample(4, generator(5, "t"))
    assert torch.equal(a.query.x, b.query.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 6}, "ways=6: made has only 5 classes"),
        ({"ways": 1}, "ways=1: must be at least 2"),
        ({"shots": 0}, "shots=0"),
        ({"shots": 3, "queries": 4}, r"shots=3 \+ queries=4: class '0' of made has only 6 examples"),
    ],
)
def test_impossible_tasks_are_refused_before_any_draw(options, message):
    with pytest.raises(ValueError, match=message):
        FewShot(pool(), **{"ways": 3, "shots": 1, "queries": 2, **options})


def test_pool_must_add_up():
    with pytest.raises(ValueError, match="counts sum to 3"):
        ClassPool(torch.zeros(4, 2), torch.tensor([1, 2]), ("a", "b"), "made")


def test_drawing_large_photographs_costs_little_of_a_meta_step() -> None:
    """Tasks of 84x84 photographs in colour, held as uint8, against the cheapest meta-step on them: at most 5%."""
    images = torch.randint(0, 256, (20 * 50, 3, 84, 84), dtype=torch.uint8, generator=generator(0, "images"))
    pool = ClassPool(images, torch.full((20,), 50), tuple(map(str, range(20))), "noise")
    tasks, stream = FewShot(pool, ways=5, shots=1, queries=5), generator(0, "tasks")
    model = Conv4(3, 5, side=84, width=32, generator=generator(0, "weights"))
    learner = MAML(model, cross_entropy, inner_lr=0.1, order="first")
    batch = tasks.sample(2, stream)
    work = {"draw": lambda: tasks.sample(2, stream), "step": lambda: learner.meta_gradient(batch)}
    seconds = in_turns(work, turns=3, clock=time.process_time)
    assert min(seconds["draw"]) <= 0.05 * min(seconds["step"])
