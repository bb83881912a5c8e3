"""All of ctml is imported with its shape annotations checked by beartype."""

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("ctml", "shape_checks.checked")

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


@pytest.fixture
def without_shape_checks():
    """Run ctml as its users do: a word that is not in a `Literal` is then refused by ctml itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
