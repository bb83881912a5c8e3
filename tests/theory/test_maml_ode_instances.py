"""The instances are the tasks that they say they are, and all start far away."""

import pytest
import torch

from ctml.rng import generator
from ctml.tasks import LogisticRidge, Quadratic, expand
from ctml.theory.maml_ode_instances import far_start, through_concavity


@pytest.mark.parametrize("name", ["quadratics", "logistic"])
def test_families_that_start_far_away_are_their_tasks(name):
    losses, alpha, w0 = far_start(name, 3, generator(0, "t"))
    stream = generator(0, "t")
    draws = [Quadratic.draw(6, 4, stream) if name == "quadratics" else LogisticRidge.draw(8, stream) for _ in range(3)]
    steepest = 6.0 if name == "quadratics" else max(tasks.smoothness for tasks in draws)
    assert alpha == pytest.approx(0.6 / steepest)
    assert (w0 == 50).all() and losses.n_tasks == draws[0].n_tasks
    alone = torch.stack([tasks.query(expand(w, tasks.n_tasks)) for tasks, w in zip(draws, w0, strict=True)])
    torch.testing.assert_close(losses.query(expand(w0, losses.n_tasks)), alone)


def test_an_unknown_instance_is_refused_by_name():
    with pytest.raises(ValueError, match="name='cubics'"):
        far_start("cubics", 2, generator(0, "t"))


def test_families_through_concavity_are_strongly_convex_and_jump_on_the_way():
    for tasks in through_concavity(50, generator(0, "t")):
        assert (tasks.mu == 1).all() and (tasks.smoothness >= 3).all()
        assert 2 <= float(tasks.centre[0] + tasks.jump[0]) <= 5
