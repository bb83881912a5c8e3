"""What learners share that take gradients in the model's parameters: the model as a function of a dictionary.

Some methods leave part of the model alone in the inner loop. Then `shared` names the parameters that move, and `embed`
computes once what they do not touch; here everything moves and nothing can be kept.
"""

import copy
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from ctml import trees
from ctml.checks import at_least
from ctml.learners.base import Learner
from ctml.types import Examples, Params

Order = Literal["second", "first", "hessian-free"]


class GradientLearner(Learner):
    """A learner whose adaptation moves the model's parameters along gradients of its loss.

    Attributes:
        order: "second" keeps the graph of every gradient taken while adapting, so that the meta-loss can be
            differentiated through it; any other order takes these gradients for constants.
        inner_steps: steps that `adapt` takes, for methods that count them.
    """

    order: Order = "second"
    inner_steps: int

    def shared(self) -> Params:
        """Return the parameters that adaptation moves, as they are before it."""
        return dict(self.model.named_parameters())

    def expanded(self, support: Examples) -> Params:
        """Return the shared parameters as seen by each task before its first step (no copy)."""
        return trees.expand(self.shared(), len(support.x))

    def embed(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return what no inner step changes of x, computed once before the inner loop; here x itself."""
        return x

    def outputs(self, params: Params, embedded: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the model's outputs at the given (shared or per-task) parameters for what `embed` returned."""
        return functional_call(self.model, params, (embedded,), {"context": context})

    def predict(self, adapted: Params, x: Tensor, support_x: Tensor) -> Tensor:
        """Return the model's outputs on x at adapted parameters."""
        return self.outputs(adapted, self.embed(x, support_x), support_x)

    def gradient(self, params: Params, embedded: Examples) -> Params:
        """Return each task's gradient of its loss at per-task parameters.

        It can be differentiated again where `order` is "second" and gradients are enabled, and is detached elsewhere:
        an adaptation that is made of such gradients has the right meta-gradient without further care.
        """
        keep_graph = self.order == "second" and torch.is_grad_enabled()
        with torch.enable_grad():
            if not keep_graph:
                params = {k: v.detach().requires_grad_() for k, v in params.items()}
            # Tasks do not see each other, so the gradient of the sum is the batch of the tasks' gradients.
            total = self.loss(self.outputs(params, embedded.x), embedded.y).sum()
            gradients = torch.autograd.grad(total, list(params.values()), create_graph=keep_graph)
        return dict(zip(params, gradients, strict=True))

    def accumulate(self, gradients: Params, weight: float) -> None:
        """Add weight * (sum over tasks of the per-task gradients) to `.grad`, for methods with their own estimator."""
        for name, parameter in self.shared().items():
            total = weight * gradients[name].sum(0)
            parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)

    def with_inner_steps(self, inner_steps: int) -> "GradientLearner":
        """Return this learner, parameters shared, taking another number of inner steps (to evaluate with)."""
        at_least("inner_steps", inner_steps, 0)
        other = copy.copy(self)
        other.inner_steps = inner_steps
        return other
