"""Meta-training learns, resumes to the same numbers, and stops at the first non-finite meta-gradient."""

import pytest
import torch

import ctml
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid
from ctml.training import NonFiniteMetaGradient, Validation, meta_test, meta_train


def learner(inner_lr=0.01):
    model = MLP([1, 40, 40, 1], generator=generator(0, "weights"))
    return ctml.MAML(model, ctml.mse, inner_lr=inner_lr, inner_steps=1)


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


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(learner(), 5, checkpoint=path)
    maml = learner()
    with pytest.raises(ValueError, match=r"was written with .*'meta_batch': 8.* this run has .*'meta_batch': 4"):
        meta_train(
            maml, Sinusoid(), optimizer=torch.optim.Adam(maml.parameters()), steps=9, meta_batch=4, seed=0,
            checkpoint=path, progress=False,
        )  # fmt: skip


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
    kept = torch.load(path, weights_only=True)
    assert all(v.isfinite().all() for v in kept["learner"].values())


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


def test_meta_test_sees_the_same_tasks_for_every_learner_and_chunk():
    whole = meta_test(learner(), Sinusoid(), n_tasks=30, metric=ctml.mse, seed=7)
    chunked = learner()
    chunked.tasks_at_once = 4
    torch.testing.assert_close(whole.scores, meta_test(chunked, Sinusoid(), n_tasks=30, metric=ctml.mse, seed=7).scores)
    assert not torch.equal(whole.scores, meta_test(learner(), Sinusoid(), n_tasks=30, metric=ctml.mse, seed=8).scores)
    assert whole.norm == "none"


def test_more_inner_steps_at_test_time_are_taken():
    asked = meta_test(learner(), Sinusoid(), n_tasks=50, metric=ctml.mse, inner_steps=20)
    own = learner()
    own.inner_steps = 20
    assert torch.equal(asked.scores, meta_test(own, Sinusoid(), n_tasks=50, metric=ctml.mse).scores)
    assert not torch.equal(asked.scores, meta_test(learner(), Sinusoid(), n_tasks=50, metric=ctml.mse).scores)
