"""A method's name makes the learner that its class and options make by hand."""

from fractions import Fraction

import pytest
import torch

import ctml
from ctml.companion import style
from ctml.flows import SquaredError
from ctml.flows.tableaus import RK4, rk2
from ctml.inner_solvers import GradientDescent
from ctml.learners.bi_maml import BiMAML, Switch
from ctml.learners.by_name import METHODS, make_learner, options_of
from ctml.learners.fo_b_maml import FOBMAML
from ctml.learners.imaml import IMAML
from ctml.learners.rk_maml import RKMAML, chain
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid

STEPS = {"inner_lr": 0.05, "inner_steps": 3}
PROXIMAL = {"lam": 20.0, "solver": GradientDescent(steps=5, rate=0.02)}
BY_HAND = {
    "maml": (ctml.MAML, {**STEPS, "order": "second"}),
    "fo_maml": (ctml.MAML, {**STEPS, "order": "first"}),
    "hf_maml": (ctml.MAML, {**STEPS, "order": "hessian-free"}),
    "joint": (ctml.MAML, {"inner_lr": 0.05, "inner_steps": 0}),
    "meta_sgd": (ctml.MetaSGD, STEPS),
    "anil": (ctml.ANIL, {**STEPS, "order": "second"}),
    "fo_anil": (ctml.ANIL, {**STEPS, "order": "first"}),
    "reptile": (ctml.Reptile, STEPS),
    "comln": (ctml.COMLN, {"horizon": 0.5, "inner_loss": SquaredError()}),
    "bi_maml": (BiMAML, {**STEPS, "switch": Switch(at_most=0)}),
    "imaml": (IMAML, PROXIMAL),
    "fo_b_maml": (FOBMAML, {**PROXIMAL, "nu": 0.1, "difference": "symmetric"}),
    "fo_b_maml_forward": (FOBMAML, {**PROXIMAL, "nu": 0.1, "difference": "forward"}),
    "fo_b_maml_one_by_one": (FOBMAML, {**PROXIMAL, "nu": 0.1, "stacked": False}),
    "fo_b_maml_tangent": (FOBMAML, {**PROXIMAL, "nu": 0.1, "tangent": True}),
    "rk2_half": (RKMAML, {**STEPS, "tableau": chain(3, Fraction(1, 2))}),
    "rk2_two_thirds": (RKMAML, {"inner_lr": 0.05, "tableau": rk2(Fraction(2, 3))}),
    "rk2_three_quarters": (RKMAML, {**STEPS, "tableau": chain(3, Fraction(3, 4))}),
    "rk3": (RKMAML, {"inner_lr": 0.05, "tableau": METHODS["rk3"][1]["tableau"]}),
    "rk4": (RKMAML, {"inner_lr": 0.05, "tableau": RK4}),
}
FIXED = {"order", "difference", "tableau", "stacked", "tangent"}


def network():
    return MLP([1, 8, 8, 1], activation=torch.tanh, generator=generator(0, "weights")).double()


def gradient(learner):
    learner.meta_gradient(Sinusoid(shots=6, queries=5).sample(3, generator(0, "tasks")).to(dtype=torch.float64))
    return torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])


@pytest.mark.parametrize("method", METHODS)
def test_the_name_is_the_class_with_its_options(method) -> None:
    kind, options = BY_HAND[method]
    left_open = {k: v for k, v in options.items() if k not in FIXED and (method, k) != ("joint", "inner_steps")}
    named = make_learner(method, network(), ctml.mse, **left_open)
    assert type(named) is kind
    assert torch.equal(gradient(named), gradient(kind(network(), ctml.mse, **options)))


def test_methods_have_a_style_of_their_own_name() -> None:
    assert set(METHODS) - {"fo_anil"} <= set(style.METHODS)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mammal", {}, "method='mammal': must be one of maml, fo_maml"),
        ("maml", {"horizon": 1.0}, "horizon=1.0: 'maml' has no such option; it takes inner_lr, inner_steps"),
        ("comln", {"inner_lr": 0.1}, "inner_lr=0.1: 'comln' has no such option; it takes horizon"),
        ("fo_maml", {"order": "second"}, "order='second': the method 'fo_maml' fixes it"),
        ("joint", {"inner_steps": 3}, "inner_steps=3: the method 'joint' fixes it"),
        ("rk2_half", {"tableau": RK4}, "the method 'rk2_half' fixes it"),
        ("rk2_half", {"a2": 1}, "a2=1: the method 'rk2_half' fixes it"),
    ],
)
def test_what_a_name_does_not_take_is_refused_by_name(method, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_learner(method, network(), ctml.mse, **options)


def test_options_handed_on_are_options_too() -> None:
    assert set(options_of(BiMAML)) == {"switch", *options_of(ctml.MAML)}
