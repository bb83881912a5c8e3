"""Descent until a field is slow, against the closed form on one quadratic: |field| = h |w0| (1 - beta h)^k."""

import math

import torch

from ctml.flows.descent import descend_until
from ctml.flows.maml_field import joint_field
from ctml.tasks import Quadratic

H = 0.8
BOWL = joint_field(Quadratic(torch.tensor([[[H]]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)))


def test_every_point_takes_the_steps_that_it_needs():
    w0 = torch.tensor([[1.0], [10.0], [1000.0]], dtype=torch.float64)
    beta = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    steps, ends = descend_until(BOWL, w0, beta, 1e-3, most=1000)
    expected = [
        math.ceil(math.log(1e-3 / (H * w)) / math.log(1 - b * H)) for w, b in ((1, 0.1), (10, 0.5), (1000, 1.0))
    ]
    assert steps.tolist() == expected
    assert (BOWL(ends).norm(dim=-1) <= 1e-3).all()


def test_a_point_that_is_slow_takes_none_and_one_that_explodes_never_arrives():
    w0 = torch.tensor([[1e-9], [1.0], [1.0]], dtype=torch.float64)
    beta = torch.tensor([0.1, 1e200, 0.1], dtype=torch.float64)
    steps, _ = descend_until(BOWL, w0, beta, 1e-6, most=20)
    assert steps.tolist() == [0, math.inf, math.inf]
