"""A cut network is the network."""

import pytest
import torch

from ctml.models import Conv4, DeepHead, ResNet12
from ctml.rng import generator

NETWORKS = {
    "conv4": lambda: Conv4(1, 3, width=4, side=16, generator=generator(0, "w")),
    "conv4 with strides": lambda: Conv4(1, 3, width=4, side=16, pool=False, generator=generator(0, "w")),
    "resnet12": lambda: ResNet12(1, 3, side=16, generator=generator(0, "w")),
    "resnet12 averaged": lambda: ResNet12(1, 3, side=16, average=True, generator=generator(0, "w")),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("blocks", [1, 4])
def test_outputs_and_parameters_are_the_uncut_models(make, blocks):
    model, x = make(), torch.rand(2, 3, 1, 16, 16, generator=generator(0, "x"))
    cut = DeepHead(model, blocks)
    torch.testing.assert_close(cut(x), model(x), rtol=0, atol=0)
    assert {p.data_ptr() for p in cut.parameters()} == {p.data_ptr() for p in model.parameters()}
    above = {p.data_ptr() for p in cut.head.parameters()}
    expected = [p.data_ptr() for block in model.blocks[4 - blocks :] for p in block.parameters()]
    assert above == {*expected, *(p.data_ptr() for p in model.head.parameters())}


@pytest.mark.parametrize("blocks", [0, 5])
def test_senseless_cuts_are_named(blocks):
    with pytest.raises(ValueError, match=f"blocks={blocks}: must be between 1 and 4, the blocks of Conv4"):
        DeepHead(Conv4(1, 3, side=16), blocks)


def test_support_statistics_are_refused():
    with pytest.raises(ValueError, match="norm='support': a deep head would need"):
        DeepHead(Conv4(1, 3, side=16, norm="support"))
