"""BI-MAML is joint training up to the switch and MAML after it, with one optimiser; all float64."""

import copy

import pytest
import torch

import ctml
from ctml import trees
from ctml.learners.bi_maml import BiMAML, Switch
from ctml.learners.rk_maml import chain
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid
from ctml.theory.rk_maml import gradient_units

LR = 0.05


@pytest.fixture
def batches():
    stream = generator(0, "t")
    return [Sinusoid(shots=6, queries=5).sample(4, stream).to(dtype=torch.float64) for _ in range(6)]


def network():
    return MLP([1, 8, 1], activation=torch.tanh, generator=generator(0, "w")).double()


def train(learners, batches):
    """Let the first learner's optimiser run through all; each batch is handled by the learner named for it."""
    optimizer = torch.optim.Adam(learners[0].parameters(), 1e-2)
    for learner, batch in zip(learners, batches, strict=True):
        learner.meta_gradient(batch)
        optimizer.step()
    return trees.flatten(learners[0].shared()).detach()


@pytest.mark.parametrize("order", ["second", "first", "hessian-free"])
def test_it_is_joint_training_then_maml_with_one_optimiser(batches, order):
    options = {"inner_lr": LR, "order": order, "difference": 1e-3}  # long enough for the last digits to agree
    bi = BiMAML(network(), ctml.mse, switch=Switch(at_most=2), **options)
    result = train([bi] * 6, batches)
    model = network()  # one model in the hands of two plain learners, one after the other
    joint, maml = ctml.MAML(model, ctml.mse, inner_lr=LR, inner_steps=0), ctml.MAML(model, ctml.mse, **options)
    torch.testing.assert_close(result, train([joint] * 2 + [maml] * 4, batches), rtol=1e-10, atol=1e-12)
    assert int(bi.joint_steps) == 2
    assert int(bi.units) == 2 * 1 + 4 * gradient_units(chain(1), order)


def test_phase_one_is_blind_to_the_support_set(batches):
    bi = BiMAML(network(), ctml.mse, switch=Switch(at_most=5), inner_lr=LR)
    bi.meta_gradient(batches[0])
    first = trees.flatten({k: p.grad for k, p in bi.shared().items()})
    bi.meta_gradient(ctml.TaskBatch(batches[1].support, batches[0].query))
    torch.testing.assert_close(first, trees.flatten({k: p.grad for k, p in bi.shared().items()}))


def norms(batch):
    """Joint and mean inner gradient norm by a plain loop over tasks."""
    learner = ctml.MAML(network(), ctml.mse, inner_lr=LR, inner_steps=0)
    each = []
    for task in batch.split(1):
        learner.meta_gradient(task)
        each.append(trees.flatten({k: p.grad.clone() for k, p in learner.shared().items()}))
    each = torch.stack(each)
    return float(each.mean(0).norm()), float(each.norm(dim=1).mean())


@pytest.mark.parametrize("tasks_at_once", [None, 3])
@pytest.mark.parametrize("rule", ["joint_norm", "inner_norm"])
def test_norm_rules_fire_at_their_threshold_and_the_next_step_is_maml(batches, rule, tasks_at_once):
    batch = batches[0]
    value = norms(batch)[["joint_norm", "inner_norm"].index(rule)]
    maml = ctml.MAML(network(), ctml.mse, inner_lr=LR)
    maml.meta_gradient(batch)
    for factor, switched in ((0.999, False), (1.001, True)):
        switch = Switch(at_most=100, **{rule: factor * value})
        bi = BiMAML(network(), ctml.mse, switch=switch, inner_lr=LR, tasks_at_once=tasks_at_once)
        bi.meta_gradient(batch)
        assert bool(bi.switched) == switched
        bi.meta_gradient(batch)
        same = torch.allclose(bi.model.head.weight.grad, maml.model.head.weight.grad, rtol=1e-9)
        assert same == switched
        assert int(bi.units) == (1 + 4 if switched else 1 + 1)


def test_a_norm_is_taken_only_where_a_rule_asks_for_it(batches, monkeypatch):
    taken = []
    monkeypatch.setattr(trees, "norm", lambda *a, **k: taken.append(1) or torch.tensor(1.0))
    for rules, norms_taken in (({}, 0), ({"joint_norm": 0.5}, 1)):
        BiMAML(network(), ctml.mse, switch=Switch(at_most=100, **rules), inner_lr=LR).meta_gradient(batches[0])
        assert len(taken) == norms_taken


def test_the_switch_is_one_way(batches):
    bi = BiMAML(network(), ctml.mse, switch=Switch(at_most=100, joint_norm=1e3), inner_lr=LR)
    bi.meta_gradient(batches[0])
    with torch.no_grad():
        for p in bi.parameters():
            p.mul_(1e3)  # gradients are large again
    bi.meta_gradient(batches[1])
    assert bool(bi.switched)
    assert int(bi.units) == 1 + 4


def test_no_joint_phase_is_maml(batches):
    bi = BiMAML(network(), ctml.mse, switch=Switch(at_most=0), inner_lr=LR)
    torch.testing.assert_close(
        train([bi] * 6, batches), train([ctml.MAML(network(), ctml.mse, inner_lr=LR)] * 6, batches), rtol=0, atol=0
    )


def test_a_killed_run_resumes_in_its_phase(tmp_path):
    tasks = Sinusoid(shots=5, queries=5)

    def run(steps, checkpoint=None):
        bi = BiMAML(network().float(), ctml.mse, switch=Switch(at_most=4), inner_lr=LR)
        optimizer = torch.optim.Adam(bi.parameters(), 1e-3)
        ctml.meta_train(
            bi, tasks, optimizer=optimizer, steps=steps, meta_batch=3, seed=0, checkpoint=checkpoint, progress=False
        )
        return bi

    run(6, tmp_path / "state.pt")
    resumed, whole = run(9, tmp_path / "state.pt"), run(9)
    assert int(resumed.units) == int(whole.units) == 4 + 5 * 4
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_copy_keeps_its_phase(batches):
    bi = BiMAML(network(), ctml.mse, switch=Switch(at_most=1), inner_lr=LR)
    bi.meta_gradient(batches[0])
    assert bool(copy.deepcopy(bi).switched)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"at_most": -1}, "at_most=-1"),
        ({"at_most": 5, "joint_norm": 0.0}, "joint_norm=0"),
        ({"at_most": 5, "inner_norm": float("nan")}, "inner_norm=nan"),
        ({"at_most": 5, "inner_norm": 0.1, "joint_norm": 0.2}, "inner_norm=0.1: never fires before joint_norm=0.2"),
    ],
)
def test_rules_that_can_never_fire_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Switch(**arguments)
