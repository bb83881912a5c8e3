"""Meta-testing: the same tasks for every learner, the inner steps that are asked for, and nothing left behind."""

import pytest
import torch

import ctml
from ctml.evaluation import meta_test
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid


def learner(**options):
    model = MLP([1, 40, 40, 1], generator=generator(0, "weights"))
    return ctml.MAML(model, ctml.mse, **{"inner_lr": 0.01, "inner_steps": 1} | options)


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


def test_a_metric_that_fails_leaves_every_module_in_its_mode():
    def fails(outputs, targets):
        raise ArithmeticError

    maml = learner()
    maml.model.head.eval()  # one part that its owner froze
    with pytest.raises(ArithmeticError):
        meta_test(maml, Sinusoid(), n_tasks=5, metric=fails)
    assert maml.training and maml.model.training and not maml.model.head.training
