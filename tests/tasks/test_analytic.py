"""One protocol for all problems without examples: every one of them goes wherever a problem is asked for."""

import math

import pytest
import torch

from ctml.flows.maml_field import maml_field, maml_loss
from ctml.rng import generator
from ctml.tasks import Cosine, CurvatureJump, LogisticRidge, Quadratic, TaskLosses, expand, side_by_side
from ctml.tasks.analytic import log_cosh, quadratic
from ctml.theory.anil_instances import LogCoshTasks, QuadraticTasks, TwoLayerTasks
from ctml.theory.fo_b_maml import GSuite, QSuite

PROBLEMS = {
    "Quadratic": (Quadratic.draw(6, 4, generator(0, "t")), 4),
    "LogisticRidge": (LogisticRidge.draw(6, generator(0, "t"), dim=3), 3),
    "CurvatureJump": (CurvatureJump.two(), 1),
    "Cosine": (Cosine.of(0.3, -1.0), 1),
    "QSuite": (QSuite.draw(6, 4, generator(0, "t")), 4),
    "GSuite": (GSuite.draw(6, 3, 10, generator(0, "t")), 3),
    "QuadraticTasks": (QuadraticTasks.draw(generator(0, "t")).given(torch.ones(4, dtype=torch.float64)), 6),
    "LogCoshTasks": (LogCoshTasks.draw(generator(0, "t")).given(torch.ones(4, dtype=torch.float64)), 6),
    "TwoLayerTasks": (TwoLayerTasks.draw(generator(0, "t")).given(torch.ones(4, dtype=torch.float64)), 20),
}


def points(*shape):
    return torch.randn(*shape, generator=generator(0, "points"), dtype=torch.float64)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_task_losses_at_one_point_or_many(name):
    tasks, d = PROBLEMS[name]
    assert isinstance(tasks, TaskLosses)
    many = points(5, 2, tasks.n_tasks, d)
    for losses in (tasks.support, tasks.query):
        one_by_one = torch.stack([losses(p) for p in many.flatten(0, 1)])
        torch.testing.assert_close(losses(many).flatten(0, 1), one_by_one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_flows(name):
    """The MAML field is minus the slope of the MAML loss, whichever paper the problem comes from."""
    (tasks, d), alpha, eps = PROBLEMS[name], 0.05, 1e-5
    w, along = points(3, d), points(1, d)
    slope = maml_loss(tasks, alpha, w + eps * along) - maml_loss(tasks, alpha, w - eps * along)
    torch.testing.assert_close((maml_field(tasks, alpha)(w) * along).sum(-1), -slope / (2 * eps), rtol=1e-6, atol=1e-7)


def test_a_row_taken_is_a_task():
    for tasks, d in (PROBLEMS[name] for name in ("Quadratic", "LogisticRidge", "CurvatureJump", "Cosine", "GSuite")):
        index, w = torch.tensor([1, 0, 1]), points(d)
        taken = tasks.take(index)
        assert type(taken) is type(tasks) and taken.n_tasks == 3
        torch.testing.assert_close(taken.query(expand(w, 3)), tasks.query(expand(w, tasks.n_tasks))[index])


def test_a_set_of_tasks_is_shown_by_its_shapes():
    assert repr(PROBLEMS["Quadratic"][0]) == "Quadratic(hessian=float64 (6, 4, 4), centre=float64 (6, 4))"
    assert repr(PROBLEMS["LogisticRidge"][0]) == "LogisticRidge(signed=float64 (6, 40, 3), ridge=0.2)"


def test_quadratic_is_half_the_form():
    H, r = points(2, 3, 3), points(2, 3)
    expected = [0.5 * float(r[t] @ H[t] @ r[t]) for t in range(2)]
    assert quadratic(H, r).tolist() == pytest.approx(expected, rel=1e-13)


def test_log_cosh_and_its_derivatives():
    """Against math.cosh where that does not overflow; |r| - log 2 where it does; (log cosh)'' is 1 at 0 itself."""
    r = torch.tensor([-3.0, -0.1, 0.0, 1e-4, 2.0], dtype=torch.float64, requires_grad=True)
    assert log_cosh(r).tolist() == pytest.approx([math.log(math.cosh(x)) for x in r.tolist()], rel=1e-7, abs=1e-15)
    (first,) = torch.autograd.grad(log_cosh(r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(first, torch.tanh(r), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second, 1 / torch.cosh(r) ** 2, rtol=1e-12, atol=1e-12)
    far = torch.tensor([-800.0, 800.0], dtype=torch.float64)
    assert log_cosh(far).tolist() == pytest.approx([800 - math.log(2)] * 2, rel=1e-15)


def test_families_side_by_side_see_only_their_own_point():
    stream = generator(0, "families")
    jumps = [CurvatureJump.of((1.0, 2.0 + k, 3.0, 0.1, k, 1.0), (1.0, 3.0, k, 0.2, 0.0, 1.0)) for k in range(4)]
    logistic = [LogisticRidge.draw(3, stream) for _ in range(4)]
    for d, draws in ((1, jumps), (5, logistic), (2, [Quadratic.draw(3, 2, stream) for _ in range(4)])):
        both = side_by_side(draws)
        points = torch.randn(7, 4, both.n_tasks, d, generator=stream, dtype=torch.float64)
        alone = torch.stack([family.query(points[:, k]) for k, family in enumerate(draws)], 1)
        torch.testing.assert_close(both.query(points), alone)


def test_families_that_share_too_little_are_refused():
    stream = generator(0, "families")
    with pytest.raises(ValueError, match="ridge="):
        side_by_side([LogisticRidge.draw(3, stream), LogisticRidge.draw(3, stream, ridge=0.3)])
    with pytest.raises(ValueError, match="must be of one kind"):
        side_by_side([LogisticRidge.draw(3, stream), CurvatureJump.one()])
