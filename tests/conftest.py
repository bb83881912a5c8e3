"""All of ctml is imported with its shape annotations checked by beartype."""

import signal

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("ctml", "shape_checks.checked")

# Tests that run in the background (`&`, nohup) inherit ignored signals; the commands that they start and stop must not.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)  # there is no SIGHUP on Windows
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


@pytest.fixture
def without_shape_checks():
    """Run ctml as its users do: a word that is not in a `Literal` is then refused by ctml itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
