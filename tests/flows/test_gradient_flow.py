"""The flow itself: against torchdiffeq, the closed form, and what theory says of it."""

import inspect
import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from flows.problems import meta_gradients, problem, worst
from torchdiffeq import odeint

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
from ctml.flows.tableaus import DORMAND_PRINCE, EULER, HEUN, KUTTA3, RK4

TIGHT = Adaptive(rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("support, d", [(3, 8), (8, 3)], ids=["support < d", "support > d"])
@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()], ids=repr)
def test_flow_is_that_of_an_independent_solver_in_weight_space(loss, support, d):
    features, labels, head, horizon = problem(support=support, d=d)
    targets = F.one_hot(labels, 3).double()

    def gradient_descent(t, w):
        logits = features @ w.mT
        predicted = logits if loss == SquaredError() else logits.softmax(-1)
        return -(predicted - targets).mT @ features / support

    times = torch.stack([torch.zeros_like(horizon), horizon])
    expected = odeint(gradient_descent, head.expand(2, 3, d), times, rtol=1e-11, atol=1e-12)[-1]
    found = adapt_head(features, labels, head, horizon, loss=loss, solver=TIGHT)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("support, d", [(3, 8), (8, 3)], ids=["support < d", "support > d"])
def test_squared_loss_has_a_closed_form(support, d, weighted):
    features, labels, head, horizon = problem(support=support, d=d)
    weights = torch.rand(2, support, generator=ctml.generator(1, "weights"), dtype=torch.float64) if weighted else None
    options = {"loss": SquaredError(), "weights": weights}
    exact = adapt_head(features, labels, head, horizon, solver=ClosedForm(), **options)
    assert torch.allclose(adapt_head(features, labels, head, horizon, solver=TIGHT, **options), exact, atol=1e-9)
    # ... and its limit is least squares on the span of the features.
    if not weighted and d > support:
        at_rest = adapt_head(features, labels, head, horizon * 1e6, solver=ClosedForm(), loss=SquaredError())
        assert torch.allclose(features @ at_rest.mT, F.one_hot(labels, 3).double(), atol=1e-6)


@pytest.mark.parametrize("tableau", [EULER, HEUN, KUTTA3, RK4, DORMAND_PRINCE], ids=lambda t: t.name)
def test_order_of_convergence(tableau):
    given = problem()
    exact = adapt_head(*given, solver=Adaptive(rtol=1e-13, atol=1e-14))
    coarse, fine = (float((adapt_head(*given, solver=FixedSteps(n, tableau)) - exact).norm()) for n in (8, 16))
    assert math.log2(coarse / fine) > tableau.order - 0.3


def test_adaptive_error_follows_the_tolerance():
    given = problem(horizon=20.0)
    exact = adapt_head(*given, solver=Adaptive(rtol=1e-13, atol=1e-14))
    for rtol in (1e-4, 1e-6, 1e-8):
        error = (adapt_head(*given, solver=Adaptive(rtol=rtol, atol=rtol / 100)) - exact).norm() / exact.norm()
        assert error < 10 * rtol


@pytest.mark.parametrize("solver", [Adaptive(), FixedSteps(3, RK4)], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("gradient", [Adjoint(), ForwardMode(), Unrolled(), BackwardFlow()], ids=repr)
def test_zero_horizon_returns_the_initial_head_with_its_exact_gradients(gradient, solver):
    leaves = features, labels, head, horizon = problem(horizon=0.0)
    for leaf in (features, head, horizon):
        leaf.requires_grad_()
    adapted = adapt_head(*leaves, gradient=gradient, solver=solver)
    assert torch.equal(adapted, head.expand(2, 3, 4))
    d_features, d_head, d_horizon = torch.autograd.grad(adapted.sum(), (features, head, horizon))
    with torch.no_grad():
        residual = (features @ head.mT).softmax(-1) - F.one_hot(labels, 3)
        assert torch.equal(d_features, torch.zeros_like(features))
        assert torch.equal(d_head, torch.full_like(head, 2.0))
        assert torch.allclose(d_horizon, -(residual.mT @ features / 5).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_horizons_are_stable_and_the_loss_falls(dtype):
    """T up to 1e4: W and meta-gradients stay finite, and the support loss falls along the flow."""
    features, labels, head, _ = (x.to(dtype) if x.is_floating_point() else x for x in problem(support=6, d=4))
    losses = []
    for horizon in (0.1, 1.0, 10.0, 1e2, 1e3, 1e4):
        leaves = [features.clone().requires_grad_(), head.clone().requires_grad_(), torch.tensor(horizon, dtype=dtype)]
        adapted = adapt_head(leaves[0], labels, leaves[1], leaves[2].requires_grad_())
        gradients = torch.autograd.grad(adapted.square().sum(), leaves)
        assert all(torch.isfinite(g).all() for g in gradients)
        losses.append(ctml.cross_entropy(features @ adapted.detach().mT, labels).mean())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_weights_stay_in_the_span_of_the_features():
    features, labels, head, horizon = problem(support=3, d=8)
    moved = adapt_head(features, labels, head, horizon) - head
    basis = torch.linalg.qr(features.mT).Q
    assert torch.allclose(moved @ basis @ basis.mT, moved, atol=1e-12)


def test_one_task_is_a_batch_of_tasks():
    """Each task has its own steps: its result is the one it would have alone, whatever the others need."""
    features, labels, head, _ = problem(tasks=4)
    features = features * torch.tensor([0.1, 1.0, 3.0, 10.0], dtype=torch.float64)[:, None, None]
    horizon = torch.tensor([0.0, 1.0, 50.0, 2.0], dtype=torch.float64)
    together = adapt_head(features, labels, head, horizon)
    for i in range(4):
        alone = adapt_head(features[i : i + 1], labels[i : i + 1], head, horizon[i])
        assert torch.allclose(together[i], alone[0], rtol=0, atol=1e-10)


def test_smoothing_and_weights():
    features, labels, head, horizon = problem()
    soft = 0.9 * F.one_hot(labels, 3).double() + 0.1 / 3
    smoothed = adapt_head(features, labels, head, horizon, loss=CrossEntropy(smoothing=0.1))
    assert torch.allclose(smoothed, adapt_head(features, soft, head, horizon), atol=1e-14)
    # An example of weight zero is an example left out.
    weights = torch.full((2, 5), 1 / 4, dtype=torch.float64)
    weights[:, 2] = 0
    kept = [0, 1, 3, 4]
    without = adapt_head(features[:, kept], labels[:, kept], head, horizon, solver=TIGHT)
    assert torch.allclose(
        adapt_head(features, labels, head, horizon, weights=weights, solver=TIGHT), without, atol=1e-9
    )


NAN = float("nan")
SOFT = torch.full((2, 5, 3), 1 / 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"horizon": torch.tensor(-1.0)}, "horizon=-1"),
        ({"horizon": torch.tensor(NAN)}, "horizon holds NaN"),
        ({"horizon": torch.ones(3)}, "one per task"),
        ({"features": torch.full((2, 5, 4), NAN)}, "features holds NaN"),
        ({"features": torch.ones(5, 4)}, "features has shape"),
        ({"head": torch.ones(3, 7)}, "head has shape"),
        ({"head": torch.full((3, 4), float("inf"))}, "head holds NaN or infinity"),
        ({"labels": torch.full((2, 5), 3)}, r"labels lie in \[3, 3\]"),
        ({"labels": torch.full((2, 5), -1)}, r"labels lie in \[-1, -1\]"),
        ({"labels": torch.zeros(2, 4)}, "labels has shape"),
        ({"weights": -torch.ones(2, 5)}, "must not be negative"),
        ({"weights": torch.ones(5)}, "one per example"),
        ({"solver": ClosedForm()}, r"loss=CrossEntropy\(smoothing=0.0\): only SquaredError"),
        (
            {"solver": ClosedForm(), "loss": SquaredError(), "gradient": Adjoint(checkpoints=True)},
            r"takes no steps for gradient=Adjoint\(checkpoints=True\)",
        ),
        (
            {"gradient": ForwardMode(), "weights": torch.ones(2, 5, requires_grad=True)},
            r"weights require a gradient: gradient=ForwardMode\(\) has none",
        ),
        ({"gradient": ForwardMode(), "labels": SOFT}, r"labels require a gradient: gradient=ForwardMode\(\) has none"),
        (
            {"gradient": BackwardFlow(), "labels": SOFT},
            r"labels require a gradient: gradient=BackwardFlow\(\) has none",
        ),
    ],
)
def test_refusals(change, message):
    features, labels, head, horizon = problem()
    arguments = {"features": features, "labels": labels, "head": head, "horizon": horizon, **change}
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(adapt_head)(**arguments)  # its own refusals, not those of the shape checker of the tests


@pytest.mark.parametrize(
    "change, message",
    [
        ({"loss": "cross_entropy"}, r"loss='cross_entropy': must be one of CrossEntropy\(\), SquaredError\(\)"),
        ({"loss": ctml.cross_entropy}, r"loss=<function cross_entropy"),
        ({"solver": Adaptive}, r"solver=<class .*Adaptive'>: must be one of Adaptive\(\)"),
        ({"solver": Adjoint()}, r"solver=Adjoint\(checkpoints=False\): must be"),
        ({"gradient": "adjoint"}, r"gradient='adjoint': must be one of Adjoint\(\)"),
        ({"gradient": Adaptive()}, r"gradient=Adaptive\(.*\): must be"),
    ],
)
def test_options_are_objects(change, message):
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(adapt_head)(*problem(), **change)


def test_a_gradient_that_is_refused_is_not_missed_where_nothing_is_differentiated():
    features, _, head, horizon = problem()
    with torch.no_grad():
        expected = adapt_head(features, SOFT, head, horizon)
        for gradient in (ForwardMode(), BackwardFlow()):
            found = adapt_head(features, SOFT, head, horizon, gradient=gradient)
            assert torch.allclose(found, expected, atol=1e-12)


def test_a_loss_of_ones_own_needs_no_change_elsewhere():
    """Sigmoid regression: link(z) = sigmoid(z), given from outside, by all methods."""

    class Sigmoid:
        def predict(self, logits, out=None):
            return torch.sigmoid(logits, out=out)

        def pull_back(self, cotangent, predicted, out=None):
            return torch.mul(cotangent, predicted * (1 - predicted), out=out)

    class Logistic(SquaredError):
        link, linear = Sigmoid(), False

        def predict(self, logits):
            return logits.sigmoid()

    given = problem()
    expected = meta_gradients(partial(adapt_head, loss=Logistic(), gradient=Unrolled()), given)
    for gradient in (Adjoint(), Adjoint(checkpoints=True), ForwardMode()):
        found = meta_gradients(partial(adapt_head, loss=Logistic(), gradient=gradient), given)
        assert worst(found[:3], expected[:3]) < 1e-12
    with pytest.raises(ValueError, match="only SquaredError"):
        adapt_head(*given, loss=Logistic(), solver=ClosedForm())


def test_solvers_and_losses_refuse():
    with pytest.raises(ValueError, match=r"smoothing=1\.0"):
        CrossEntropy(smoothing=1.0)
    with pytest.raises(ValueError, match="steps=0"):
        FixedSteps(0)
    with pytest.raises(ValueError, match="atol=0"):
        Adaptive(atol=0)
    with pytest.raises(ValueError, match="embedded weights"):
        Adaptive(tableau=RK4)
    with pytest.raises(RuntimeError, match="max_steps=3"):
        adapt_head(*problem(horizon=1e3), solver=Adaptive(max_steps=3))
