"""Sinusoids, linear and logistic regression, quadratics: the distributions are what their docstrings say."""

import pytest
import torch

from ctml.rng import generator
from ctml.tasks import LinearRegression, Logistic, Quadratic, Sinusoid


def test_sinusoids_lie_on_one_curve_of_the_family():
    batch = Sinusoid(shots=30, queries=30).sample(200, generator(0, "t"))
    x, y = batch.support
    # A sin(x - phi) = a sin x + b cos x: two unknowns, thirty points, no residual, and phi in [0, pi] means b <= 0.
    basis = torch.cat([torch.sin(x), torch.cos(x)], -1).double()
    solution = torch.linalg.lstsq(basis, y.double()).solution
    assert (basis @ solution - y).abs().max() < 1e-5
    amplitude = solution.norm(dim=1)
    assert amplitude.min() >= 0.1 - 1e-4
    assert amplitude.max() <= 5 + 1e-4
    assert solution[:, 1].max() < 1e-4
    assert torch.cat([batch.query.x, x], 1).abs().max() <= 5
    q = torch.cat([torch.sin(batch.query.x), torch.cos(batch.query.x)], -1).double() @ solution
    torch.testing.assert_close(q.float(), batch.query.y, atol=1e-4, rtol=0)


def test_linear_regression_moments():
    tasks = LinearRegression(dim=3, shots=4000, queries=1, spread=2.0, noise=0.0, condition=16.0, centre=1.0)
    batch = tasks.sample(300, generator(0, "t"))
    w = torch.linalg.lstsq(batch.support.x, batch.support.y).solution[..., 0]
    torch.testing.assert_close(batch.support.x.std((0, 1)), torch.tensor([1.0, 0.5, 0.25]), rtol=0.02, atol=0)
    torch.testing.assert_close(w.mean(0), torch.ones(3), atol=0.5, rtol=0)
    torch.testing.assert_close(w.std(0), torch.full((3,), 2.0), rtol=0.15, atol=0)


def test_logistic_labels_follow_the_weights():
    batch = Logistic(dim=2, shots=5000, queries=0, size=3.0, spread=0.0).sample(2, generator(0, "t"))
    w = 3.0 * torch.randn(2, 1, generator=_after_inputs(2, 5000, 2))
    margin = (batch.support.x @ w)[..., 0]
    assert batch.support.y[margin > 4].float().mean() > 0.95
    assert batch.support.y[margin < -4].float().mean() < 0.05
    near = batch.support.y[margin.abs() < 0.1].float()
    assert abs(near.mean() - 0.5) < 0.2


def _after_inputs(n_tasks, n, dim):
    stream = generator(0, "t")
    torch.randn(n_tasks, n, dim, generator=stream)
    return stream


def test_quadratic_gradient_is_that_of_the_loss():
    tasks = Quadratic.draw(4, 3, generator(0, "t"))
    w = torch.randn(2, 3, dtype=torch.float64, generator=generator(0, "w")).requires_grad_()
    for i in range(4):
        (expected,) = torch.autograd.grad(tasks.loss(w)[:, i].sum(), w)
        torch.testing.assert_close(tasks.gradient(w)[:, i], expected)
    spectrum = torch.linalg.eigvalsh(tasks.hessian)
    assert spectrum.min() >= 1 - 1e-12
    assert spectrum.max() <= 5 + 1e-12


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sinusoid(shots=0),
        lambda: LinearRegression(noise=-1.0),
        lambda: LinearRegression(condition=float("nan")),
        lambda: Logistic(dim=0),
        lambda: Quadratic.draw(1, 2, generator(0, "t"), curvature=(2.0, 1.0)),
        lambda: Quadratic.draw(1, 2, generator(0, "t"), curvature=(0.0, 1.0)),
    ],
)
def test_senseless_parameters_are_named(make):
    with pytest.raises(ValueError, match=r"\w+(\[\d\])?=\S+: must be"):
        make()
