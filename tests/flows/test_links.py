"""The derivative of softmax with and without torch's fused operation; float64."""

import pytest
import torch

from ctml.flows.gradient_flow import links
from ctml.rng import generator


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("into", [True, False])
def test_softmax_pulls_back_by_its_jacobian(fused, into, monkeypatch):
    if not fused:
        monkeypatch.setattr(links, "FUSED", None)
    logits, v = torch.randn(2, 3, 5, 4, generator=generator(0, "z"), dtype=torch.float64)
    out = torch.empty_like(v) if into else None
    seen = links.Softmax().pull_back(v, links.Softmax().predict(logits), out)
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.softmax(leaf, -2), leaf, v)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-14)
    assert not into or seen is out
