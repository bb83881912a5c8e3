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
from ctml.flows.gradient_flow import (
    Adaptive,
    Adjoint,
    CrossEntropy,
    InnerLoss,
    MetaGradient,
    Solver,
    adapt_head,
    check_options,
)
from ctml.learners.base import Learner
from ctml.types import Examples, HasHead, Loss, Model, Params, has_head


class COMLN(Learner):
    """Meta-learn the features, the initial head and the adaptation time.

    >>> import ctml, torch
    >>> pool = ctml.ClassPool(torch.eye(6).repeat_interleave(8, 0), torch.full((6,), 8), tuple("abcdef"), "one-hot")
    >>> batch = ctml.tasks.FewShot(pool, ways=3, shots=2, queries=4).sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([6, 16, 3], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.COMLN(network, ctml.cross_entropy, horizon=5.0)
    >>> learner.adapt(batch.support)["weight"].shape  # W(T), a head for each task
    torch.Size([4, 3, 16])
    >>> losses = learner.meta_gradient(batch)
    >>> bool(learner.log_horizon.grad < 0)  # longer would be better: T grows
    True

    Args:
        model: a `ctml.types.HasHead` whose head is linear (see `ctml.models`); a bias of the head takes no part, so
            that it is neither used nor trained.
        loss: the query loss, as it is: to smooth its labels too, as the authors do in training, give a smoothed one,
            `partial(ctml.cross_entropy, label_smoothing=0.1)`. `meta_test` scores by its metric and never asks for it.
        horizon: T at the start of meta-training.
        learn_horizon: False keeps T where it is.
        inner_loss: what the flow descends; its smoothing of labels is for training alone (`meta_test` evaluates).
        solver, gradient: as in `adapt_head`.
        tasks_at_once: as in `Learner`.

    Raises:
        ValueError: if the model has no such parts, the horizon is not positive, or the options do not fit together.
        TypeError: if an option is no such object.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        horizon: float = 1.0,
        learn_horizon: bool = True,
        inner_loss: InnerLoss = CrossEntropy(),  # noqa: B008 - frozen
        solver: Solver = Adaptive(),  # noqa: B008 - frozen
        gradient: MetaGradient = Adjoint(),  # noqa: B008 - frozen
        tasks_at_once: int | None = None,
    ):
        super().__init__(model, loss, tasks_at_once=tasks_at_once)
        if not (has_head(model) and isinstance(getattr(model.head, "weight", None), Tensor)):
            raise ValueError(
                f"model={type(model).__name__}: COMLN needs its features(x, context) and a linear head; see ctml.models"
            )
        positive("horizon", horizon)
        check_options(inner_loss, solver, gradient)
        self.log_horizon = nn.Parameter(torch.tensor(horizon, dtype=self.W_0.dtype).log(), learn_horizon)
        self.inner_loss, self.solver, self.gradient = inner_loss, solver, gradient

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
            loss=self.inner_loss if self.training else self.inner_loss.unsmoothed(),
            solver=self.solver,
            gradient=self.gradient,
        )
        return {"weight": adapted}

    def predict(self, adapted: Params, x: Tensor, support_x: Tensor) -> Float[Tensor, "tasks n ways"]:
        """Return the logits W(T) f_Phi(x)."""
        return self.features(x, support_x) @ adapted["weight"].mT
