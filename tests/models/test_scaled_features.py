"""Given features times learned factors."""

import pytest
import torch

from ctml.models import ScaledFeatures


def test_it_starts_as_the_features_that_are_given_and_scales_each() -> None:
    model, x = ScaledFeatures(3, 2), torch.randn(4, 5, 3)
    assert torch.equal(model.features(x), x)
    assert torch.equal(model(x), torch.zeros(4, 5, 2))
    model.log_scale.data = torch.tensor([0.0, 2.0, 0.5]).log()
    torch.testing.assert_close(model.features(x), x * torch.tensor([0.0, 2.0, 0.5]))


def test_a_network_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="inputs=0"):
        ScaledFeatures(0, 2)
