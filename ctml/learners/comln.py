r"""COMLN: adapt the head by its gradient flow for a learned time (Deleu et al. 2022).

    dW/dt = -dL(W; f_Phi(D_train))/dW,   W(0) = W_0,   T = exp(log T)
    min over Phi, W_0, T of E L(W(T); f_Phi(D_test))

Phi are the parameters of the features, W_0 the weight of the model's head; the head has no bias, as in the paper. The
meta-gradient is exact, by any of the methods of `ctml.flows.gradient_flow` (default: the discrete adjoint). With
`FixedSteps(K, EULER)` and T = K alpha fixed this is ANIL with K steps at rate alpha, in M N numbers a step.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.checks import positive
from ctml.flows.gradient_flow import Adaptive, ClosedForm, Solver, adapt_head
from ctml.learners.base import Learner
from ctml.losses import cross_entropy
from ctml.types import Examples, Loss, Params, TaskBatch


class COMLN(Learner):
    """Meta-learn the features, the initial head and the adaptation time.

    Args:
        model: has `features(x, context=None)` and a linear `head` on top of them (see `ctml.models`); the head's bias
            is set to zero and no longer trained.
        loss: the query loss.
        horizon: T at the start of meta-training.
        learn_horizon: False keeps T where it is.
        inner_loss: "cross_entropy", or "squared" for half the squared error (regression, or one-hot labels).
        smoothing: label smoothing of the inner loss, and of the query loss where that is cross-entropy; in training
            only, as in the authors' implementation (`meta_test` evaluates).
        solver, method, checkpoints: as in `adapt_head`.
        tasks_at_once: as in `Learner`.

    Raises:
        ValueError: if the model has no such parts, or the horizon is not positive.
    """

    model: Any  # an nn.Module with features(x, context) and a linear head

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        horizon: float = 1.0,
        learn_horizon: bool = True,
        inner_loss: str = "cross_entropy",
        smoothing: float = 0.0,
        solver: Solver | ClosedForm = Adaptive(),  # noqa: B008 - frozen
        method: str = "adjoint",
        checkpoints: bool = False,
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, tasks_at_once=tasks_at_once)
        if not (hasattr(model, "features") and hasattr(getattr(model, "head", None), "weight")):
            raise ValueError(
                f"model={type(model).__name__}: COMLN needs its features(x, context) and a linear head; see ctml.models"
            )
        positive("horizon", horizon)
        head = self.model.head
        if head.bias is not None:
            head.bias.data.zero_()
            head.bias.requires_grad_(False)
        self.log_horizon = nn.Parameter(torch.tensor(horizon, dtype=head.weight.dtype).log(), learn_horizon)
        self.inner_loss, self.smoothing = inner_loss, smoothing
        self.solver, self.method, self.checkpoints = solver, method, checkpoints

    @property
    def horizon(self) -> Float[Tensor, ""]:
        """T, the adaptation time."""
        return self.log_horizon.exp()

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Return groups for the optimiser that decay the features and the head, not log T (as the authors do)."""
        decayed = [p for p in self.model.parameters() if p.requires_grad]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": [self.log_horizon], "weight_decay": 0.0}]

    def adapt(self, support: Examples, inner_steps: int | None = None) -> Params:
        """Run the flow from W_0 for time T; return W(T).

        Raises:
            ValueError: if `inner_steps` is given; the flow has a horizon instead.
        """
        if inner_steps is not None:
            raise ValueError(f"inner_steps={inner_steps}: the flow has no steps; change log_horizon for another time")
        adapted = adapt_head(
            self.model.features(support.x),
            support.y,
            self.model.head.weight,
            self.horizon,
            loss=self.inner_loss,
            smoothing=self.smoothing if self.training else 0.0,
            solver=self.solver,
            method=self.method,
            checkpoints=self.checkpoints,
        )
        return {"weight": adapted}

    def predict(self, adapted: Params, batch: TaskBatch) -> Tensor:
        """Return the logits of the query sets."""
        return self.model.features(batch.query.x, context=batch.support.x) @ adapted["weight"].mT

    def meta_loss(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Return the query loss at W(T), one per task."""
        outputs = self.predict(self.adapt(batch.support), batch)
        if self.training and self.smoothing > 0 and self.loss is cross_entropy:
            return cross_entropy(outputs, batch.query.y, self.smoothing)
        return self.loss(outputs, batch.query.y)
