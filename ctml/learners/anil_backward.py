"""How ANIL's exact meta-gradient is made: three ways to one answer, that differ in what they keep.

way             keeps
Autograd        the graph of every inner step
Reverse         w_0 .. w_N
EulerAdjoint    support x ways numbers a step
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.flows.gradient_flow import CrossEntropy, FixedSteps, InnerLoss, adapt_head
from ctml.flows.tableaus import EULER
from ctml.learners.maml import MAML
from ctml.types import Examples, Params, TaskBatch

if TYPE_CHECKING:
    from ctml.learners.anil import ANIL


class Backward:
    """A way to the meta-gradient; what is not said is MAML's: plain steps, plain autograd."""

    def check(self, learner: "ANIL") -> None:
        """Raise ValueError unless this way fits the learner."""

    def adapt(self, learner: "ANIL", support: Examples) -> Params:
        """Take the inner steps."""
        return MAML.adapt(learner, support)

    def add_meta_gradient(self, learner: "ANIL", part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add the part's meta-gradients to `.grad`; return the tasks' query losses."""
        return MAML.add_meta_gradient(learner, part, weight)


@dataclass(frozen=True)
class Autograd(Backward):
    """Plain autograd through the inner loop."""


@dataclass(frozen=True)
class Reverse(Backward):
    """The products of the theorem, formed step by step from w_N back to w_0.

    v = dL_Q/dw at w_N,    v <- (I - alpha H_m) v,    p <- p - alpha C_m' v
    """

    def add_meta_gradient(self, learner: "ANIL", part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        embedded = [learner.embed(part.support.x), learner.embed(part.query.x, context=part.support.x)]
        h_S, h_Q = (_leaf(h) if learner.keeps_features else h for h in embedded)
        # Kept features stand for the body's parameters up to the last line, where the body is differentiated, once.
        beside = [p for name, p in learner.common().items() if not learner.keeps_features or name.startswith("head.")]
        phi = [h_S, h_Q, *beside] if learner.keeps_features else beside
        support = Examples(h_S.detach(), part.support.y)
        with torch.no_grad():
            path = [learner.expanded(support)]
            for step in range(learner.inner_steps):
                path.append(learner.inner_step(path[-1], support, step))

        w = {k: _leaf(p) for k, p in path.pop().items()}
        losses = learner.loss(learner.outputs(w, h_Q, context=part.support.x), part.query.y)
        v, p = _pull_back(losses.sum(), w, phi)
        for w_m in reversed(path) if learner.order == "second" else ():
            w = {k: _leaf(p_m) for k, p_m in w_m.items()}
            slope = trees.dot(learner.gradient(w, Examples(h_S, part.support.y)), v)
            Hv, Cv = _pull_back(slope, w, phi)
            p = [p_j - learner.inner_lr * c_j for p_j, c_j in zip(p, Cv, strict=True)]
            v = trees.axpy(-learner.inner_lr, Hv, v)

        learner.accumulate(v, weight)
        sources = [*embedded, *beside] if learner.keeps_features else beside
        reached = [(t, weight * p_j) for t, p_j in zip(sources, p, strict=True) if t.requires_grad]
        if reached:
            ends, cotangents = zip(*reached, strict=True)
            torch.autograd.backward(ends, cotangents)
        return losses.detach()


@dataclass(frozen=True)
class EulerAdjoint(Backward):
    """The discrete adjoint of the head's gradient flow, whose Euler steps the inner steps are.

    Fits a linear head with bias, without ridge, of second order.

    Args:
        inner_loss: the learner's loss, in the form that the flow asks for (its link and targets); checked against the
            loss itself on the first tasks.
    """

    inner_loss: InnerLoss = CrossEntropy()  # noqa: RUF009 - frozen

    def check(self, learner: "ANIL") -> None:
        """Raise ValueError unless the inner loop is the flow of a linear head."""
        linear = learner.keeps_features and set(learner.shared()) == {"weight", "bias"}
        if not linear or learner.ridge or learner.order != "second":
            raise ValueError(
                f"backward={self}: fits adapts='head' (linear), ridge=0 and order='second'; "
                "backward=Reverse() fits all and needs little memory too"
            )

    def adapt(self, learner: "ANIL", support: Examples) -> Params:
        """Take the inner steps as Euler steps of the flow."""
        if learner.inner_steps == 0:
            return MAML.adapt(learner, support)
        head, features = learner.shared(), learner.embed(support.x)
        # The flow's head has no bias: one more feature that is always 1 carries it.
        features = torch.cat([features, features.new_ones(*features.shape[:2], 1)], dim=-1)
        W_0 = torch.cat([head["weight"], head["bias"][:, None]], dim=1)
        self._refuse_another_loss(learner, (features @ W_0.mT).detach(), support.y)
        horizon = features.new_tensor(learner.inner_lr * learner.inner_steps)
        solver = FixedSteps(learner.inner_steps, EULER)
        W = adapt_head(features, support.y, W_0, horizon, loss=self.inner_loss, solver=solver)
        return {"weight": W[..., :-1], "bias": W[..., -1]}

    def _refuse_another_loss(self, learner: "ANIL", logits: Tensor, labels: Tensor) -> None:
        """Compare the derivatives in the logits: they are all that the inner steps see of a loss."""
        with torch.enable_grad():
            z = logits.requires_grad_()
            (slope,) = torch.autograd.grad(learner.loss(z, labels).sum(), z)
        n, ways = z.shape[1:]
        expected = self.inner_loss.predict(z.detach()) - self.inner_loss.targets(labels, ways, z.dtype)
        if not torch.allclose(n * slope, expected, rtol=1e-3, atol=1e-4):
            name = getattr(learner.loss, "__name__", learner.loss)
            raise ValueError(
                f"backward={self}: another inner loss than loss={name}; "
                "give the inner_loss that is the same, or backward=Reverse(), which fits all"
            )


def _leaf(t: Tensor) -> Tensor:
    return t.detach().requires_grad_()


def _pull_back(value: Tensor, w: Params, phi: list[Tensor]) -> tuple[Params, list[Tensor]]:
    gradients = torch.autograd.grad(value, [*w.values(), *phi], materialize_grads=True)
    return dict(zip(w, gradients, strict=False)), list(gradients[len(w) :])
