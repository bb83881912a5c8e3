r"""COMLN: adapt the head by its gradient flow for a learned time (Deleu et al. 2022).

    dW/dt = -dL(W; f_Phi(D_train))/dW,   W(0) = W_0,   T = exp(log T)
    min over Phi, W_0, T of E L(W(T); f_Phi(D_test))

Phi are the parameters of the features, W_0 the weight of the model's head; the head has no bias, as in the paper. The
meta-gradient is exact, by any of the methods of `ctml.flows.gradient_flow` (default: the discrete adjoint). With
`FixedSteps(K, EULER)` and T = K alpha fixed this is ANIL with K steps at rate alpha, in M N numbers a step.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctml.checks import positive
from ctml.flows.gradient_flow import Adaptive, ClosedForm, Solver, adapt_head
from ctml.learners.base import Learner
from ctml.losses import cross_entropy
from ctml.types import Examples, HasHead, Loss, Params, TaskBatch


class COMLN(Learner):
    """Meta-learn the features, the initial head and the adaptation time.

    Args:
        model: a `ctml.types.HasHead` whose head is linear (see `ctml.models`); a bias of the head takes no part, so
            that it is neither used nor trained.
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

    def __init__(
        self,
        model: HasHead,
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
        if not (isinstance(model, HasHead) and isinstance(getattr(model.head, "weight", None), Tensor)):
            raise ValueError(
                f"model={type(model).__name__}: COMLN needs its features(x, context) and a linear head; see ctml.models"
            )
        positive("horizon", horizon)
        self.log_horizon = nn.Parameter(torch.tensor(horizon, dtype=self.W_0.dtype).log(), learn_horizon)
        self.inner_loss, self.smoothing = inner_loss, smoothing
        self.solver, self.method, self.checkpoints = solver, method, checkpoints

    @property
    def W_0(self) -> Float[Tensor, "ways d"]:
        """The weight of the head before adaptation."""
        return cast(Tensor, cast(HasHead, self.model).head.weight)

    @property
    def horizon(self) -> Float[Tensor, ""]:
        """T, the adaptation time."""
        return self.log_horizon.exp()

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Return groups for the optimiser that decay the features and the head, not log T (as the authors do)."""
        decayed = list(self.model.parameters())
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": [self.log_horizon], "weight_decay": 0.0}]

    def features(self, x: Tensor, context: Tensor | None = None) -> Float[Tensor, "tasks n d"]:
        """Return f_Phi(x)."""
        return cast(HasHead, self.model).features(x, context)

    def adapt(self, support: Examples) -> Params:
        """Run the flow from W_0 for time T; return W(T)."""
        adapted = adapt_head(
            self.features(support.x),
            support.y,
            self.W_0,
            self.horizon,
            loss=self.inner_loss,
            smoothing=self.smoothing if self.training else 0.0,
            solver=self.solver,
            method=self.method,
            checkpoints=self.checkpoints,
        )
        return {"weight": adapted}

    def predict(self, adapted: Params, x: Tensor, support_x: Tensor) -> Float[Tensor, "tasks n ways"]:
        """Return the logits W(T) f_Phi(x)."""
        return self.features(x, support_x) @ adapted["weight"].mT

    def meta_loss(self, batch: TaskBatch) -> Float[Tensor, " tasks"]:
        """Return the query loss at W(T), one per task."""
        outputs = self.predict(self.adapt(batch.support), batch.query.x, batch.support.x)
        if self.training and self.smoothing > 0 and self.loss is cross_entropy:
            return cross_entropy(outputs, batch.query.y, self.smoothing)
        return self.loss(outputs, batch.query.y)
