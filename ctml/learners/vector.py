"""A learner's meta-gradient as one vector, for checks that compare two of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from ctml.learners.base import Learner
from ctml.types import TaskBatch


def meta_gradient_vector(learner: Learner, batch: TaskBatch) -> Float[Tensor, " d"]:
    """Return the meta-gradient of a batch, the learner's parameters one after another; a copy, not a view of `.grad`.

    A parameter that the meta-loss does not reach counts with zeros.
    """
    learner.meta_gradient(batch)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()]
    return torch.cat([part.flatten() for part in parts])
