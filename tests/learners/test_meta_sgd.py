"""Meta-SGD: MAML while all rates are equal, and the derivative with respect to each rate by finite differences."""

import torch

import ctml
from ctml.models import MLP
from ctml.tasks import Sinusoid


def learner(inner_lr=0.05):
    network = MLP([1, 6, 1], torch.tanh, ctml.generator(0, "weights")).double()
    return ctml.MetaSGD(network, ctml.mse, inner_lr=inner_lr, inner_steps=2)


def batch():
    return Sinusoid(shots=5, queries=4).sample(3, ctml.generator(0, "tasks")).to(dtype=torch.float64)


def test_with_equal_rates_it_adapts_as_maml_and_has_its_meta_gradient():
    found = learner()
    maml = ctml.MAML(learner().model, ctml.mse, inner_lr=0.05, inner_steps=2)
    assert torch.allclose(found.meta_gradient(batch()), maml.meta_gradient(batch()), rtol=1e-12)
    for p, q in zip(found.model.parameters(), maml.model.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-10, atol=1e-14)


def test_the_gradient_of_a_rate_is_the_slope_of_the_meta_loss():
    found = learner()
    found.meta_gradient(batch())
    for rate in found.rates:
        place, h = (0,) * rate.dim(), 1e-5
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                rate[place] += sign * h
            losses.append(float(found.meta_loss(batch()).mean().detach()))
            with torch.no_grad():
                rate[place] -= sign * h
        slope = (losses[0] - losses[1]) / (2 * h)
        assert abs(float(rate.grad[place]) - slope) < 1e-7 * max(1, abs(slope))


def test_training_moves_every_rate_on_its_own():
    found = learner()
    outer = torch.optim.SGD(found.parameters(), 0.01)
    for _ in range(3):
        found.meta_gradient(batch())
        outer.step()
    assert len({round(float(r.detach()), 9) for rate in found.rates for r in rate.flatten()}) > 10
