"""The instrument counts what is done: known counts of known methods, and what a wasteful one adds."""

from pathlib import Path

import pytest
import torch

import ctml
from ctml.companion.claims import judge, read_claims
from ctml.counting import count_gradients
from ctml.learners.anil_backward import Reverse
from ctml.learners.bi_maml import BiMAML, Switch
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid
from ctml.theory.anil import anil_cost

ROOT = Path(__file__).resolve().parents[1]

TASKS, K = 4, 3


@pytest.fixture
def batch():
    return Sinusoid(shots=6, queries=5).sample(TASKS, generator(0, "t")).to(dtype=torch.float64)


def network():
    return MLP([1, 8, 1], activation=torch.tanh, generator=generator(0, "w")).double()


class Wasteful:
    """Take nine gradients a step that nobody needs, by the learner's own means and by plain autograd."""

    def inner_step(self, params, embedded, step):
        for _ in range(4):
            self.gradient(params, embedded)
        for _ in range(5):
            leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
            with torch.enable_grad():
                total = self.loss(self.outputs(leaves, embedded.x), embedded.y).sum()
            torch.autograd.grad(total, list(leaves.values()))
        return super().inner_step(params, embedded, step)


class WastefulMAML(Wasteful, ctml.MAML):
    pass


class WastefulANIL(Wasteful, ctml.ANIL):
    pass


class WastefulBiMAML(Wasteful, BiMAML):
    pass


LEARNERS = {  # evaluations, gradients and second-order products of one meta-gradient, per task
    "second": (ctml.MAML, {}, (K + 1, K + 1, K)),
    "first": (ctml.MAML, {"order": "first"}, (K + 1, K + 1, 0)),
    "hessian-free": (ctml.MAML, {"order": "hessian-free"}, (3 * K + 1, 3 * K + 1, 0)),
    "anil": (ctml.ANIL, {}, (K + 1, K + 1, K)),
    "anil, first": (ctml.ANIL, {"order": "first"}, (K + 1, K + 1, 0)),
    "anil, reverse": (ctml.ANIL, {"backward": Reverse()}, (2 * K + 1, 2 * K + 1, K)),  # each step's gradient again
    "reptile": (ctml.Reptile, {}, (K + 1, K, 0)),
}


@pytest.mark.parametrize(("kind", "options", "expected"), LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("tasks_at_once", [None, 3])
def test_known_methods(batch, kind, options, expected, tasks_at_once):
    learner = kind(network(), ctml.mse, inner_lr=0.1, inner_steps=K, tasks_at_once=tasks_at_once, **options)
    loss = learner.loss
    plain = learner.meta_gradient(batch)
    grads = [p.grad.clone() for p in learner.parameters()]
    with count_gradients(learner) as count:
        assert torch.equal(learner.meta_gradient(batch), plain)
    assert (count.evaluations, count.gradients, count.second_order) == tuple(TASKS * n for n in expected)
    assert all(torch.equal(p.grad, g) for p, g in zip(learner.parameters(), grads, strict=True)), "it changes nothing"
    assert learner.loss is loss


@pytest.mark.parametrize("kind", [WastefulMAML, WastefulANIL])
def test_waste_is_seen(batch, kind):
    with count_gradients(learner := kind(network(), ctml.mse, inner_lr=0.1, inner_steps=K)) as count:
        learner.meta_gradient(batch)
    # The first meta-gradient of a subclass looks once at its graph (see MAML), so the second is counted.
    with count_gradients(learner) as count:
        learner.meta_gradient(batch)
    assert count.gradients == TASKS * (10 * K + 1)


def test_the_claim_about_anils_cost_falls_with_a_wasteful_loop(batch):
    """The rule of `anil-e11` reads counts, so that a loop which does more than the theorem says is found out."""
    claims = {c.id: c for c in read_claims(ROOT / "notebooks" / "anil" / "claims.toml")}

    def verdict(kind):
        learner = kind(network(), ctml.mse, inner_lr=0.1, inner_steps=K)
        learner._graph_is_sure = True
        with count_gradients(learner) as count:
            learner.meta_gradient(batch.split(1)[0])
        n_w, n_phi = (sum(p.numel() for p in ps.values()) for ps in (learner.shared(), learner.common()))
        formula = anil_cost(n_w, n_phi, K)
        gradient = count.gradients * n_w + n_phi
        second_order = count.second_order * n_w * (n_w + n_phi)
        miscounted = abs(gradient - formula.gradient) + abs(second_order - formula.second_order)
        return judge(claims["anil-e11"], {"miscounted": [miscounted], "time_ratio": [2.0]}).verdict

    assert verdict(ctml.ANIL) == "reproduced"
    assert verdict(WastefulANIL) == "not reproduced"


def test_waste_costs_units_of_bi_maml(batch):
    learner = WastefulBiMAML(network(), ctml.mse, switch=Switch(at_most=1), inner_lr=0.1, order="first")
    for _ in range(2):
        learner.meta_gradient(batch)
    assert int(learner.units) == 1 + (10 + 1)


def test_the_loss_comes_back_after_an_error(batch):
    learner = ctml.MAML(network(), ctml.mse, inner_lr=0.1)
    with pytest.raises(ZeroDivisionError), count_gradients(learner):
        raise ZeroDivisionError
    assert learner.loss is ctml.mse
