"""Count gradients where they are taken: an instrument around a learner's loss, no formula.

Every gradient of a loss passes its outputs backwards once, and every second-order product passes them twice more, once
through the backward pass and once through the forward one:

    gradient                   outputs <- loss
    Hessian-vector product     slopes of the outputs, then outputs again

So a node at the outputs that notes who comes by counts them all, whoever asks and however it is written. What goes
round the learner's loss (the closed flow of a head, `ctml.flows.gradient_flow`) is not seen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch.autograd import Function

from ctml.learners.base import Learner


@dataclass
class Count:
    """What was taken of the tasks' losses, each counted once per task.

    Attributes:
        evaluations: values of a loss.
        backward_passes: passes from a loss to its outputs or from the outputs' slopes to the outputs.
        second_order: products of a second derivative with a vector (one pass gives H v and the mixed one together).
    """

    evaluations: int = 0
    backward_passes: int = 0
    second_order: int = 0

    @property
    def gradients(self) -> int:
        """Gradients of a loss."""
        return self.backward_passes - self.second_order

    @property
    def units(self) -> int:
        """Cost in gradients; a second-order product counts 2."""
        return self.gradients + 2 * self.second_order


@contextmanager
def count_gradients(learner: Learner) -> Iterator[Count]:
    """Count what is taken of `learner.loss` inside the block.

    with count_gradients(learner) as count:
        learner.meta_gradient(batch)
    count.gradients, count.second_order      # sums over the tasks
    """
    loss, count = learner.loss, Count()

    def counted(outputs: Tensor, targets: Tensor) -> Tensor:
        return loss(_Outputs.apply(outputs, count), targets)

    learner.loss = counted
    try:
        yield count
    finally:
        learner.loss = loss


class _Outputs(Function):
    @staticmethod
    def forward(ctx, outputs: Tensor, count: Count) -> Tensor:
        ctx.count = count
        count.evaluations += len(outputs)
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx, slopes: Tensor):
        ctx.count.backward_passes += len(slopes)
        return _Slopes.apply(slopes, ctx.count), None


class _Slopes(Function):
    @staticmethod
    def forward(ctx, slopes: Tensor, count: Count) -> Tensor:
        ctx.count = count
        return slopes.view_as(slopes)

    @staticmethod
    def backward(ctx, v: Tensor):
        ctx.count.second_order += len(v)
        return v, None
