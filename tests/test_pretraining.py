"""Features that are learned once: the classes come apart, and a picture's features are its own."""

import pytest
import torch

from ctml import data
from ctml.models import Conv4
from ctml.pretraining import embed, pretrain, split_classes
from ctml.rng import generator
from ctml.types import ClassPool


def network(classes: int) -> Conv4:
    return Conv4(1, classes, width=8, side=28, norm="support", generator=generator(0, "network"))


@pytest.fixture(scope="module")
def letters() -> ClassPool:
    return split_classes(data.pool("glyphs", "train"), 8)[0]


def test_it_learns_to_tell_the_classes_apart(letters) -> None:
    model = network(8)
    classes = torch.arange(8).repeat_interleave(letters.counts)

    def right() -> float:
        return float((model((letters.examples.float() / 255)[None])[0].argmax(-1) == classes).float().mean())

    before = right()
    pretrain(model, letters, epochs=8, batch=16, rate=1e-2, seed=0)
    assert before < 0.3 < 0.6 < right()


def test_a_picture_s_features_do_not_depend_on_the_others(letters) -> None:
    model, context = network(8), letters.examples[::3]
    every = embed(model, letters, context)
    alone = embed(model, split_classes(letters, 1)[0], context)
    torch.testing.assert_close(alone.examples, every.examples[: len(alone.examples)], rtol=1e-4, atol=1e-5)
    assert every.source == letters.source
    assert torch.equal(every.counts, letters.counts)


def test_a_network_that_mixes_pictures_is_refused(letters) -> None:
    model = Conv4(1, 8, width=4, side=28, norm="transductive")
    with pytest.raises(ValueError, match="neighbours"):
        embed(model, letters, letters.examples)


def test_more_images_a_batch_than_there_are_is_refused(letters) -> None:
    with pytest.raises(ValueError, match="batch=100000"):
        pretrain(network(8), letters, epochs=1, batch=100_000, seed=0)


def test_the_two_parts_of_a_pool_are_the_pool(letters) -> None:
    parts = split_classes(letters, 3)
    assert [part.names for part in parts] == [letters.names[:3], letters.names[3:]]
    assert torch.equal(torch.cat([part.examples for part in parts]), letters.examples)
    assert all(int(part.counts.sum()) == len(part.examples) for part in parts)
    with pytest.raises(ValueError, match="first=8"):
        split_classes(letters, 8)
