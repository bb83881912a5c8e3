"""Steps on a head: against the Euler steps of its flow, and against the derivative of a minimum found to the end."""

import pytest
import torch

from ctml.flows import FixedSteps, adapt_head
from ctml.flows.head_descent import descend_head, proximal_head, ridge_head
from ctml.flows.tableaus import EULER
from ctml.losses import cross_entropy
from ctml.rng import generator
from ctml.tasks import Embeddings

TASKS = Embeddings(ways=3, shots=2, queries=4, d=6)


def meta_gradient(adapt):
    """Return dL_test in Phi and W_0."""
    stream = generator(0, "t")
    batch = TASKS.sample(2, stream)
    leaves = batch.support.x.clone().requires_grad_(), (3 * TASKS.head(stream)).requires_grad_()
    W = adapt(leaves[0], batch.support.y, leaves[1])
    return torch.autograd.grad(cross_entropy(batch.query.x @ W.mT, batch.query.y).sum(), leaves)


@pytest.mark.parametrize("segments", [1, 3, 7])
def test_descent_is_the_flow_by_euler_steps(segments):
    horizon = torch.tensor(0.4 * 7, dtype=torch.float64)
    found = meta_gradient(lambda *task: descend_head(*task, rate=0.4, steps=7, segments=segments))
    expected = meta_gradient(lambda *task: adapt_head(*task, horizon, solver=FixedSteps(7, EULER)))
    torch.testing.assert_close(found, expected)


def test_the_implicit_gradient_is_that_of_the_minimum():
    def unrolled(phi, y, W_0):
        W = W_0.expand(2, -1, -1)
        targets = torch.nn.functional.one_hot(y, 3).double()
        for _ in range(400):
            W = W - 0.5 * (((phi @ W.mT).softmax(-1) - targets).mT @ phi / 6 + 0.3 * (W - W_0))
        return W

    found = meta_gradient(lambda *task: proximal_head(*task, rate=0.5, steps=400, strength=0.3))
    torch.testing.assert_close(found, meta_gradient(unrolled), rtol=1e-5, atol=1e-7)
    early = meta_gradient(lambda *task: proximal_head(*task, rate=0.5, steps=1, strength=0.3))
    assert (early[0] - found[0]).norm() > 1e-3 * found[0].norm()  # exact only at the minimum


def test_what_makes_no_sense_is_refused_by_name():
    with pytest.raises(ValueError, match="steps=0"):
        meta_gradient(lambda *task: descend_head(*task, rate=0.1, steps=0))
    with pytest.raises(ValueError, match="strength=0"):
        meta_gradient(lambda *task: proximal_head(*task, rate=0.1, steps=1, strength=0.0))


def test_the_ridge_head_is_the_minimum_of_its_loss():
    phi, y = TASKS.sample(2, generator(0, "t")).support
    W = ridge_head(phi, y, 3, strength=0.3).requires_grad_()
    error = phi @ W.mT - torch.nn.functional.one_hot(y, 3)
    (slope,) = torch.autograd.grad(error.square().sum() + 0.3 * W.square().sum(), W)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="strength=0"):
        ridge_head(phi, y, 3, strength=0.0)
