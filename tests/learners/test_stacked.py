"""A stack of runs is each run on its own: same gradients, same training; all float64."""

import pytest
import torch

import ctml
from ctml.flows.tableaus import RK4, rk2
from ctml.inner_solvers import GradientDescent
from ctml.learners.bi_maml import BiMAML, Switch
from ctml.learners.stacked import stack
from ctml.models import MLP, Conv1D, Conv4, DeepHead, PerTask, ResNet12, Transformer
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
    "rk-maml": lambda m: ctml.RKMAML(m, ctml.mse, tableau=rk2(0.75), inner_lr=0.05),
    "rk-maml first": lambda m: ctml.RKMAML(m, ctml.mse, tableau=RK4, step=0.05, order="first"),
    "rk-maml mean": lambda m: ctml.RKMAML(m, ctml.mse, tableau=RK4, step=0.05, stages="mean"),
}
PROXIMAL = {"lam": 2.0, "solver": GradientDescent(steps=5)}
REFUSED = {
    "anil": (lambda m: ctml.ANIL(m, ctml.mse, inner_lr=0.1), "learners=ANIL: its features are shared"),
    "comln": (lambda m: ctml.COMLN(m, ctml.mse), "learners=COMLN: it adapts no parameters task by task"),
    "fo-b-maml": (lambda m: ctml.FOBMAML(m, ctml.mse, nu=0.1, **PROXIMAL), "learners=FOBMAML: its solver"),
    "imaml": (lambda m: ctml.IMAML(m, ctml.mse, **PROXIMAL), "learners=IMAML: its solver"),
    "proximal fo-maml": (lambda m: ctml.ProximalFOMAML(m, ctml.mse, **PROXIMAL), "learners=ProximalFOMAML: its solver"),
    "proximal reptile": (lambda m: ctml.ProximalReptile(m, ctml.mse, **PROXIMAL), "learners=ProximalReptile: its sol"),
    "meta-sgd": (lambda m: ctml.MetaSGD(m, ctml.mse, inner_lr=0.1), r"learners=MetaSGD: its own parameters \(rates"),
    "batch norm": (lambda m: ctml.MAML(Normed(), ctml.mse, inner_lr=0.1), "learners=MAML: model.norm is a BatchNorm1d"),
}


class Normed(torch.nn.Module):
    """A model whose running statistics would mix the runs."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 1)

    def forward(self, x, context=None):
        return self.head(self.norm(x.flatten(0, 1)).view_as(x))


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


def ordinary(run):
    torch.manual_seed(run)  # ordinary torch, which draws from the global generator
    return PerTask(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3)))


MODELS = {  # the shape of one example, and the model of one run
    "conv4": ((1, 16, 16), lambda w: Conv4(1, 3, width=4, side=16, generator=w)),
    "resnet12": ((1, 16, 16), lambda w: ResNet12(1, 3, side=16, average=True, generator=w)),
    "deep head": ((1, 16, 16), lambda w: DeepHead(Conv4(1, 3, width=4, side=16, generator=w))),
    "conv1d": ((40,), lambda w: Conv1D(3, channels=4, generator=w)),
    "transformer": ((40,), lambda w: Transformer(3, generator=w)),  # it has a buffer, the same in every run
    "per task": ((1, 16, 16), lambda w: ordinary(int(w.initial_seed() % 1000))),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_stack_of_every_model(kind):
    shape, make = MODELS[kind]
    images = torch.rand(40, *shape, generator=generator(0, "images"), dtype=torch.float64)
    pool = ctml.ClassPool(images, torch.full((8,), 5), tuple("abcdefgh"), "noise/train")
    batch = FewShot(pool, ways=3, shots=1, queries=2).sample(RUNS * 2, generator(0, "t"))

    def learner(run):
        return ctml.MAML(make(generator(run, "w")).double(), ctml.cross_entropy, inner_lr=0.1)

    stacked = stack([learner(run) for run in range(RUNS)])
    stacked.meta_gradient(batch)
    for run in range(RUNS):
        alone = learner(run)
        alone.meta_gradient(batch.split(2)[run])
        for p, q in zip(stacked.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.grad[run], q.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_method_that_cannot_be_stacked_is_refused_by_name(kind):
    make, says = REFUSED[kind]
    with pytest.raises(ValueError, match=says):
        stack([make(network(run)) for run in range(RUNS)])


def test_every_learner_of_the_package_is_stacked_or_refused():
    tried = {type(make(network(0))) for make in (*KINDS.values(), *(make for make, _ in REFUSED.values()))}
    public = [getattr(ctml, name) for name in ctml.__all__]
    learners = {c for c in public if isinstance(c, type) and issubclass(c, ctml.Learner)}
    assert learners - tried == {ctml.Learner, ctml.GradientLearner}


def test_runs_that_differ_in_more_than_their_numbers_say_in_what():
    def maml(run=0, sizes=(1, 8, 1), **options):
        model = MLP(sizes, activation=torch.tanh, generator=generator(run, "w"))
        return ctml.MAML(model, ctml.mse, **{"inner_lr": 0.05} | options)

    with pytest.raises(ValueError, match=r"inner_lr=0\.1 of run 1 is not run 0's 0\.05"):
        stack([maml(0), maml(1, inner_lr=0.1)])
    with pytest.raises(ValueError, match=r"model\.body\.0\.weight of run 2 has shape \(9, 1\), of run 0 \(8, 1\)"):
        stack([maml(0), maml(1), maml(2, sizes=(1, 9, 1))])
    begun = [BiMAML(network(run), ctml.mse, inner_lr=0.05, switch=Switch(at_most=5)) for run in range(2)]
    begun[1].joint_steps.add_(3)
    with pytest.raises(ValueError, match="joint_steps of run 1 is not run 0's"):
        stack(begun)


def test_runs_that_cannot_be_stacked_say_why():
    make = KINDS["second"]
    with pytest.raises(ValueError, match="learners is empty"):
        stack([])
    with pytest.raises(ValueError, match=r"MAML.*Reptile.*one method"):
        stack([make(network(0)), KINDS["reptile"](network(1))])
    with pytest.raises(ValueError, match="tasks_at_once=2"):
        stack([ctml.MAML(network(0), ctml.mse, inner_lr=0.1, tasks_at_once=2)])
    with pytest.raises(ValueError, match="a norm switches each run at its own time"):
        stack([BiMAML(network(0), ctml.mse, inner_lr=0.1, switch=Switch(at_most=5, joint_norm=0.1))])
    batch = Sinusoid().sample(4, generator(0, "t")).to(dtype=torch.float64)
    with pytest.raises(ValueError, match="n_tasks=4: must be a multiple of the 3"):
        stack([make(network(run)) for run in range(3)]).meta_gradient(batch)
