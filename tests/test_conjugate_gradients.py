"""Conjugate gradients against a direct solve, and what they do where a system is not positive definite."""

import pytest
import torch

from ctml.conjugate_gradients import NotPositiveDefinite, conjugate_gradients
from ctml.rng import generator

TASKS, DIM = 4, 6


@pytest.fixture
def matrices():
    roots = torch.randn(TASKS, DIM, DIM, generator=generator(0, "a"), dtype=torch.float64)
    return roots @ roots.mT + torch.eye(DIM, dtype=torch.float64)


@pytest.fixture
def right():
    return torch.randn(TASKS, DIM, generator=generator(0, "b"), dtype=torch.float64)


def times(matrices):
    return lambda v: torch.einsum("tde,te->td", matrices, v)


def test_every_task_is_solved_also_one_with_nothing_to_solve(matrices, right):
    right[3] = 0
    x = conjugate_gradients(times(matrices), right, steps=5 * DIM, tolerance=1e-13)
    torch.testing.assert_close(x, torch.linalg.solve(matrices, right), rtol=1e-9, atol=1e-9)


def test_few_steps_leave_a_residual_orthogonal_to_the_solution(matrices, right):
    """So x'A x = x'b, which the trust-region step relies on."""
    x = conjugate_gradients(times(matrices), right, steps=2, tolerance=0.0)
    residual = right - times(matrices)(x)
    assert (residual.norm(dim=1) > 1e-3 * right.norm(dim=1)).all()
    torch.testing.assert_close((x * residual).sum(1), torch.zeros(TASKS, dtype=x.dtype), rtol=0, atol=1e-12)


def test_negative_curvature_is_refused(right):
    with pytest.raises(NotPositiveDefinite, match=r"task 0 is not convex .*take a larger lam"):
        conjugate_gradients(lambda v: -v, right, steps=3, tolerance=1e-10)


def test_truncation_stops_one_task_and_solves_the_others(matrices, right):
    matrices[2] -= 3 * torch.eye(DIM, dtype=torch.float64)
    assert torch.linalg.eigvalsh(matrices[2])[0] < 0
    x = conjugate_gradients(times(matrices), right, steps=5 * DIM, tolerance=1e-13, truncate=True)
    others = torch.arange(TASKS) != 2
    torch.testing.assert_close(x[others], torch.linalg.solve(matrices, right)[others], rtol=1e-9, atol=1e-9)
    assert torch.isfinite(x[2]).all()
