"""ANIL: adapt the head only; the features are shared by all tasks and computed once (Raghu et al. 2020).

    w_0 = w,   w_{m+1} = w_m - alpha grad_w L_S(w_m, phi),   F(w, phi) = E L_Q(w_N, phi)

The features of a support set do not change in the inner loop, so one ordinary batch through the body serves all tasks
and all steps; the inner loop is that of MAML on a linear model.
"""

from torch import Tensor, nn
from torch.func import functional_call

from ctml.learners.maml import MAML
from ctml.types import Examples, Loss, Params, TaskBatch


class ANIL(MAML):
    """Meta-learn features and the initial head; adapt the head.

    Args:
        model: has `features(x, context=None)` and a linear layer `head` on top of it (see `ctml.models`).
        loss, inner_lr, inner_steps, order, tasks_at_once: as in `MAML` ("second" or "first").

    Raises:
        ValueError: if the model has no such parts, or the order is "hessian-free".
    """

    def __init__(self, model: nn.Module, loss: Loss, **options):
        super().__init__(model, loss, **options)
        if not (hasattr(model, "features") and hasattr(model, "head")):
            raise ValueError(
                f"model={type(model).__name__}: ANIL needs its features(x, context) and its head; see ctml.models"
            )
        if self.order == "hessian-free":
            raise ValueError("order='hessian-free': ANIL's exact meta-gradient is cheap; use order='second' or 'first'")

    def embed(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the shared features `(tasks, n, features)`."""
        return self.model.features(x, context)

    def forward(self, params: Params, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the head's outputs on features; here x is what `embed` returned."""
        return functional_call(self.model.head, params, (x,))

    def shared(self) -> Params:
        """Return the head's parameters: all that the inner loop moves."""
        return dict(self.model.head.named_parameters())

    def adapt(self, support: Examples, inner_steps: int | None = None) -> Params:
        """Take the inner steps of the head on the support features."""
        return super().adapt(Examples(self.embed(support.x), support.y), inner_steps)

    def predict(self, adapted: Params, batch: TaskBatch) -> Tensor:
        """Return the outputs on the query sets at adapted heads."""
        return self.forward(adapted, self.embed(batch.query.x, context=batch.support.x))
