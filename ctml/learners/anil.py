"""ANIL: adapt some of the parameters, w; the others, phi, are common to all tasks (Raghu et al. 2020; Ji et al. 2020).

    w_0 = w,   w_{m+1} = w_m - alpha grad_w L_S(w_m, phi),   F(w, phi) = E L_Q(w_N, phi)
    dF/dw   = E (I - alpha H_0) ... (I - alpha H_{N-1}) dL_Q/dw,                          H_m = d2L_S/dw2   at w_m
    dF/dphi = E dL_Q/dphi - alpha sum_m C_m' (I - alpha H_{m+1}) ... (I - alpha H_{N-1}) dL_Q/dw,   C_m = d2L_S/dphi dw

Two geometries of the inner loop. Strongly convex: w is the linear head and L_S has a ridge (mu/2)|w|^2. Nonconvex: w is
the last blocks. In both, what w does not touch is constant in the inner loop: when w lies in the model's head, the
features below go through the body once, in one ordinary batch for all tasks and all steps. That is the saving.
"""

from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ctml import trees
from ctml.checks import at_least, one_of
from ctml.flows.gradient_flow import FixedSteps, adapt_head
from ctml.flows.tableaus import EULER
from ctml.learners.maml import MAML
from ctml.losses import cross_entropy
from ctml.types import Examples, HasHead, Loss, Model, Params, TaskBatch

Backward = Literal["autograd", "reverse", "adjoint"]


class ANIL(MAML):
    """Meta-learn all parameters; adapt the chosen ones.

    Args:
        model, loss, inner_lr, inner_steps, tasks_at_once: as in `MAML`.
        order: "second" (exact) or "first" (drops both products of second derivatives; FO-ANIL).
        adapts: which parameters are w: a dotted prefix ("head", "blocks.3"), several of them, or a predicate on names.
        ridge: mu of the term (mu/2)|w|^2 that the inner loss gets; the query loss has none.
        backward: how the exact meta-gradient is made. "autograd" keeps the inner loop's graph; "reverse" keeps only
            w_0 .. w_N and forms the products step by step, the same numbers in little memory. "adjoint", for a linear
            head and cross-entropy without ridge, takes the inner loop as Euler steps of the head's gradient flow
            (support x ways numbers a step; see `ctml.flows.gradient_flow`).

    Raises:
        ValueError: if `adapts` matches no parameter, an option is unknown, or "adjoint" does not fit.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        inner_lr: float,
        inner_steps: int = 1,
        order: Literal["second", "first"] = "second",
        adapts: str | Sequence[str] | Callable[[str], bool] = "head",
        ridge: float = 0.0,
        backward: Backward = "autograd",
        tasks_at_once: int | None = None,
    ):
        super().__init__(
            model, loss, inner_lr=inner_lr, inner_steps=inner_steps, order=order, tasks_at_once=tasks_at_once
        )
        one_of("order", order, ("second", "first"))  # Hessian-free would save nothing: the exact one is cheap
        one_of("backward", backward, get_args(Backward))
        at_least("ridge", ridge, 0)
        self.ridge, self.backward = ridge, backward
        self.adapted_names = _matching(self.model, adapts)
        self.graph_is_sure = type(self).adapt is ANIL.adapt and type(self).inner_step is MAML.inner_step
        # Only then can the body's output be kept: no inner step changes it.
        self.keeps_features = isinstance(model, HasHead) and all(n.startswith("head.") for n in self.adapted_names)
        is_linear_head = self.keeps_features and set(self.shared()) == {"weight", "bias"}
        is_flow = is_linear_head and loss is cross_entropy and ridge == 0 and order == "second"
        if backward == "adjoint" and not is_flow:
            raise ValueError(
                "backward='adjoint': fits adapts='head' (linear), cross_entropy, ridge=0 and order='second'; "
                "backward='reverse' fits all and needs little memory too"
            )

    def embed(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return what no inner step changes: the features if w lies in the head, else the input itself."""
        return cast(HasHead, self.model).features(x, context) if self.keeps_features else x

    def outputs(self, params: Params, embedded: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the model's outputs at adapted parameters for what `embed` returned."""
        if self.keeps_features:
            return functional_call(cast(HasHead, self.model).head, params, (embedded,))
        return super().outputs(params, embedded, context)

    def shared(self) -> Params:
        """Return w, named as `outputs` wants it."""
        prefix = "head." if self.keeps_features else ""
        return {name.removeprefix(prefix): self.model.get_parameter(name) for name in self.adapted_names}

    def common(self) -> Params:
        """Return phi: the parameters that only the outer loop moves."""
        return {name: p for name, p in self.model.named_parameters() if name not in self.adapted_names}

    def gradient(self, params: Params, embedded: Examples) -> Params:
        """Return each task's gradient of its loss plus (mu/2)|w|^2."""
        gradients = super().gradient(params, embedded)
        if self.ridge == 0:
            return gradients
        keep_graph = any(g.requires_grad for g in gradients.values())
        return trees.axpy(self.ridge, params if keep_graph else {k: p.detach() for k, p in params.items()}, gradients)

    def adapt(self, support: Examples) -> Params:
        """Take the inner steps of w on the support features."""
        if self.backward == "adjoint" and self.inner_steps:
            return self._euler_flow(Examples(self.embed(support.x), support.y))
        return super().adapt(support)

    def _euler_flow(self, support: Examples) -> Params:
        head = self.shared()
        # The flow's head has no bias: one more feature that is always 1 carries it.
        features = torch.cat([support.x, support.x.new_ones(*support.x.shape[:2], 1)], dim=-1)
        W_0 = torch.cat([head["weight"], head["bias"][:, None]], dim=1)
        horizon = features.new_tensor(self.inner_lr * self.inner_steps)
        W = adapt_head(features, support.y, W_0, horizon, solver=FixedSteps(self.inner_steps, EULER))
        return {"weight": W[..., :-1], "bias": W[..., -1]}

    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add the part's meta-gradients, made as `backward` says; return the tasks' query losses."""
        return self._reverse(part, weight) if self.backward == "reverse" else super().add_meta_gradient(part, weight)

    def _reverse(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        embedded = [self.embed(part.support.x), self.embed(part.query.x, context=part.support.x)]
        h_S, h_Q = (_leaf(h) if self.keeps_features else h for h in embedded)
        # Kept features stand for the body's parameters up to the last line, where the body is differentiated, once.
        beside = [p for name, p in self.common().items() if not self.keeps_features or name.startswith("head.")]
        phi = [h_S, h_Q, *beside] if self.keeps_features else beside
        support = Examples(h_S.detach(), part.support.y)
        with torch.no_grad():
            path = [self.expanded(support)]
            for step in range(self.inner_steps):
                path.append(self.inner_step(path[-1], support, step))

        w = {k: _leaf(p) for k, p in path.pop().items()}
        losses = self.loss(self.outputs(w, h_Q, context=part.support.x), part.query.y)
        v, p = _pull_back(losses.sum(), w, phi)
        for w_m in reversed(path) if self.order == "second" else ():
            w = {k: _leaf(p_m) for k, p_m in w_m.items()}
            slope = trees.dot(self.gradient(w, Examples(h_S, part.support.y)), v)
            Hv, Cv = _pull_back(slope, w, phi)
            p = [p_j - self.inner_lr * c_j for p_j, c_j in zip(p, Cv, strict=True)]
            v = trees.axpy(-self.inner_lr, Hv, v)

        self.accumulate(v, weight)
        sources = [*embedded, *beside] if self.keeps_features else beside
        reached = [(t, weight * p_j) for t, p_j in zip(sources, p, strict=True) if t.requires_grad]
        if reached:
            ends, cotangents = zip(*reached, strict=True)
            torch.autograd.backward(ends, cotangents)
        return losses.detach()


def _matching(model: nn.Module, adapts: str | Sequence[str] | Callable[[str], bool]) -> tuple[str, ...]:
    names = [name for name, _ in model.named_parameters()]
    prefixes = () if callable(adapts) else (adapts,) if isinstance(adapts, str) else tuple(adapts)
    for prefix in prefixes:
        if not any(f"{name}.".startswith(f"{prefix}.") for name in names):
            raise ValueError(
                f"model={type(model).__name__}: ANIL needs its features(x, context) and its head (see ctml.models), or "
                f"adapts= what it has; adapts={prefix!r} is none of {', '.join(names)}"
            )
    chosen = adapts if callable(adapts) else lambda n: any(f"{n}.".startswith(f"{prefix}.") for prefix in prefixes)
    matching = tuple(filter(chosen, names))
    if not matching:
        raise ValueError(f"adapts={adapts}: chooses none of {', '.join(names)}; nothing would adapt")
    return matching


def _leaf(t: Tensor) -> Tensor:
    return t.detach().requires_grad_()


def _pull_back(value: Tensor, w: Params, phi: list[Tensor]) -> tuple[Params, list[Tensor]]:
    gradients = torch.autograd.grad(value, [*w.values(), *phi], materialize_grads=True)
    return dict(zip(w, gradients, strict=False)), list(gradients[len(w) :])
