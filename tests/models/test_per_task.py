"""Any module as a model: the same meta-gradient as a loop over tasks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import ctml
from ctml.models import PerTask
from ctml.rng import generator
from ctml.types import Examples, TaskBatch

TASKS, LR, STEPS = 3, 0.1, 2


def module():
    torch.manual_seed(0)  # the module under test is ordinary torch, which draws from the global generator
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).double()


@pytest.fixture
def batch():
    stream = generator(0, "images")

    def images(n):
        x = torch.randn(TASKS, n, 1, 6, 6, dtype=torch.float64, generator=stream)
        return Examples(x, torch.arange(n).remainder(3).expand(TASKS, -1))

    return TaskBatch(images(3), images(6))


def test_meta_gradient_is_that_of_a_loop_over_tasks(batch):
    model = module()
    ctml.MAML(PerTask(model), ctml.cross_entropy, inner_lr=LR, inner_steps=STEPS).meta_gradient(batch)
    total, shared = 0, dict(model.named_parameters())
    for t in range(TASKS):
        params = dict(shared)
        for _ in range(STEPS):
            loss = F.cross_entropy(functional_call(model, params, (batch.support.x[t],)), batch.support.y[t])
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {k: p - LR * g for (k, p), g in zip(params.items(), gradients, strict=True)}
        total = total + F.cross_entropy(functional_call(model, params, (batch.query.x[t],)), batch.query.y[t]) / TASKS
    for p, g in zip(shared.values(), torch.autograd.grad(total, list(shared.values())), strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4)]
)
def test_norms_by_batch_are_refused(norm):
    with pytest.raises(ValueError, match=f"module.1 is a {type(norm).__name__}.*use nn.GroupNorm"):
        PerTask(nn.Sequential(nn.Conv2d(1, 4, 3), norm))
