"""One test for all learners: the verbs agree with each other, and with what each method says of itself."""

import inspect

import pytest
import torch
from torch import Tensor

import ctml
from ctml import learners, trees
from ctml.flows.tableaus import rk2
from ctml.inner_solvers import GradientDescent
from ctml.learners import (
    ANIL,
    COMLN,
    FOBMAML,
    IMAML,
    MAML,
    BiMAML,
    Learner,
    MetaSGD,
    ProximalFOMAML,
    ProximalReptile,
    Reptile,
)
from ctml.learners.anil_backward import EulerAdjoint, Reverse
from ctml.learners.bi_maml import Switch
from ctml.learners.gradient_learner import GradientLearner
from ctml.learners.maml import LostGraph
from ctml.learners.proximal import ProximalLearner
from ctml.learners.rk_maml import RKMAML
from ctml.models import MLP
from ctml.rng import generator
from ctml.settings import describe
from ctml.tasks import Logistic
from ctml.types import Examples, TaskBatch

TASKS = 4
SOLVER = GradientDescent(rate=0.3, steps=3000, tolerance=1e-12)
PROXIMAL = {"lam": 2.0, "solver": SOLVER}


def network():
    return MLP([6, 9, 8, 2], activation=torch.tanh, generator=generator(0, "w")).double()


@pytest.fixture
def batch():
    return Logistic(dim=6, shots=6, queries=4).sample(TASKS, generator(0, "t")).to(dtype=torch.float64)


# ---- oracles of the meta-gradient, as one vector ---------------------------------------------------------------------
def autograd(learner: Learner, batch: TaskBatch) -> Tensor:
    """The derivative of the mean meta-loss, all tasks at once."""
    parameters = list(learner.parameters())
    found = torch.autograd.grad(learner.meta_loss(batch).mean(), parameters, materialize_grads=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found])


def at_adapted(learner: GradientLearner, batch: TaskBatch) -> Tensor:
    """The query loss's own gradient where the tasks' adaptation ended: FO-MAML."""
    adapted = {k: v.detach().requires_grad_() for k, v in learner.adapt(batch.support).items()}
    losses = learner.loss(learner.predict(adapted, batch.query.x, batch.support.x), batch.query.y)
    found = torch.autograd.grad(losses.mean(), list(adapted.values()))
    return torch.cat([g.sum(0).flatten() for g in found])


def exact(learner: MAML, batch: TaskBatch) -> Tensor:
    """MAML's own second-order meta-gradient at the same parameters."""
    twin = MAML(learner.model, learner.loss, inner_lr=learner.inner_lr, inner_steps=learner.inner_steps)
    return autograd(twin, batch)


def joint(learner: GradientLearner, batch: TaskBatch) -> Tensor:
    """The gradient of the query loss at the shared parameters."""
    return autograd(MAML(learner.model, learner.loss, inner_lr=0.1, inner_steps=0), batch)


def away(learner: GradientLearner, batch: TaskBatch) -> Tensor:
    """theta - phi after plain steps on all examples: K = 2 half batches, written out for one task at a time."""
    theta, found = learner.shared(), []
    for one in batch.split(1):
        x, y = (torch.cat(pair, dim=1) for pair in zip(one.support, one.query, strict=True))
        phi = trees.expand(theta, 1)
        for k in range(2):
            phi = trees.axpy(-0.1, learner.gradient(phi, Examples(x[:, k::2], y[:, k::2])), phi)
        found.append(trees.flatten(trees.sub(trees.expand(theta, 1), phi)))
    return torch.stack(found).mean(0)


def pulled(learner: ProximalLearner, batch: TaskBatch) -> Tensor:
    """lam (theta - phi_0), phi_0 from Newton's method on each task."""
    return learner.lam * (learner.theta() - newton(learner, batch).mean(0))


def implicit(learner: ProximalLearner, batch: TaskBatch) -> Tensor:
    """lam H^{-1} grad f(phi_0) by a dense solve."""
    phi, lam, found = newton(learner, batch), learner.lam, []
    for one, at in zip(batch.split(1), phi, strict=True):
        losses = learner.task_losses(one)
        H = torch.autograd.functional.hessian(lambda p, losses=losses: losses.support(p[None]).sum(), at)
        g = torch.autograd.functional.jacobian(lambda p, losses=losses: losses.query(p[None]).sum(), at)
        found.append(lam * torch.linalg.solve(H + lam * torch.eye(len(H), dtype=H.dtype), g))
    return torch.stack(found).mean(0)


def slope_at_solution(learner: ProximalLearner, batch: TaskBatch) -> Tensor:
    """grad f(phi_0)."""
    phi = newton(learner, batch).requires_grad_()
    return torch.autograd.grad(learner.task_losses(batch).query(phi).mean(), phi)[0].sum(0)


def newton(learner: ProximalLearner, batch: TaskBatch) -> Tensor:
    theta, ends = learner.theta(), []
    for one in batch.split(1):
        support = learner.task_losses(one).support

        def h(p, support=support):
            return support(p[None]).sum() + learner.lam / 2 * (p - theta).square().sum()

        phi = theta.clone()
        for _ in range(12):
            H = torch.autograd.functional.hessian(h, phi)
            phi = phi - torch.linalg.solve(H, torch.autograd.functional.jacobian(h, phi))
        ends.append(phi.detach())
    return torch.stack(ends)


# ---- every learner of the package ------------------------------------------------------------------------------------
LEARNERS = {  # how to make it, the oracle of its meta-gradient, the oracle's tolerance
    "maml": (lambda m: MAML(m, ctml.cross_entropy, inner_lr=0.1, inner_steps=2), autograd, 1e-12),
    "meta_sgd": (lambda m: MetaSGD(m, ctml.cross_entropy, inner_lr=0.1, inner_steps=2), autograd, 1e-12),
    "fo_maml": (lambda m: MAML(m, ctml.cross_entropy, inner_lr=0.1, inner_steps=2, order="first"), at_adapted, 1e-12),
    "hf_maml": (lambda m: MAML(m, ctml.cross_entropy, inner_lr=0.1, order="hessian-free"), exact, 1e-5),
    "anil": (lambda m: ANIL(m, ctml.cross_entropy, inner_lr=0.1, inner_steps=2), autograd, 1e-12),
    "anil, reverse": (
        lambda m: ANIL(m, ctml.cross_entropy, inner_lr=0.1, inner_steps=2, backward=Reverse()), autograd, 1e-12,
    ),
    "anil, adjoint": (
        lambda m: ANIL(m, ctml.cross_entropy, inner_lr=0.1, inner_steps=2, backward=EulerAdjoint()), autograd, 1e-12,
    ),
    "reptile": (lambda m: Reptile(m, ctml.cross_entropy, inner_lr=0.1, inner_steps=2), away, 1e-12),
    "comln": (lambda m: COMLN(m, ctml.cross_entropy, horizon=2.0), autograd, 1e-12),
    "bi_maml, joint": (lambda m: BiMAML(m, ctml.cross_entropy, switch=Switch(9), inner_lr=0.1), joint, 1e-12),
    "bi_maml, adapted": (lambda m: BiMAML(m, ctml.cross_entropy, switch=Switch(0), inner_lr=0.1), autograd, 1e-12),
    "rk_maml": (lambda m: RKMAML(m, ctml.cross_entropy, tableau=rk2(0.75), inner_lr=0.1), autograd, 1e-12),
    "rk_maml, first": (
        lambda m: RKMAML(m, ctml.cross_entropy, tableau=rk2(0.75), inner_lr=0.1, order="first"), autograd, 1e-12,
    ),
    "fo_b_maml": (lambda m: FOBMAML(m, ctml.cross_entropy, nu=1e-3, **PROXIMAL), implicit, 1e-5),
    "imaml": (lambda m: IMAML(m, ctml.cross_entropy, cg_steps=200, **PROXIMAL), implicit, 1e-8),
    "proximal fo_maml": (lambda m: ProximalFOMAML(m, ctml.cross_entropy, **PROXIMAL), slope_at_solution, 1e-9),
    "proximal reptile": (lambda m: ProximalReptile(m, ctml.cross_entropy, **PROXIMAL), pulled, 1e-9),
}  # fmt: skip
# These answer with another loss than that of the adapted parameters, and say so.
OTHER_LOSS = {"reptile": "on all examples", "bi_maml, joint": "before adaptation"}
all_learners = pytest.mark.parametrize("name", LEARNERS)


def make(name: str) -> Learner:
    return LEARNERS[name][0](network())


def meta_gradient(learner: Learner, batch: TaskBatch) -> Tensor:
    learner.meta_gradient(batch)
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learner.parameters()])


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return float((found - expected).detach().norm()) <= tolerance * float(expected.detach().norm())


def test_no_learner_is_left_out():
    classes = {c for _, c in inspect.getmembers(learners, inspect.isclass) if issubclass(c, Learner)}
    abstract = {Learner, GradientLearner, ProximalLearner}
    assert classes - abstract <= {type(make(name)) for name in LEARNERS}


@all_learners
def test_meta_loss_is_the_loss_of_the_adapted_prediction(name, batch):
    learner = make(name)
    outputs = learner.predict(learner.adapt(batch.support), batch.query.x, batch.support.x)
    losses = learner.loss(outputs, batch.query.y)
    if not name.startswith("rk_maml"):  # whose meta-loss weighs the stages; test_rk_maml has its oracle
        torch.testing.assert_close(learner.meta_loss(batch), losses, rtol=1e-12, atol=0)
        if name not in OTHER_LOSS:
            torch.testing.assert_close(learner.meta_gradient(batch), losses, rtol=1e-5, atol=0, check_stride=False)
    assert torch.isfinite(outputs).all() and outputs.shape == (TASKS, batch.query.x.shape[1], 2)


@all_learners
def test_meta_gradient_is_that_of_its_oracle(name, batch):
    _, oracle, tolerance = LEARNERS[name]
    learner = make(name)
    assert close(meta_gradient(learner, batch), oracle(learner, batch), tolerance)


@all_learners
def test_batched_is_one_by_one_in_any_order_and_in_any_parts(name, batch):
    learner = make(name)
    together = meta_gradient(learner, batch)
    alone = torch.stack([meta_gradient(make(name), one) for one in batch.split(1)]).mean(0)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = meta_gradient(make(name), batch.map(lambda t: t[order]))
    in_parts = make(name)
    in_parts.tasks_at_once = 3
    for other in (alone, shuffled, meta_gradient(in_parts, batch)):
        assert close(other, together, 1e-9)
    losses, reordered = make(name).meta_gradient(batch), make(name).meta_gradient(batch.map(lambda t: t[order]))
    torch.testing.assert_close(reordered, losses[order], rtol=1e-9, atol=0)


@all_learners
def test_predicting_needs_no_labels_and_calling_is_refused(name, batch):
    learner = make(name)
    adapted = learner.adapt(batch.support)
    assert "y" not in inspect.signature(learner.predict).parameters
    with pytest.raises(TypeError, match=r"call learner\.predict"):
        learner(adapted, batch.query.x)


@all_learners
def test_another_number_of_inner_steps_shares_the_parameters_or_is_refused(name, batch):
    learner = make(name)
    if isinstance(learner, COMLN):
        with pytest.raises(ValueError, match="inner_steps=5: COMLN takes no inner steps"):
            learner.with_inner_steps(5)
        return
    before = learner.adapt(batch.support)
    other = learner.with_inner_steps(0)
    for key, start in learner.shared().items():
        torch.testing.assert_close(other.adapt(batch.support)[key], start.expand(TASKS, *start.shape), rtol=0, atol=0)
    assert [id(p) for p in other.parameters()] == [id(p) for p in learner.parameters()]
    for key, value in learner.adapt(batch.support).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@all_learners
def test_meta_training_changes_parameters_and_no_setting(name, batch):
    """So that the very learner of a run may go on from its checkpoint."""
    learner = make(name)
    settings = describe(learner=learner)
    learner.meta_gradient(batch)
    assert describe(learner=learner) == settings


# ---- a subclass whose steps carry no derivative ----------------------------------------------------------------------
class Falling(MAML):
    """The step size falls along the inner loop; written over `adapt`, with the learner's own gradient."""

    def adapt(self, support):
        params = self.expanded(support)
        for k in range(self.inner_steps):
            params = trees.axpy(-self.inner_lr / (k + 1), self.gradient(params, support), params)
        return params


class Detached(MAML):
    """The same with plain autograd, which keeps no graph unless it is asked to."""

    def inner_step(self, params, embedded, step):
        with torch.enable_grad():
            total = self.loss(self.outputs(params, embedded.x), embedded.y).sum()
            gradients = torch.autograd.grad(total, list(params.values()), retain_graph=True)
        return {k: v - self.inner_lr * g for (k, v), g in zip(params.items(), gradients, strict=True)}


class Graphless(MAML):
    @torch.no_grad()
    def adapt(self, support):
        return super().adapt(support)


def test_the_learners_own_gradient_keeps_the_graph(batch):
    learner = Falling(network(), ctml.cross_entropy, inner_lr=0.3, inner_steps=2)
    start = learner.shared()

    def loss(theta: Tensor) -> Tensor:  # plain autograd on one vector, task by task
        total = []
        for one in batch.split(1):
            params = trees.unflatten(theta, start)
            for k in range(2):
                value = ctml.cross_entropy(learner.outputs(params, one.support.x), one.support.y).sum()
                grads = torch.autograd.grad(value, list(params.values()), create_graph=True)
                params = {n: p - 0.3 / (k + 1) * g for (n, p), g in zip(params.items(), grads, strict=True)}
            total.append(ctml.cross_entropy(learner.outputs(params, one.query.x), one.query.y))
        return torch.cat(total).mean()

    theta = trees.flatten(start).detach().requires_grad_()
    (expected,) = torch.autograd.grad(loss(theta), theta)
    assert close(meta_gradient(learner, batch), expected, 1e-12)


def test_a_subclass_that_was_looked_at_has_the_settings_it_had(batch):
    learner = Falling(network(), ctml.cross_entropy, inner_lr=0.3, inner_steps=2)
    settings = describe(learner=learner)
    learner.meta_gradient(batch)
    assert describe(learner=learner) == settings


@pytest.mark.parametrize("kind", [Detached, Graphless])
def test_steps_without_derivative_do_not_pass_as_second_order(kind, batch):
    with pytest.raises(LostGraph, match=f"{kind.__name__} has order='second'"):
        kind(network(), ctml.cross_entropy, inner_lr=0.1, inner_steps=2).meta_gradient(batch)
    if kind is Detached:
        kind(network(), ctml.cross_entropy, inner_lr=0.1, inner_steps=2, order="first").meta_gradient(batch)


@pytest.mark.parametrize("model", [None, lambda x: x])
@pytest.mark.usefixtures("without_shape_checks")
def test_a_model_is_a_module(model):
    with pytest.raises(TypeError, match=r"must be an nn\.Module"):
        Learner(model, ctml.cross_entropy)
