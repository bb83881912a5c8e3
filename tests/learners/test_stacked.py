"""A stack of runs is each run on its own: same gradients, same training; all float64."""

import pytest
import torch

import ctml
from ctml.learners.bi_maml import BiMAML, Switch
from ctml.learners.stacked import stack
from ctml.models import MLP, Conv4
from ctml.rng import generator
from ctml.tasks import FewShot, Sinusoid

RUNS, TASKS = 3, 4


def network(run):
    return MLP([1, 8, 1], activation=torch.tanh, generator=generator(run, "w")).double()


KINDS = {
    "second": lambda m: ctml.MAML(m, ctml.mse, inner_lr=0.05, inner_steps=2),
    "first": lambda m: ctml.MAML(m, ctml.mse, inner_lr=0.05, order="first"),
    "joint": lambda m: ctml.MAML(m, ctml.mse, inner_lr=0.05, inner_steps=0),
    "hessian-free": lambda m: ctml.MAML(m, ctml.mse, inner_lr=0.05, order="hessian-free"),
    "bi-maml": lambda m: BiMAML(m, ctml.mse, inner_lr=0.05, switch=Switch(at_most=2)),
    "reptile": lambda m: ctml.Reptile(m, ctml.mse, inner_lr=0.05, inner_steps=2),
}


def train(learner, batches):
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    for batch in batches:
        losses = learner.meta_gradient(batch)
        optimizer.step()
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_training_a_stack_is_training_each_run_on_its_tasks(kind):
    stream = generator(0, "t")
    batches = [Sinusoid(shots=6, queries=5).sample(RUNS * TASKS, stream).to(dtype=torch.float64) for _ in range(4)]
    stacked = stack([KINDS[kind](network(run)) for run in range(RUNS)])
    losses = train(stacked, batches)
    for run, after in enumerate(stacked.unstack()):
        alone = KINDS[kind](network(run))
        own = train(alone, [batch.split(TASKS)[run] for batch in batches])
        torch.testing.assert_close(losses[run * TASKS : (run + 1) * TASKS], own, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(after.state_dict(), alone.state_dict(), rtol=1e-9, atol=1e-11)
        assert type(after) is type(alone)


def test_a_stack_of_convolutional_networks():
    images = torch.rand(40, 1, 16, 16, generator=generator(0, "images"), dtype=torch.float64)
    pool = ctml.ClassPool(images, torch.full((8,), 5), tuple("abcdefgh"), "noise/train")
    batch = FewShot(pool, ways=3, shots=1, queries=2).sample(RUNS * 2, generator(0, "t"))

    def learner(run):
        model = Conv4(1, 3, width=4, side=16, generator=generator(run, "w")).double()
        return ctml.MAML(model, ctml.cross_entropy, inner_lr=0.1)

    stacked = stack([learner(run) for run in range(RUNS)])
    stacked.meta_gradient(batch)
    for run in range(RUNS):
        alone = learner(run)
        alone.meta_gradient(batch.split(2)[run])
        for p, q in zip(stacked.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.grad[run], q.grad, rtol=1e-8, atol=1e-11)


def test_runs_that_cannot_be_stacked_say_why():
    make = KINDS["second"]
    with pytest.raises(ValueError, match="learners is empty"):
        stack([])
    with pytest.raises(ValueError, match=r"MAML.*Reptile.*one method"):
        stack([make(network(0)), KINDS["reptile"](network(1))])
    with pytest.raises(ValueError, match="features are shared"):
        stack([ctml.ANIL(network(0), ctml.mse, inner_lr=0.1)])
    with pytest.raises(ValueError, match="tasks_at_once=2"):
        stack([ctml.MAML(network(0), ctml.mse, inner_lr=0.1, tasks_at_once=2)])
    with pytest.raises(ValueError, match="a norm switches each run at its own time"):
        stack([BiMAML(network(0), ctml.mse, inner_lr=0.1, switch=Switch(at_most=5, joint_norm=0.1))])
    batch = Sinusoid().sample(4, generator(0, "t")).to(dtype=torch.float64)
    with pytest.raises(ValueError, match="n_tasks=4: must be a multiple of the 3"):
        stack([make(network(run)) for run in range(3)]).meta_gradient(batch)
