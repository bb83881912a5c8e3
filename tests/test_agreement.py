"""Relative error, angle and central differences against values known by hand and against autograd."""

import math

import pytest
import torch

import ctml
from ctml.agreement import angle, central_differences, maml_by_definition, relative_error

X = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)


def test_relative_error_is_of_all_axes_together():
    exact = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert relative_error(exact + 0.5, exact) == pytest.approx(1 / 5)
    assert relative_error(exact, exact) == 0


def test_relative_error_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"found has shape \(3,\), exact \(2, 3\): must be the same"):
        relative_error(torch.ones(3), torch.ones(2, 3))


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0])
def test_angle_in_degrees(degrees):
    turned = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=torch.float64)
    assert angle(2 * torch.tensor([1.0, 0.0], dtype=torch.float64), 3 * turned) == pytest.approx(degrees, abs=1e-6)


def test_central_differences_are_the_jacobian():
    def f(x):
        return torch.stack([(x**2).sum().sin(), x.prod()])

    expected = torch.autograd.functional.jacobian(f, X)
    assert torch.allclose(central_differences(f, X), expected, atol=1e-7)
    # second order in eps: ten times the step, a hundred times the error
    errors = [float((central_differences(f, X, eps) - expected).norm()) for eps in (1e-2, 1e-1)]
    assert errors[1] / errors[0] == pytest.approx(100, rel=0.1)


def test_central_differences_need_a_step():
    with pytest.raises(ValueError, match=r"eps=0.0: must be a positive finite number"):
        central_differences(torch.sum, X, 0.0)


@pytest.mark.parametrize("steps", [1, 3])
def test_maml_by_definition_is_the_slope_of_the_query_loss_after_adaptation(steps):
    network = ctml.models.MLP([1, 4, 1], torch.tanh, ctml.generator(0, "weights")).double()
    learner = ctml.MAML(network, ctml.mse, inner_lr=0.1, inner_steps=steps)
    batch = ctml.tasks.Sinusoid(shots=4, queries=3).sample(3, ctml.generator(0, "tasks")).to(dtype=torch.float64)
    theta = torch.nn.utils.parameters_to_vector(network.parameters()).detach()

    def after(vector):
        torch.nn.utils.vector_to_parameters(vector, network.parameters())
        return learner.meta_loss(batch).mean().detach()

    slopes = central_differences(after, theta, 1e-5)
    after(theta)
    assert relative_error(maml_by_definition(learner, batch), slopes) < 1e-7
    learner.meta_gradient(batch)
    batched = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert relative_error(maml_by_definition(learner, batch), batched) < 1e-12
