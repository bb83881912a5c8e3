"""Extreme curvatures by Lanczos against the whole Hessian's eigenvalues."""

import pytest
import torch

import ctml
from ctml.inner_solvers import GradientDescent, hessian
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid
from ctml.theory.curvature import extreme_curvatures
from ctml.theory.fo_b_maml import QSuite


def test_of_quadratics_they_are_the_ends_of_the_spectrum():
    suite = QSuite.draw(3, 7, generator(0, "q"))
    spectrum = torch.linalg.eigvalsh(suite.A)
    found = extreme_curvatures(suite.support, torch.randn(3, 7, generator=generator(0, "phi"), dtype=torch.float64))
    torch.testing.assert_close(found, spectrum[:, [0, -1]], rtol=1e-3, atol=1e-6)


def test_of_a_network_they_are_those_of_the_whole_hessian():
    batch = Sinusoid().sample(2, generator(0, "t")).to(dtype=torch.float64)
    network = MLP([1, 6, 1], torch.tanh, generator(0, "w")).double()
    learner = ctml.ProximalReptile(network, ctml.mse, lam=1.0, solver=GradientDescent())
    loss, phi = learner.task_losses(batch).support, learner.theta().expand(2, -1)
    expected = torch.linalg.eigvalsh(hessian(loss, phi))[:, [0, -1]]
    assert expected[0, 0] < 0  # not convex
    torch.testing.assert_close(extreme_curvatures(loss, phi), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", [0, 1])
def test_a_task_does_not_feel_its_neighbours(task):
    suite = QSuite.draw(2, 5, generator(1, "q"))
    phi = torch.zeros(2, 5, dtype=torch.float64)
    alone = extreme_curvatures(suite.take(torch.tensor([task])).support, phi[:1])
    torch.testing.assert_close(extreme_curvatures(suite.support, phi)[task], alone[0], rtol=1e-6, atol=1e-9)
