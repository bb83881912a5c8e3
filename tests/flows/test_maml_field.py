"""The MAML field against finite differences of F, autograd of F, and the learners' own meta-gradients; all float64."""

import pytest
import torch

import ctml
from ctml import trees
from ctml.flows.maml_field import (
    first_order_field,
    hessian,
    heterogeneity,
    joint_field,
    learner_field,
    maml_field,
    maml_loss,
    mean_inner_gradient_norm,
    on_batch,
)
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import CurvatureJump, LogisticRidge, Quadratic, Sinusoid

ALPHA = 0.1


def points(n, d, scale=1.0):
    return scale * torch.randn(n, d, generator=generator(0, "points"), dtype=torch.float64)


def families():
    return {
        "quadratic": (Quadratic.draw(6, 4, generator(0, "t")), points(5, 4)),
        "logistic": (LogisticRidge.draw(8, generator(0, "t")), points(5, 5)),
        "curvature jump": (CurvatureJump.two(), points(5, 1, scale=8.0)),
    }


@pytest.mark.parametrize("family", ["quadratic", "logistic", "curvature jump"])
def test_maml_field_is_minus_the_finite_difference_of_the_maml_loss(family):
    tasks, w = families()[family]
    d, h = w.shape[-1], 1e-5
    steps = h * torch.eye(d, dtype=torch.float64)
    slope = (maml_loss(tasks, ALPHA, w[:, None] + steps) - maml_loss(tasks, ALPHA, w[:, None] - steps)) / (2 * h)
    torch.testing.assert_close(maml_field(tasks, ALPHA)(w), -slope, rtol=1e-6, atol=1e-7)


def test_fields_on_quadratics_are_the_closed_forms():
    tasks, w = families()["quadratic"]
    g = tasks.gradient(w)
    contraction = torch.eye(4, dtype=torch.float64) - ALPHA * tasks.hessian
    adapted = torch.einsum("tde,...te->...td", contraction, g)  # grad f_i(w_i) = H_i (w_i - c_i) = (I - alpha H_i) g_i
    torch.testing.assert_close(joint_field(tasks)(w), -g.mean(1))
    torch.testing.assert_close(first_order_field(tasks, ALPHA)(w), -adapted.mean(1))
    torch.testing.assert_close(
        maml_field(tasks, ALPHA)(w), -torch.einsum("tde,...te->...td", contraction, adapted).mean(1)
    )
    torch.testing.assert_close(mean_inner_gradient_norm(tasks, w), g.norm(dim=-1).mean(1))


def test_hessian_and_heterogeneity_on_quadratics():
    tasks, w = families()["quadratic"]
    contraction = torch.eye(4, dtype=torch.float64) - ALPHA * tasks.hessian
    exact = (contraction @ tasks.hessian @ contraction).mean(0)
    torch.testing.assert_close(hessian(maml_field(tasks, ALPHA), w), exact.expand(5, 4, 4), rtol=1e-7, atol=1e-8)
    each = tasks.gradient(w)
    apart = sum(((each[:, i] - each.mean(1)) ** 2).sum(-1) for i in range(6)) / 6
    torch.testing.assert_close(heterogeneity(tasks, w), apart.sqrt())


def test_a_batch_of_points_is_its_points_one_by_one():
    tasks, w = families()["logistic"]
    for field in (joint_field(tasks), first_order_field(tasks, ALPHA), maml_field(tasks, ALPHA)):
        torch.testing.assert_close(field(w.view(5, 1, 5)), torch.stack([field(p) for p in w])[:, None])


def network_and_batch():
    batch = Sinusoid(shots=6, queries=5).sample(4, generator(0, "t")).to(dtype=torch.float64)
    return MLP([1, 6, 1], activation=torch.tanh, generator=generator(0, "w")).double(), batch


@pytest.mark.parametrize(
    "make, options",
    [
        (lambda losses: joint_field(losses), {"inner_steps": 0}),
        (lambda losses: first_order_field(losses, ALPHA), {"order": "first"}),
        (lambda losses: maml_field(losses, ALPHA), {"order": "second"}),
    ],
)
def test_fields_of_a_learner_are_its_meta_gradient_with_support_and_query(make, options):
    model, batch = network_and_batch()
    learner = ctml.MAML(model, ctml.mse, inner_lr=ALPHA, **options)
    w = trees.flatten(learner.shared()).detach() + 0.3 * points(3, sum(p.numel() for p in model.parameters()))
    explicit = make(on_batch(learner, batch))(w)
    torch.testing.assert_close(explicit, learner_field(learner, batch)(w), rtol=1e-9, atol=1e-11)


def test_learner_field_takes_learners_that_have_no_one_step_form():
    model, batch = network_and_batch()
    learner = ctml.ANIL(model, ctml.mse, inner_lr=ALPHA, inner_steps=3)
    w = trees.flatten(dict(learner.named_parameters())).detach().clone()
    velocity, h = learner_field(learner, batch)(w), 1e-6

    def loss_at(point):
        learner_field(learner, batch)(point)  # leaves the learner at the point
        return float(learner.meta_gradient(batch).mean())

    for i in (0, 7, len(w) - 1):
        step = torch.zeros_like(w)
        step[i] = h
        slope = (loss_at(w + step) - loss_at(w - step)) / (2 * h)
        assert float(velocity[i]) == pytest.approx(-slope, rel=1e-6, abs=1e-9)


def test_the_first_order_field_is_not_a_gradient_and_the_maml_field_is():
    """A field is a gradient only if its Jacobian is symmetric."""
    losses = Quadratic.draw(6, 4, generator(0, "t"))
    logistic = LogisticRidge.draw(8, generator(0, "t"))

    def skewness(field, d):
        w, h = points(1, d)[0], 1e-5
        steps = h * torch.eye(d, dtype=torch.float64)
        jacobian = (field(w + steps) - field(w - steps)) / (2 * h)
        return float((jacobian - jacobian.T).norm() / jacobian.norm())

    assert skewness(maml_field(logistic, 1.0), 5) < 1e-8
    assert skewness(first_order_field(logistic, 1.0), 5) > 1e-3
    assert skewness(first_order_field(losses, ALPHA), 4) < 1e-8  # H_i commutes with I - alpha H_i: here it is one


@pytest.mark.parametrize("make", [maml_field, first_order_field])
def test_a_step_that_is_not_positive_is_refused(make):
    with pytest.raises(ValueError, match=r"alpha=-0\.1"):
        make(CurvatureJump.one(), -0.1)
