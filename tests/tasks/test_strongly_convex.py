"""The oracle tasks of the MAML ODE: losses against the stated derivatives, constants against the Hessians."""

import pytest
import torch

from ctml.rng import generator
from ctml.tasks import CurvatureJump, Logistic, LogisticRidge, Quadratic


def derivatives(loss, points, orders):
    """Take derivatives of a task's loss on the line by autograd."""
    x = points.clone().requires_grad_()
    y = loss(x)
    found = []
    for _ in range(orders):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        y = y[..., 0]
        found.append(y.detach())
    return found


def test_curvature_jump_has_the_stated_derivatives():
    tasks = CurvatureJump.of((1.0, 4.0, 3.0, 0.05, 0.0, 1.0), (0.1, 2.0, 1.0, 0.3, -2.0, -1.0))
    w = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None, None].expand(-1, 2, 1)
    first, second = derivatives(tasks.query, w, 2)
    u = tasks.side * (w[..., 0] - tasks.centre)
    v = u - tasks.jump
    root = (v**2 + tasks.width**2).sqrt()
    half = (tasks.smoothness - tasks.mu) / 2
    torch.testing.assert_close(first, tasks.side * (tasks.mu * u + half * (v + root)), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(second, tasks.mu + half * (1 + v / root), rtol=1e-8, atol=1e-8)
    assert (second >= tasks.mu - 1e-9).all()
    assert (second <= tasks.smoothness + 1e-9).all()
    assert (second.min(0).values < 1.01 * tasks.mu).all()  # both constants are reached, so they are not idle
    assert (second.max(0).values > 0.99 * tasks.smoothness).all()


def test_logistic_ridge_is_the_textbook_loss():
    batch = Logistic(dim=3, shots=30, queries=0, spread=0.4).sample(4, generator(0, "t")).to(dtype=torch.float64)
    tasks = LogisticRidge.draw(4, generator(0, "t"), dim=3, examples=30, spread=0.4, ridge=0.3)
    w = torch.randn(4, 3, generator=generator(0, "w"), dtype=torch.float64)
    logits = (batch.support.x @ w[..., None])[..., 0]
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, batch.support.y.double(), reduction="none"
    ).mean(1)
    torch.testing.assert_close(tasks.query(w), each + 0.15 * w.square().sum(-1), rtol=1e-12, atol=0)
    shared = w[:1].expand(7, 1, 3)  # leading axes, and one point for all tasks
    assert tasks.query(shared).shape == (7, 4)


def test_logistic_ridge_constants_bound_every_tasks_hessian():
    tasks = LogisticRidge.draw(6, generator(1, "t"), spread=0.5)
    stream = generator(1, "w")
    hessians = torch.func.vmap(torch.func.hessian(lambda w: tasks.query(w.expand(6, -1))))  # (points, tasks, d, d)
    w = 3 * torch.randn(40, 5, generator=stream, dtype=torch.float64)
    step = 0.5 * torch.randn(40, 5, generator=stream, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(hessians(w))
    assert eigenvalues.min() >= tasks.ridge
    assert eigenvalues.max() <= tasks.smoothness
    steepest = torch.linalg.eigvalsh(hessians(torch.zeros(1, 5, dtype=torch.float64))).max()
    assert float(steepest) == pytest.approx(tasks.smoothness, rel=1e-9)  # reached where the sigmoid is steepest
    change = torch.linalg.matrix_norm(hessians(w + step) - hessians(w), ord=2).amax(1)
    assert (change <= tasks.hessian_lipschitz * step.norm(dim=1)).all()


def test_quadratic_at_own_points_is_the_diagonal_of_all_tasks_at_all_points():
    tasks = Quadratic.draw(5, 3, generator(0, "t"))
    w = torch.randn(5, 3, generator=generator(0, "w"), dtype=torch.float64)
    torch.testing.assert_close(tasks.query(w), tasks.loss(w).diagonal())


@pytest.mark.parametrize("task", [(0.0, 4, 3, 0.1, 0, 1), (1.0, 0.5, 3, 0.1, 0, 1), (1.0, 4, 3, 0.0, 0, 1)])
def test_curvature_jump_refuses_what_is_not_strongly_convex_or_smooth(task):
    with pytest.raises(ValueError, match=r"mu=|width=|smoothness="):
        CurvatureJump.of(task)


def test_logistic_ridge_refuses_a_ridge_of_zero():
    with pytest.raises(ValueError, match="ridge=0"):
        LogisticRidge.draw(2, generator(0, "t"), ridge=0.0)
