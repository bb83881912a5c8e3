"""The instances are the tasks that they say they are, and all start far away."""

import pytest
import torch

from ctml.flows.maml_field import gradients
from ctml.rng import generator
from ctml.tasks import LinearRegression, LogisticRidge, Quadratic, expand
from ctml.theory.maml_ode_instances import far_start


def at_start(losses, w0):
    shared = expand(w0, losses.n_tasks)
    return losses.query(shared), gradients(losses.support, shared)


@pytest.mark.parametrize("name", ["quadratics", "logistic"])
def test_oracle_instances_are_their_tasks(name):
    losses, alpha, w0 = far_start(name, generator(0, "t"))
    stream = generator(0, "t")
    tasks = Quadratic.draw(6, 4, stream) if name == "quadratics" else LogisticRidge.draw(8, stream)
    assert alpha == (0.1 if name == "quadratics" else 0.6 / tasks.smoothness)
    assert (w0 == 50).all() and losses.n_tasks == tasks.n_tasks
    torch.testing.assert_close(at_start(losses, w0)[0], tasks.query(w0.expand(tasks.n_tasks, -1)))


def test_linear_regression_has_the_gradient_of_least_squares():
    losses, alpha, w0 = far_start("linear 3", generator(0, "t"), regressions=5)
    x, y = LinearRegression(dim=3).sample(5, generator(0, "t")).to(dtype=torch.float64).support
    design = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    expected = 2 / 20 * (design.mT @ (design @ w0[:, None] - y))[..., 0]
    slopes = at_start(losses, w0)[1]
    assert (alpha, w0.shape) == (0.05, (4,))
    # Whether the bias comes first or last, every weight stands at 50.
    torch.testing.assert_close(slopes.sort(-1).values, expected.sort(-1).values)


def test_an_unknown_instance_is_refused_by_name():
    with pytest.raises(ValueError, match="name='cubics'"):
        far_start("cubics", generator(0, "t"))
