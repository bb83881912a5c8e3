"""A class keeps its label over all tasks, and everything else is as in FewShot."""

import torch

from ctml import ClassPool
from ctml.rng import generator
from ctml.tasks import FixedLabels


def test_every_class_has_one_label_and_no_example_is_on_both_sides():
    n_classes, each, ways = 17, 6, 5
    # An example is its own number, so that its class (number // each) can be read off.
    examples = torch.arange(n_classes * each, dtype=torch.float32)[:, None]
    pool = ClassPool(examples, torch.full((n_classes,), each), tuple(map(str, range(n_classes))), "numbers/train")
    batch = FixedLabels(pool, ways=ways, shots=2, queries=3).sample(400, generator(0, "t"))
    seen = set()
    for part in (batch.support, batch.query):
        classes = part.x[..., 0].long() // each
        assert (classes % ways == part.y).all()
        seen |= set(classes.flatten().tolist())
    assert seen == set(range(n_classes - n_classes % ways))
    both = torch.cat([batch.support.x, batch.query.x], 1)[..., 0]
    assert all(len(set(task)) == len(task) for task in both.tolist())
