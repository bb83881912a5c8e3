"""The trust-region step: the constraint, and the known answer on a paraboloid."""

import pytest
import torch

from ctml.rl import TRPO
from ctml.rl.trpo import gradient_of_surrogate
from ctml.rng import generator


def positive_definite(dim):
    root = torch.randn(dim, dim, generator=generator(0, "a"), dtype=torch.float64)
    return root @ root.mT + torch.eye(dim, dtype=torch.float64)


def test_the_surrogate_and_its_gradient_are_summed_over_the_parts():
    start = torch.arange(3.0, dtype=torch.float64)
    value, slope = gradient_of_surrogate(lambda x: ((k * x.square().sum(), x.sum()) for k in (1.0, 2.0)), start)
    assert value == pytest.approx(15)
    torch.testing.assert_close(slope, 6 * start)


def test_linear_surrogate_quadratic_divergence_is_the_natural_gradient_step():
    """With J = g.x and D = x'Ax/2 the step is -sqrt(2 delta / g'A^-1 g) A^-1 g, on the boundary."""
    a, g = positive_definite(5), torch.arange(1.0, 6, dtype=torch.float64)
    start, delta = torch.zeros(5, dtype=torch.float64), 0.02
    taken = TRPO(delta=delta, damping=0.0, iterations=20).step(
        start, lambda x: [(g @ x, x @ a @ x / 2)], lambda v: a @ v
    )
    natural = torch.linalg.solve(a, g)
    if taken.shortened == 0:
        expected = -((2 * delta / (g @ natural)) ** 0.5) * natural
    else:  # the boundary itself may fail D <= delta by a rounding error
        expected = -0.8 * ((2 * delta / (g @ natural)) ** 0.5) * natural
    torch.testing.assert_close(taken.point, expected, rtol=1e-6, atol=1e-9)
    assert taken.divergence <= delta


@pytest.mark.parametrize("seed", range(5))
def test_the_constraint_holds_where_the_quadratic_model_is_wrong(seed):
    """A divergence whose fourth-order part is large: the first try breaks the constraint, the line search mends it."""
    g = torch.randn(4, generator=generator(seed, "g"), dtype=torch.float64)
    taken = TRPO(delta=0.01, tries=40).step(
        torch.zeros(4, dtype=torch.float64), lambda x: [(g @ x, x @ x / 2 + 1e3 * (x @ x) ** 2)], lambda v: v
    )
    assert taken.shortened > 0
    assert 0 < taken.divergence <= 0.01
    assert taken.surrogate_after < taken.surrogate_before


def test_nothing_moves_where_no_step_is_good():
    start = torch.ones(3, dtype=torch.float64)
    taken = TRPO(delta=0.01, tries=3).step(
        start, lambda x: [(x.sum(), (x - 1) @ (x - 1) / 2 + 1e9 * ((x - 1) ** 4).sum())], lambda v: v
    )
    assert taken.shortened is None
    assert torch.equal(taken.point, start)
    assert taken.surrogate_after == taken.surrogate_before


@pytest.mark.parametrize(
    ("options", "message"),
    [({"delta": 0.0}, "delta=0.0: must be a positive"), ({"shrink": 1.0}, "shrink=1.0: must lie")],
)
def test_senseless_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TRPO(**options)
