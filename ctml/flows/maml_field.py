"""The velocities of meta-training as a flow: one-step MAML, its first-order part, and joint training.

    joint         dw/dt = -mean_i grad f_i(w)
    first order   dw/dt = -mean_i grad f_i(w_i),                          w_i = w - alpha grad f_i(w)
    MAML          dw/dt = -mean_i (I - alpha H_i(w)) grad f_i(w_i)  =  -grad F(w),   F(w) = mean_i f_i(w_i)

Source: Xu, Chen and Karbasi 2021 (the MAML ODE; its formula is written out here from the definition of one-step MAML).

Invariants:
    * A field maps points `(*points, d)` to velocities of the same shape; points do not see each other.
    * With support and query sets, the inner gradient and H_i belong to the support loss, the outer gradient to the
      query loss; in the paper's oracle setting both are the same function f_i (`ctml.tasks.Quadratic` and others).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ctml import trees
from ctml.checks import positive
from ctml.tasks.analytic import Losses, LossFunctions, TaskLosses, expand
from ctml.types import Examples, TaskBatch

Field = Callable[[Tensor], Tensor]
"""Maps points (*points, d) to velocities (*points, d)."""


def on_batch(learner, batch: TaskBatch) -> LossFunctions:
    """Take the losses of a learner's model on the support and query sets of a fixed meta-batch."""
    like = learner.shared()

    def losses(examples: Examples, context: Tensor | None) -> Losses:
        def at(points: Tensor) -> Tensor:
            def repeat(t: Tensor) -> Tensor:  # every initial point works on the same tasks
                return t.expand(points.shape[:-2].numel(), *t.shape).flatten(0, 1)

            params = trees.unflatten(points.flatten(0, -2), like)
            seen = None if context is None else repeat(context)
            outputs = learner.outputs(params, learner.embed(repeat(examples.x), seen), seen)
            return learner.loss(outputs, repeat(examples.y)).view(points.shape[:-1])

        return at

    return LossFunctions(losses(batch.support, None), losses(batch.query, batch.support.x), batch.n_tasks)


def gradients(losses: Losses, points: Float[Tensor, "... tasks d"]) -> Float[Tensor, "... tasks d"]:
    """Return grad f_i(w_i), each task's gradient at its own point."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        # Neither points nor tasks see each other, so the gradient of the sum is the batch of gradients.
        return torch.autograd.grad(losses(points).sum(), points)[0]


def hessian_vector_products(
    losses: Losses, points: Float[Tensor, "... tasks d"], v: Float[Tensor, "... tasks d"]
) -> tuple[Float[Tensor, "... tasks d"], Float[Tensor, "... tasks d"]]:
    """Return grad f_i(w_i) and H_i(w_i) v_i = grad <grad f_i(w_i), v_i>."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (g,) = torch.autograd.grad(losses(points).sum(), points, create_graph=True)
        (product,) = torch.autograd.grad((g * v).sum(), points)
    return g.detach(), product


def joint_field(losses: TaskLosses) -> Field:
    """Make the field of joint training: dw/dt = -mean_i grad f_i(w), on the query losses."""
    return lambda w: -gradients(losses.query, expand(w, losses.n_tasks)).mean(-2)


def first_order_field(losses: TaskLosses, alpha: float) -> Field:
    """Make the first-order field: dw/dt = -mean_i grad f_i(w_i), in general the gradient of nothing."""
    positive("alpha", alpha)

    def field(w: Tensor) -> Tensor:
        shared = expand(w, losses.n_tasks)
        return -gradients(losses.query, shared - alpha * gradients(losses.support, shared)).mean(-2)

    return field


def maml_field(losses: TaskLosses, alpha: float) -> Field:
    """Make the MAML field: dw/dt = -mean_i (I - alpha H_i(w)) grad f_i(w_i), the MAML ODE's right-hand side."""
    positive("alpha", alpha)

    def field(w: Tensor) -> Tensor:
        shared = expand(w, losses.n_tasks)
        v = gradients(losses.query, shared - alpha * gradients(losses.support, shared))
        _, hv = hessian_vector_products(losses.support, shared, v)
        return -(v - alpha * hv).mean(-2)

    return field


def learner_field(learner, batch: TaskBatch) -> Field:
    """Make the field of any learner on a fixed meta-batch: dw/dt = -its own meta-gradient.

    One point at a time, since a learner holds one set of meta-parameters; they are left at the last point asked for.
    """
    meta_parameters = dict(learner.named_parameters())

    def at(w: Tensor) -> Tensor:
        with torch.no_grad():
            for name, value in trees.unflatten(w, meta_parameters).items():
                meta_parameters[name].copy_(value)
        learner.meta_gradient(batch)
        return -trees.flatten({name: parameter.grad for name, parameter in meta_parameters.items()})

    return lambda w: torch.stack([at(point) for point in w.reshape(-1, w.shape[-1])]).view(w.shape)


def maml_loss(losses: TaskLosses, alpha: float, w: Float[Tensor, "*points d"]) -> Float[Tensor, "*points"]:
    """Return the MAML loss F(w) = mean_i f_i(w - alpha grad f_i(w))."""
    shared = expand(w, losses.n_tasks)
    return losses.query(shared - alpha * gradients(losses.support, shared)).mean(-1)


def mean_inner_gradient_norm(losses: TaskLosses, w: Float[Tensor, "*points d"]) -> Float[Tensor, "*points"]:
    """Return mean_i |grad f_i(w)|, which has a floor in joint training as soon as the tasks differ."""
    return gradients(losses.support, expand(w, losses.n_tasks)).norm(dim=-1).mean(-1)


def heterogeneity(losses: TaskLosses, w: Float[Tensor, "*points d"]) -> Float[Tensor, "*points"]:
    """Return sigma(w) = sqrt(mean_i |grad f_i(w) - grad f(w)|^2), by how much the tasks disagree."""
    g = gradients(losses.query, expand(w, losses.n_tasks))
    return (g - g.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()


def hessian(field: Field, w: Float[Tensor, "*points d"], step: float = 1e-5) -> Float[Tensor, "*points d d"]:
    """Return hess F at every point for a field -grad F, by central differences of the field, made symmetric."""
    positive("step", step)
    d = w.shape[-1]
    along = step * torch.eye(d, dtype=w.dtype, device=w.device).view(d, *[1] * (w.dim() - 1), d)
    jacobian = ((field(w - along) - field(w + along)) / (2 * step)).movedim(0, -2)
    return (jacobian + jacobian.mT) / 2
