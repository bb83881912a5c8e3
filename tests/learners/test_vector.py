"""The meta-gradient as a vector against autograd, and that it is nobody else's memory."""

import torch

from ctml.learners import MAML
from ctml.learners.vector import meta_gradient_vector
from ctml.losses import mse
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid


def test_it_is_the_gradient_of_the_mean_meta_loss_and_stays_it():
    learner = MAML(MLP([1, 8, 1], generator=generator(0, "weights")).double(), mse, inner_lr=0.1, inner_steps=2)
    first, second = (Sinusoid().sample(3, generator(seed, "tasks")).to(dtype=torch.float64) for seed in (0, 1))
    found = meta_gradient_vector(learner, first)
    expected = torch.autograd.grad(learner.meta_loss(first).mean(), list(learner.parameters()))
    assert torch.allclose(found, torch.cat([g.flatten() for g in expected]), rtol=1e-12)
    before = found.clone()
    assert not torch.allclose(meta_gradient_vector(learner, second), before)
    assert torch.equal(found, before)


def test_a_parameter_out_of_reach_counts_with_zeros():
    model = MLP([1, 4, 1], generator=generator(0, "weights"))
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(5)))
    learner = MAML(model, mse, inner_lr=0.1, inner_steps=0)
    found = meta_gradient_vector(learner, Sinusoid().sample(2, generator(0, "tasks")))
    assert len(found) == sum(p.numel() for p in learner.parameters())
    assert (found == 0).sum() >= 5
