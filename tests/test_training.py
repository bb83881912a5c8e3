"""Meta-training learns, resumes to the same numbers, and stops at the first non-finite meta-gradient."""

import io

import pytest
import torch

import ctml
from ctml.evaluation import meta_test
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid
from ctml.training import NonFiniteMetaGradient, Validation, meta_train, one_cycle


def learner(**options):
    model = MLP([1, 40, 40, 1], generator=generator(0, "weights"))
    return ctml.MAML(model, ctml.mse, **{"inner_lr": 0.01, "inner_steps": 1} | options)


def train(maml, steps, **options):
    optimizer = torch.optim.Adam(maml.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 40, 0.5)
    return meta_train(
        maml,
        Sinusoid(),
        optimizer=optimizer,
        scheduler=scheduler,
        steps=steps,
        meta_batch=8,
        seed=0,
        progress=False,
        **options,
    )


def test_training_lowers_the_meta_test_loss():
    maml = learner()
    before = meta_test(maml, Sinusoid(), n_tasks=200, metric=ctml.mse).scores
    history = train(maml, 300)
    after = meta_test(maml, Sinusoid(), n_tasks=200, metric=ctml.mse).scores
    assert history.steps == 300
    assert ctml.interval(after - before).high < 0, "the same tasks before and after: a paired difference"


def test_a_run_resumed_from_its_checkpoint_ends_with_the_same_numbers(tmp_path):
    straight = learner()
    losses = train(straight, 100).loss
    path = tmp_path / "deep" / "run.pt"
    train(learner(), 60, checkpoint=path, checkpoint_every=25)
    resumed = learner()
    assert train(resumed, 100, checkpoint=path).loss == losses
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_killed_between_checkpoints_loses_only_the_steps_since(tmp_path, monkeypatch):
    path, maml = tmp_path / "run.pt", learner()
    calls = []
    real = type(maml).meta_gradient

    def dies(self, batch):
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(type(maml), "meta_gradient", dies)
    with pytest.raises(KeyboardInterrupt):
        train(maml, 60, checkpoint=path, checkpoint_every=25)
    train(learner(), 60, checkpoint=path, checkpoint_every=25)
    assert len(calls) == 40 + (60 - 25)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"], "no half-written file is left"


def test_non_finite_meta_gradient_stops_with_step_task_and_advice(tmp_path):
    class Poisoned(Sinusoid):
        def sample(self, n_tasks, generator):
            batch = super().sample(n_tasks, generator)
            drawn.append(batch)
            if len(drawn) == 6:
                batch.query.y[2] = float("nan")
            return batch

    drawn: list = []
    maml, path = learner(), tmp_path / "run.pt"
    with pytest.raises(
        NonFiniteMetaGradient, match=r"at step 5 .*tasks \[2\].*smaller inner_lr.*last good checkpoint"
    ) as stop:
        meta_train(
            maml, Poisoned(), optimizer=torch.optim.Adam(maml.parameters()), steps=50, meta_batch=4, seed=1,
            checkpoint=path, checkpoint_every=1, progress=False,
        )  # fmt: skip
    assert str(path) in str(stop.value)
    assert all(p.isfinite().all() for p in maml.parameters())
    kept = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)  # behind the checksum
    assert all(v.isfinite().all() for v in kept["state"]["learner"].values())


def test_validation_keeps_the_best_parameters():
    maml = learner()
    scores = iter([1.0, 3.0, 2.0])
    snapshots = []

    def metric(outputs, targets):
        snapshots.append([p.detach().clone() for p in maml.parameters()])
        return torch.full((len(outputs),), next(scores))

    history = train(maml, 30, validation=Validation(Sinusoid(), every=10, n_tasks=5, metric=metric))
    assert history.validation == [(10, 1.0), (20, 3.0), (30, 2.0)]
    for p, best in zip(maml.parameters(), snapshots[1], strict=True):
        assert torch.equal(p, best)


# watch ----------------------------------------------------------------------------------------------------------------


def weight(maml):
    return maml.model.head.bias


def test_watched_quantities_are_recorded_at_the_start_every_so_often_and_at_the_end():
    maml, seen = learner(), []

    def steps(maml):
        seen.append(weight(maml).detach().clone())
        return len(seen)

    history = train(maml, 25, watch={"calls": steps, "bias": weight}, watch_every=10)
    assert history.watched["calls"] == [(0, 1), (10, 2), (20, 3), (25, 4)]
    assert history.watched["bias"] == [(s, b.tolist()) for s, b in zip((0, 10, 20, 25), seen, strict=True)]
    assert torch.equal(seen[0], weight(learner())) and torch.equal(seen[-1], weight(maml))
    assert all(isinstance(value, list) for _, value in history.watched["bias"]), "plain numbers, no tensors"


def test_watching_by_meta_test_leaves_training_as_it_is():
    def score(maml):
        return meta_test(maml, Sinusoid(), n_tasks=10, metric=ctml.mse).scores

    watched, alone = learner(), learner()
    history = train(watched, 30, watch={"score": score}, watch_every=10)
    assert history.loss == train(alone, 30).loss
    assert history.watched["score"][-1] == (30, score(alone).tolist())


@pytest.mark.parametrize("stopped", [20, 27])
def test_a_resumed_run_has_watched_what_an_uninterrupted_one_has(tmp_path, stopped):
    options = {"watch": {"bias": weight}, "watch_every": 10}
    straight = train(learner(), 45, **options).watched
    train(learner(), stopped, checkpoint=tmp_path / "run.pt", **options)
    assert train(learner(), 45, checkpoint=tmp_path / "run.pt", **options).watched == straight
    assert train(learner(), 45, checkpoint=tmp_path / "run.pt", **options).watched == straight, "nothing left to do"


def test_a_watch_that_gives_no_number_is_named():
    with pytest.raises(TypeError, match=r"watch\['name'\] gave str: must be a number or a tensor"):
        train(learner(), 5, watch={"name": lambda maml: "MAML"})


# one_cycle ------------------------------------------------------------------------------------------------------------


def test_one_cycle_rises_to_the_rate_and_falls_to_nothing():
    """By the formula: half cosines in the rate, and against it in the first beta."""
    optimizer = torch.optim.Adam(learner().parameters(), 1.0)
    schedule, rates, betas = one_cycle(optimizer, 0.02, 50), [], []
    for _ in range(50):
        rates.append(schedule.get_last_lr()[0])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        schedule.step()
    peak = 0.1 * 50 - 1
    at = torch.arange(50, dtype=torch.float64)
    rise, fall = (1 - torch.cos(torch.pi * at / peak)) / 2, (1 + torch.cos(torch.pi * (at - peak) / (49 - peak))) / 2
    first, last = 0.02 / 25, 0.02 / 250_000
    rate = torch.where(at <= peak, first + (0.02 - first) * rise, last + (0.02 - last) * fall)
    beta = torch.where(at <= peak, 0.95 - 0.1 * rise, 0.95 - 0.1 * fall)
    torch.testing.assert_close(torch.tensor(rates, dtype=torch.float64), rate)
    torch.testing.assert_close(torch.tensor(betas, dtype=torch.float64), beta)


@pytest.mark.parametrize(
    ("options", "message"),
    [((0.0, 10), "rate=0.0: must be a positive"), ((0.1, 0), "steps=0: must"), ((0.1, 9, 2.0), "warmup=2.0: is a")],
)
def test_a_senseless_cycle_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        one_cycle(torch.optim.Adam(learner().parameters()), *options)
