"""Jacobians carried forward without decomposition: against autograd through the same steps."""

import torch

from ctml.flows.head_descent import descend_head
from ctml.rng import generator
from ctml.tasks import Embeddings
from ctml.theory.naive_sensitivities import naive_sensitivities


def test_they_are_the_jacobians_of_the_steps():
    stream, tasks = generator(0, "t"), Embeddings(ways=3, shots=2, d=4)
    phi, y = (part[0] for part in tasks.sample(1, stream).support)
    head = 2 * tasks.head(stream)

    def walk(phi, head):
        return descend_head(phi[None], y[None], head, rate=0.7, steps=9)[0]

    of_features, of_head = torch.autograd.functional.jacobian(walk, (phi, head))
    found = naive_sensitivities(phi, y, head, rate=0.7, steps=9)
    for one, other in zip(found, (walk(phi, head), of_head, of_features), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
