"""What a learner asks of its model is found where an nn.Module keeps it."""

import inspect

import torch

import ctml
from ctml.models import MLP, PerTask
from ctml.types import has_head


def test_a_head_is_found_among_the_submodules():
    """Where isinstance with a protocol looks from Python 3.12 on, there is no head."""
    model = MLP([2, 4, 3])
    assert inspect.getattr_static(model, "head", None) is None
    assert has_head(model)
    assert not has_head(PerTask(torch.nn.Linear(2, 3)))
    assert ctml.ANIL(model, ctml.cross_entropy, inner_lr=0.1).keeps_features
    assert ctml.COMLN(model, ctml.cross_entropy).W_0 is model.head.weight
