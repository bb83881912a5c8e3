"""A checkpoint goes on with its own run alone, on any device, and says in one line what is wrong with it."""

import hashlib
import io
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

import ctml
from ctml.checkpoint import Checkpoint
from ctml.flows.tableaus import rk2
from ctml.learners.rk_maml import RKMAML
from ctml.models import MLP, Conv4
from ctml.rng import generator
from ctml.settings import describe
from ctml.tasks import Sinusoid
from ctml.training import Validation, meta_train, one_cycle

PAST = {
    "learner": ctml.MAML, "loss": ctml.mse, "inner_lr": 0.01, "order": "second", "tasks_at_once": None,
    "sizes": [1, 8, 8, 1], "activation": torch.relu, "dtype": torch.float32,
    "optimizer": torch.optim.Adam, "lr": 1e-3, "weight_decay": 0.0, "schedule": "cycle", "rate": 1e-3, "warmup": 0.1,
    "tasks": Sinusoid(), "validation": Validation(Sinusoid(), 2, 4, ctml.mse), "watch": {}, "watch_every": 100,
    "seed": 0, "meta_batch": 4, "steps": 3, "device": "cpu",
}  # fmt: skip


def train(path, **changes):
    run = PAST | changes
    model = MLP(run["sizes"], activation=run["activation"], generator=generator(0, "w")).to(run["dtype"])
    options = {"inner_lr": run["inner_lr"], "order": run["order"], "tasks_at_once": run["tasks_at_once"]}
    learner = run["learner"](model, run["loss"], **options).to(run["device"])
    optimizer = run["optimizer"](learner.parameters(), lr=run["lr"], weight_decay=run["weight_decay"])
    schedules = {
        "cycle": lambda: one_cycle(optimizer, run["rate"], 20, run["warmup"]),
        "steps": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 5),
        "none": lambda: None,
    }
    history = meta_train(
        learner, run["tasks"], optimizer=optimizer, scheduler=schedules[run["schedule"]](), checkpoint=path,
        progress=False,
        **{k: run[k] for k in ("validation", "watch", "watch_every", "seed", "meta_batch", "steps", "device")},
    )  # fmt: skip
    return learner, history


class Falling(ctml.MAML):
    """Another learner with the same options."""


def absolute(outputs, targets):
    return (outputs - targets).abs().mean((1, 2))


@pytest.mark.parametrize(
    ("changes", "before", "now"),
    [
        ({"inner_lr": 0.02}, "learner.inner_lr=0.01", "learner.inner_lr=0.02"),
        ({"order": "first"}, "learner.order='second'", "learner.order='first'"),
        ({"loss": absolute}, "learner.loss='mse'", "learner.loss='absolute'"),
        ({"learner": Falling}, "learner='MAML'", "learner='Falling'"),
        ({"sizes": [1, 9, 8, 1]}, r"learner.model.body.0.weight='.*8, 1.*'", r"learner.model.body.0.weight='.*9, 1.*'"),
        ({"dtype": torch.float64}, "learner.model.body.0.weight='float32.*", "learner.model.body.0.weight='float64.*"),
        ({"sizes": [1, 8, 8, 8, 1]}, "no learner.model.body.2", "learner.model.body.2='Linear'"),
        ({"sizes": [1, 8, 1]}, "learner.model.body.1='Linear'", "no learner.model.body.1"),
        ({"activation": torch.tanh}, "learner.model.activation='.*relu'", "learner.model.activation='.*tanh'"),
        ({"optimizer": torch.optim.SGD, "schedule": "none"}, "optimizer='Adam'", "optimizer='SGD'"),
        ({"weight_decay": 1e-4}, "optimizer.groups.0.weight_decay=0.0", "optimizer.groups.0.weight_decay=0.0001"),
        ({"rate": 2e-3}, "optimizer.groups.0.initial_lr=4e-05", "optimizer.groups.0.initial_lr=8e-05"),
        ({"warmup": 0.2}, "scheduler.warmup=0.1", "scheduler.warmup=0.2"),
        ({"schedule": "steps"}, "no optimizer.groups.0.betas.0", "optimizer.groups.0.betas.0=0.9"),
        ({"tasks": Sinusoid(shots=5)}, "tasks.shots=10", "tasks.shots=5"),
        ({"validation": Validation(Sinusoid(), 3, 4, ctml.mse)}, "validation.every=2", "validation.every=3"),
        ({"watch": {"bias": lambda m: m.model.head.bias}}, "no watch.bias", "watch.bias=100"),
        ({"seed": 1}, "seed=0", "seed=1"),
        ({"meta_batch": 5}, "meta_batch=4", "meta_batch=5"),
    ],
)  # fmt: skip
def test_the_first_setting_that_differs_is_named_with_both_values(tmp_path, changes, before, now):
    train(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=f"belongs to a run with {before}, this run has {now}; set it back, name anot"):
        train(tmp_path / "run.pt", **changes)


def test_another_rate_without_a_schedule_is_refused(tmp_path):
    train(tmp_path / "run.pt", schedule="none")
    with pytest.raises(ValueError, match=r"with optimizer.groups.0.lr=0.001, this run has optimizer.groups.0.lr=0.1;"):
        train(tmp_path / "run.pt", schedule="none", lr=0.1)


def test_fewer_steps_than_were_taken_are_refused(tmp_path):
    train(tmp_path / "run.pt", steps=6)
    with pytest.raises(ValueError, match="has taken 6 steps already, this run asks for 5; ask for at least 6"):
        train(tmp_path / "run.pt", steps=5)


def test_more_steps_and_other_limits_of_memory_are_not_another_run(tmp_path):
    straight, history = train(None, steps=6)
    train(tmp_path / "run.pt")
    resumed, again = train(tmp_path / "run.pt", steps=6, tasks_at_once=4)
    assert again == history
    assert all(map(torch.equal, straight.parameters(), resumed.parameters()))


def test_the_same_objects_go_on(tmp_path):
    """By hand one asks for more steps of the learner that is there; its scheduler has moved the rate by then."""
    learner = ctml.MAML(MLP([1, 8, 1], generator=generator(0, "w")), ctml.mse, inner_lr=0.01)
    optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
    scheduler = one_cycle(optimizer, 1e-3, 20)
    options = {"meta_batch": 4, "seed": 0, "checkpoint": tmp_path / "run.pt", "progress": False}
    for steps in (3, 6):
        history = meta_train(learner, Sinusoid(), optimizer=optimizer, scheduler=scheduler, steps=steps, **options)
    assert history.steps == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two devices")
def test_a_run_goes_on_on_another_device(tmp_path):
    train(tmp_path / "run.pt")
    learner, history = train(tmp_path / "run.pt", steps=6, device="cuda")
    assert next(learner.parameters()).is_cuda
    _, straight = train(None, steps=6)
    assert history.loss[:3] == straight.loss[:3]
    assert history.loss == pytest.approx(straight.loss, rel=1e-4)


def test_a_learner_that_draws_goes_on_where_it_stopped(tmp_path):
    class Noisy(ctml.MAML):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.generator = generator(0, "noise")

        def meta_gradient(self, batch):
            losses = super().meta_gradient(batch)
            self.model.head.bias.grad += torch.randn(1, generator=self.generator)
            return losses

    straight, _ = train(None, learner=Noisy, steps=6)
    train(tmp_path / "run.pt", learner=Noisy)
    resumed, _ = train(tmp_path / "run.pt", learner=Noisy, steps=6)
    assert torch.equal(straight.model.head.bias, resumed.model.head.bias)


# The file -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten", "flipped", "one bit", "another"])
def test_a_damaged_file_ends_in_one_clear_line(tmp_path, damage):
    path = tmp_path / "run.pt"
    train(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "another":
        torch.save({"theta": torch.zeros(3)}, path)
    else:
        path.write_bytes(
            {
                "cut": whole[:middle],
                "emptied": b"",
                "overwritten": b"<html>not found</html>",
                "flipped": whole[:middle] + bytes(64) + whole[middle + 64 :],
                "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            }[damage]
        )
    with pytest.raises(ValueError, match=r"run.pt is damaged or no checkpoint of this version; delete") as e:
        train(path)
    assert "\n" not in str(e.value) and e.value.__context__ is None


def test_reading_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("touched").touch, ())

    content = io.BytesIO()
    torch.save({"settings": {}, "steps": 0, "state": Evil()}, content)
    (tmp_path / "run.pt").write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())
    with pytest.raises(ValueError, match="is damaged"):
        Checkpoint(tmp_path / "run.pt", {}).load(most=1)
    assert not (tmp_path / "touched").exists()


def test_a_save_that_is_interrupted_leaves_the_one_before(tmp_path, monkeypatch):
    file, real = Checkpoint(tmp_path / "run.pt", {"seed": 0}), torch.save
    file.save(1, [1.0])

    def dies(state, path):
        real(state, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        file.save(2, [2.0])
    assert file.load(most=5) == [1.0]


def test_a_full_disk_leaves_the_save_before_and_no_part(tmp_path, monkeypatch):
    file = Checkpoint(tmp_path / "run.pt", {"seed": 0})
    file.save(1, [1.0])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        file.save(2, [2.0])
    assert file.load(most=5) == [1.0] and [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_without_a_path_nothing_is_kept():
    file = Checkpoint(None, {})
    file.save(1, [1.0])
    assert file.load(most=5) is None and not file.exists


# The settings ---------------------------------------------------------------------------------------------------------


def test_settings_of_nested_objects_are_told_by_name():
    model = Conv4(1, 5, width=4, side=16, generator=generator(0, "w"))
    told = describe(learner=RKMAML(model, ctml.mse, tableau=rk2(Fraction(3, 4)), inner_lr=0.1))
    assert told["learner.tableau.b.1"] == "3/4"
    assert told["learner.model.norm"] == model.norm
    assert told["learner.model.head.weight"] == "float32 (5, 4) trained"


def test_settings_do_not_depend_on_the_numbers_but_of_the_tasks():
    tasks = [{"centres": torch.full((3,), v)} for v in (0.0, 1.0)]
    learners = [ctml.MAML(MLP([1, 4, 1], generator=generator(s, "w")), ctml.mse, inner_lr=0.1) for s in (0, 1)]
    assert describe(learner=learners[0]) == describe(learner=learners[1])
    assert describe(tasks=tasks[0]) != describe(tasks=tasks[1])
    assert describe(tasks=tasks[0]) == describe(tasks={"centres": torch.zeros(3)})


def test_settings_do_not_depend_on_the_device():
    learner = ctml.MAML(MLP([1, 4, 1]), ctml.mse, inner_lr=0.1)
    assert describe(learner=learner) == describe(learner=learner.to("meta"))


def test_long_lists_are_told_by_their_digest():
    names = [str(i) for i in range(1000)]
    assert describe(names=names)["names"].startswith("1000 items, sha256")
    assert describe(names=names) != describe(names=names[::-1])


def test_what_refers_to_itself_ends():
    class Node:
        pass

    node = Node()
    node.owner, node.size = node, 3
    assert describe(node=node)["node.size"] == 3


def test_frozen_options_that_differ_are_seen():
    validation = PAST["validation"]
    assert describe(v=validation) != describe(v=replace(validation, metric=absolute))
