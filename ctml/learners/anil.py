"""ANIL: adapt some of the parameters, w; the others, phi, are common to all tasks (Raghu et al. 2020; Ji et al. 2020).

    w_0 = w,   w_{m+1} = w_m - alpha grad_w L_S(w_m, phi),   F(w, phi) = E L_Q(w_N, phi)
    dF/dw   = E (I - alpha H_0) ... (I - alpha H_{N-1}) dL_Q/dw,                          H_m = d2L_S/dw2   at w_m
    dF/dphi = E dL_Q/dphi - alpha sum_m C_m' (I - alpha H_{m+1}) ... (I - alpha H_{N-1}) dL_Q/dw,   C_m = d2L_S/dphi dw

Two geometries of the inner loop. Strongly convex: w is the linear head and L_S has a ridge (mu/2)|w|^2. Nonconvex: w is
the last blocks. In both, what w does not touch is constant in the inner loop: when w lies in the model's head, the
features below go through the body once, in one ordinary batch for all tasks and all steps. That is the saving.
"""

from collections.abc import Callable, Sequence
from typing import Literal, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ctml import trees
from ctml.checks import at_least, one_of
from ctml.learners.anil_backward import Autograd, Backward
from ctml.learners.maml import MAML
from ctml.types import Examples, HasHead, Loss, Model, Params, TaskBatch, has_head


class ANIL(MAML):
    """Meta-learn all parameters; adapt the chosen ones.

    >>> import ctml
    >>> batch = ctml.tasks.Sinusoid().sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> learner = ctml.ANIL(network, ctml.mse, inner_lr=0.01, inner_steps=5)
    >>> {name: tuple(w.shape) for name, w in learner.adapt(batch.support).items()}  # w: a head for each task
    {'weight': (4, 1, 40), 'bias': (4, 1)}
    >>> len(learner.common())  # phi: what all tasks share
    4
    >>> losses = learner.meta_gradient(batch)

    Args:
        model, loss, inner_lr, inner_steps, tasks_at_once: as in `MAML`.
        order: "second" (exact) or "first" (drops both products of second derivatives; FO-ANIL).
        adapts: which parameters are w: a dotted prefix ("head", "blocks.3"), several of them, or a predicate on names.
        ridge: mu of the term (mu/2)|w|^2 that the inner loss gets; the query loss has none.
        backward: how the exact meta-gradient is made (see `ctml.learners.anil_backward`): `Autograd()` keeps the inner
            loop's graph; `Reverse()` keeps only w_0 .. w_N, the same numbers in little memory; `EulerAdjoint()`, for a
            linear head without ridge, takes the inner loop as Euler steps of the head's gradient flow.

    Raises:
        ValueError: if `adapts` matches no parameter, an option is unknown, or `backward` does not fit.
        TypeError: if `backward` is no such object.
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
        backward: Backward = Autograd(),  # noqa: B008 - frozen
        tasks_at_once: int | None = None,
    ):
        super().__init__(
            model, loss, inner_lr=inner_lr, inner_steps=inner_steps, order=order, tasks_at_once=tasks_at_once
        )
        one_of("order", order, ("second", "first"))  # Hessian-free would save nothing: the exact one is cheap
        if not isinstance(backward, Backward):
            raise TypeError(f"backward={backward!r}: must be one of Autograd(), Reverse(), EulerAdjoint()")
        at_least("ridge", ridge, 0)
        self.ridge, self.backward = ridge, backward
        self.adapted_names = _matching(self.model, adapts)
        self._graph_is_sure = type(self).adapt is ANIL.adapt and type(self).inner_step is MAML.inner_step
        # Only then can the body's output be kept: no inner step changes it.
        self.keeps_features = has_head(model) and all(n.startswith("head.") for n in self.adapted_names)
        backward.check(self)

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
        return self.backward.adapt(self, support)

    def add_meta_gradient(self, part: TaskBatch, weight: float) -> Float[Tensor, " tasks"]:
        """Add the part's meta-gradients, made as `backward` says; return the tasks' query losses."""
        return self.backward.add_meta_gradient(self, part, weight)


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
