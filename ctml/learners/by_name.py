"""Learners by the names that figures and tables give them.

A name stands for a class and the options that make it this method and no other: FO-MAML is MAML of first order. What a
method leaves open (rates, steps, solvers) is given as for its class.
"""

import inspect
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import nn

from ctml.checks import one_of
from ctml.flows.tableaus import KUTTA3, RK4
from ctml.learners.anil import ANIL
from ctml.learners.base import Learner
from ctml.learners.bi_maml import BiMAML
from ctml.learners.comln import COMLN
from ctml.learners.fo_b_maml import FOBMAML
from ctml.learners.imaml import IMAML
from ctml.learners.maml import MAML
from ctml.learners.meta_sgd import MetaSGD
from ctml.learners.reptile import Reptile
from ctml.learners.rk_maml import RKMAML, chain
from ctml.types import Loss

METHODS: Mapping[str, tuple[type[Learner], Mapping[str, Any]]] = {
    "maml": (MAML, {"order": "second"}),
    "fo_maml": (MAML, {"order": "first"}),
    "hf_maml": (MAML, {"order": "hessian-free"}),
    "joint": (MAML, {"inner_steps": 0}),
    "meta_sgd": (MetaSGD, {}),
    "anil": (ANIL, {"order": "second"}),
    "fo_anil": (ANIL, {"order": "first"}),
    "reptile": (Reptile, {}),
    "comln": (COMLN, {}),
    "bi_maml": (BiMAML, {}),
    "imaml": (IMAML, {}),
    "fo_b_maml": (FOBMAML, {"difference": "symmetric"}),
    "fo_b_maml_forward": (FOBMAML, {"difference": "forward"}),
    "fo_b_maml_one_by_one": (FOBMAML, {"difference": "symmetric", "stacked": False}),
    "fo_b_maml_tangent": (FOBMAML, {"difference": "symmetric", "tangent": True}),
    "rk2_half": (RKMAML, {"a2": Fraction(1, 2)}),
    "rk2_two_thirds": (RKMAML, {"a2": Fraction(2, 3)}),
    "rk2_three_quarters": (RKMAML, {"a2": Fraction(3, 4)}),
    "rk3": (RKMAML, {"tableau": KUTTA3}),
    "rk4": (RKMAML, {"tableau": RK4}),
}


def make_learner(method: str, model: nn.Module, loss: Loss, **options: Any) -> Learner:
    """Return the learner of a method around a model.

    >>> import ctml
    >>> batch = ctml.tasks.Sinusoid().sample(4, ctml.generator(0, "tasks"))
    >>> network = ctml.models.MLP([1, 40, 40, 1], generator=ctml.generator(0, "weights"))
    >>> from ctml.learners.by_name import make_learner
    >>> make_learner("fo_maml", network, ctml.mse, inner_lr=0.01).order
    'first'

    Args:
        method: a key of `METHODS`.
        model, loss: as for every learner.
        options: those of the method's class. The family "rk2_..." takes `inner_steps` and weighs the last of them.

    Raises:
        ValueError: naming the methods that exist, the options that the method's class takes, or what the name fixes.
    """
    one_of("method", method, METHODS)
    kind, fixed = METHODS[method]
    for name in options:
        if name in fixed or (name == "tableau" and "a2" in fixed):
            raise ValueError(f"{name}={options[name]!r}: the method {method!r} fixes it; leave it out")
        known = [k for k in options_of(kind) if k not in fixed]
        if name not in known:
            raise ValueError(f"{name}={options[name]!r}: {method!r} has no such option; it takes {', '.join(known)}")
    if "a2" in fixed:
        fixed = {"tableau": chain(options.get("inner_steps", 1), fixed["a2"])}
    return kind(model, loss, **fixed, **options)


def options_of(kind: type[Learner]) -> list[str]:
    """Return the names of the options of a learner's class, with those that it hands on to the class above."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    hands_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    above = kind.__mro__[1]
    return [*names, *(options_of(above) if hands_on and issubclass(above, Learner) else [])]
