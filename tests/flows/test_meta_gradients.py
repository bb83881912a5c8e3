"""Meta-gradients: finite differences, plain autograd, and the four methods against each other."""

import functools

import pytest
import torch
from flows.problems import meta_gradients, problem, worst

import ctml
from ctml.flows import (
    Adaptive,
    Adjoint,
    BackwardFlow,
    ClosedForm,
    CrossEntropy,
    FixedSteps,
    ForwardMode,
    SquaredError,
    Unrolled,
    adapt_head,
)
from ctml.flows.tableaus import DORMAND_PRINCE, EULER, RK4, TABLEAUS

TIGHT = Adaptive(rtol=1e-10, atol=1e-12)
SHAPES = [(3, 6), (6, 3)]
LOSSES = [CrossEntropy(), SquaredError()]
REVERSED = {
    "adjoint": {},
    "checkpoints": {"gradient": Adjoint(checkpoints=True)},
    "squared": {"loss": SquaredError()},
    "closed form": {"loss": SquaredError(), "solver": ClosedForm()},
}


def adapt(**options):
    return functools.partial(adapt_head, **options)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda t: t.name)
def test_finite_differences_of_fixed_steps(tableau, loss):
    """The adjoint is the derivative of the very steps taken, in Phi, W_0 and T, however coarse they are."""
    features, labels, head, horizon = problem(tasks=2, support=3, ways=2, d=3)
    inputs = [x.requires_grad_() for x in (features, head, horizon)]

    def adapted(features, head, horizon, gradient):
        return adapt_head(features, labels, head, horizon, loss=loss, solver=FixedSteps(3, tableau), gradient=gradient)

    for gradient in (Adjoint(), Unrolled()):
        assert torch.autograd.gradcheck(functools.partial(adapted, gradient=gradient), inputs)
    # Forward mode differentiates the steps in Phi and W_0, and the flow in T (equation 13).
    assert torch.autograd.gradcheck(lambda f, h: adapted(f, h, horizon.detach(), ForwardMode()), inputs[:2])


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("gradient", [Adjoint(), ForwardMode(), Unrolled(), BackwardFlow()], ids=repr)
def test_finite_differences_of_the_flow(gradient, loss):
    features, labels, head, horizon = problem(tasks=1, support=3, ways=2, d=3)
    inputs = [x.requires_grad_() for x in (features, head, horizon)]
    # Fixed steps: adaptive ones jump a little when an input moves, which finite differences would magnify.
    options = {"loss": loss, "solver": FixedSteps(30, DORMAND_PRINCE), "gradient": gradient}
    assert torch.autograd.gradcheck(lambda f, h, t: adapt_head(f, labels, h, t, **options), inputs)


@pytest.mark.parametrize(
    "options",
    [{"solver": FixedSteps(3, RK4)}, {"solver": FixedSteps(3, RK4), "gradient": Unrolled()},
     {"solver": ClosedForm(), "loss": SquaredError()}],
    ids=["adjoint", "unrolled", "closed form"],
)  # fmt: skip
def test_finite_differences_in_the_weights_of_examples(options):
    features, labels, head, horizon = problem(tasks=2, support=3, ways=2, d=3)
    weights = torch.rand(2, 3, generator=ctml.generator(0, "weights"), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda w: adapt_head(features, labels, head, horizon, weights=w, **options), [weights]
    )


@pytest.mark.parametrize("support, d", SHAPES, ids=["support < d", "support > d"])
@pytest.mark.parametrize("options", REVERSED.values(), ids=REVERSED)
def test_gradient_in_a_weight_that_is_zero(options, support, d):
    """An example left out still says what it would change; the square roots of the closed form do not show."""
    features, labels, head, horizon = problem(tasks=2, support=support, d=d)
    weights = torch.full((2, support), 0.4, dtype=torch.float64)
    weights[0, 1] = weights[1, 0] = weights[1, 2] = 0

    def in_weights(**options):
        leaves = [x.clone().requires_grad_() for x in (features, head, horizon, weights)]
        adapted = adapt_head(leaves[0], labels, *leaves[1:3], weights=leaves[3], **{"solver": TIGHT} | options)
        return [adapted.detach(), *torch.autograd.grad((adapted**3).sum() + adapted.sin().sum(), leaves)]

    reference = {"loss": options.get("loss", CrossEntropy()), "gradient": Unrolled()}
    expected = in_weights(**reference)
    assert expected[-1][0, 1].abs() > 1e-3
    assert worst(in_weights(**options), expected) < 1e-8


@pytest.mark.parametrize("options", REVERSED.values(), ids=REVERSED)
def test_gradient_in_soft_targets(options):
    """Plain autograd's, also through the smoothing; the other methods refuse (see the refusals of the flow)."""
    features, _, head, horizon = problem(tasks=3)
    soft = torch.rand(3, 5, 3, generator=ctml.generator(0, "soft"), dtype=torch.float64).softmax(-1)
    options = {"loss": CrossEntropy(smoothing=0.1), "solver": TIGHT} | options

    def in_targets(**options):
        targets = soft.clone().requires_grad_()
        adapted = adapt_head(features, targets, head, horizon, **options)
        return list(torch.autograd.grad((adapted**3).sum() + adapted.sin().sum(), targets))

    steps = {"solver": TIGHT, "gradient": Unrolled()}
    assert worst(in_targets(**options), in_targets(**options | steps)) < 1e-8


@pytest.mark.parametrize("support, d", SHAPES, ids=["support < d", "support > d"])
@pytest.mark.parametrize("solver", [FixedSteps(150, EULER), FixedSteps(37, RK4), Adaptive()], ids=repr)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_adjoint_is_plain_autograd(loss, solver, support, d):
    """To 1e-12, with all states kept and with checkpoints; per-task heads and horizons too."""
    loss = CrossEntropy(smoothing=0.1) if loss == CrossEntropy() else loss
    given = problem(tasks=3, support=support, d=d, horizon=4.0)
    options = {"loss": loss, "solver": solver}
    expected = meta_gradients(adapt(gradient=Unrolled(), **options), given)
    assert worst(meta_gradients(adapt(**options), given), expected) < 1e-12
    assert worst(meta_gradients(adapt(gradient=Adjoint(checkpoints=True), **options), given), expected) < 1e-12
    per_task = given._replace(head=given.head * torch.tensor([[[1.0]], [[2.0]], [[-1.0]]], dtype=torch.float64))
    per_task = per_task._replace(horizon=torch.tensor([0.5, 1.0, 7.0], dtype=torch.float64))
    expected = meta_gradients(adapt(gradient=Unrolled(), **options), per_task)
    assert worst(meta_gradients(adapt(**options), per_task), expected) < 1e-12


@pytest.mark.parametrize("support, d", SHAPES, ids=["support < d", "support > d"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_forward_mode_is_the_adjoint(loss, support, d):
    """Same steps: exactly, in Phi and W_0. In T: within the solver's error, which shrinks with the tolerance."""
    given = problem(tasks=3, support=support, d=d, horizon=4.0)
    for rtol in (1e-4, 1e-7, 1e-10):
        solver = Adaptive(rtol=rtol, atol=rtol / 100)
        adjoint = meta_gradients(adapt(loss=loss, solver=solver), given)
        forward = meta_gradients(adapt(loss=loss, solver=solver, gradient=ForwardMode()), given)
        assert worst(forward[:3], adjoint[:3]) < 1e-12
        assert worst(forward[3:], adjoint[3:]) < 30 * rtol


@pytest.mark.parametrize("support, d", SHAPES, ids=["support < d", "support > d"])
def test_long_horizons_stay_exact(support, d):
    """At T = 1e4, and where the flow comes to rest (support > d): derivative of its steps, and close to the flow's own.

    Steps beyond the method's stable interval would leave the path as it is and multiply its derivative by 1e90.
    """
    given = problem(tasks=2, support=support, d=d, horizon=1e4)
    adjoint, forward, expected = (
        meta_gradients(adapt(gradient=g), given) for g in (Adjoint(), ForwardMode(), Unrolled())
    )
    assert worst(adjoint[:3], expected[:3]) < 1e-10
    assert worst(forward[:3], expected[:3]) < 1e-9
    assert worst(adjoint[:3], meta_gradients(adapt(solver=Adaptive(1e-9, 1e-10)), given)[:3]) < 1e-4


@pytest.mark.parametrize("gradient", [Adjoint(), ForwardMode(), Unrolled()], ids=repr)
def test_one_task_is_a_batch_of_tasks(gradient):
    """A task's part of the meta-gradient does not depend on its neighbours, though each takes its own steps."""
    given = problem(tasks=3)
    scale = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)[:, None, None]
    given = given._replace(features=given.features * scale)
    _, d_features, d_head, d_horizon = meta_gradients(adapt(gradient=gradient), given)
    alone = [
        meta_gradients(adapt(gradient=gradient), given._replace(features=f[None], labels=y[None]))
        for f, y in zip(given.features, given.labels, strict=True)
    ]
    assert worst([torch.cat([one[1] for one in alone])], [d_features]) < 1e-10
    assert worst([sum(one[2] for one in alone), sum(one[3] for one in alone)], [d_head, d_horizon]) < 1e-9


@pytest.mark.parametrize("support, d", SHAPES, ids=["support < d", "support > d"])
def test_closed_form_of_the_squared_loss(support, d):
    """Also where support > d, so that the Gram matrix has repeated eigenvalues."""
    given = problem(tasks=3, support=support, d=d, horizon=4.0)
    exact = meta_gradients(adapt(loss=SquaredError(), solver=ClosedForm()), given)
    assert worst(meta_gradients(adapt(loss=SquaredError(), solver=TIGHT), given), exact) < 1e-8
    features, labels, head, horizon = problem(tasks=1, support=support, ways=2, d=d)
    inputs = [x.requires_grad_() for x in (features, head, horizon)]
    assert torch.autograd.gradcheck(
        lambda f, h, t: adapt_head(f, labels, h, t, loss=SquaredError(), solver=ClosedForm()), inputs
    )


def test_textbook_adjoint_fails_where_the_discrete_one_does_not():
    """exp(lambda_max T) times the tolerance is large here; the error of the backward flow is of that kind."""
    given = problem(tasks=1, support=6, d=4, horizon=20.0)
    solver = Adaptive(rtol=1e-6, atol=1e-8)
    exact = meta_gradients(adapt(loss=SquaredError(), solver=ClosedForm()), given)
    assert worst(meta_gradients(adapt(loss=SquaredError(), solver=solver), given), exact) < 1e-2
    assert worst(meta_gradients(adapt(loss=SquaredError(), solver=solver, gradient=BackwardFlow()), given), exact) > 1


def test_anil_is_explicit_euler():
    """K gradient steps at rate alpha, written out in weight space, give the same head and the same meta-gradients."""
    rate, steps = 0.05, 60
    given = problem(tasks=3, support=6, d=8, horizon=rate * steps)

    def anil(features, labels, head, horizon):
        w = head.expand(3, *head.shape)
        for _ in range(steps):
            loss = ctml.cross_entropy(features @ w.mT, labels).sum()
            w = w - (horizon / steps) * torch.autograd.grad(loss, w, create_graph=True)[0]
        return w

    expected = meta_gradients(anil, given)
    assert worst(meta_gradients(adapt(solver=FixedSteps(steps, EULER)), given), expected) < 1e-12


def test_states_kept():
    """M N numbers a step, and about the square root of the steps with checkpoints."""
    support, ways, steps = 6, 3, 400
    features, labels, head, horizon = problem(tasks=2, support=support, ways=ways)
    features.requires_grad_()

    def numbers(**options) -> int:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.untyped_storage()) or t, lambda t: t):
            adapt_head(features, labels, head, horizon, **options)
        return sum(storage.nbytes() for storage in {s.data_ptr(): s for s in saved}.values()) // 8

    def of_states(steps, **options) -> int:
        one = numbers(solver=FixedSteps(1, EULER))
        return (numbers(solver=FixedSteps(steps, EULER), **options) - one) // (2 * support * ways)

    assert of_states(steps) == steps - 1
    assert of_states(steps, gradient=Adjoint(checkpoints=True)) <= 2 * steps**0.5
    constant = {"gradient": ForwardMode()}
    assert numbers(solver=FixedSteps(steps, EULER), **constant) == numbers(solver=FixedSteps(1), **constant)


def test_no_graph_no_memory():
    """Meta-testing keeps no state; and a second derivative is refused, not wrong."""
    features, labels, head, horizon = problem()
    with torch.no_grad():
        assert not adapt_head(features, labels, head.requires_grad_(), horizon).requires_grad
    adapted = adapt_head(features, labels, head, horizon)
    (gradient,) = torch.autograd.grad(adapted.square().sum(), head, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
