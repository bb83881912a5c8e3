"""All of ctml is imported with its shape annotations checked by beartype."""

import torch
from jaxtyping import install_import_hook

install_import_hook("ctml", "shape_checks.checked")

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores
