"""Half-cheetah and ant move as Gymnasium's own environments do; skipped where MuJoCo is not installed."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

from ctml.rng import generator

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")

from ctml.rl.mujoco import BODIES, Locomotion  # noqa: E402


@pytest.mark.parametrize("body", ["half_cheetah", "ant"])
def test_moves_as_gymnasium(body):
    """Same start, same actions, several trajectories at once here and one by one there."""
    environment = Locomotion(body, "direction", threads=2)
    stream, n, steps = generator(0, "m"), 2, 5
    goals = torch.tensor([[1.0], [-1.0]])
    seen = environment.reset(goals, n, stream)
    theirs = []
    for state in environment._state.flatten(0, 1).numpy():
        made = gymnasium.make(BODIES[body].environment, **BODIES[body].options)
        made.reset(seed=0)
        made.unwrapped.set_state(state[: environment.positions], state[environment.positions :])
        theirs.append(made)
    assert seen.shape == (2, n, theirs[0].observation_space.shape[0])
    for _ in range(steps):
        actions = 2 * torch.rand(2, n, environment.actions, generator=stream) - 1
        seen, _, _ = environment.step(actions)
        for k, made in enumerate(theirs):
            expected = made.step(actions.flatten(0, 1)[k].numpy())[0]
            np.testing.assert_allclose(seen.flatten(0, 1)[k].numpy(), expected, rtol=1e-3, atol=1e-4)


def test_rewards_are_the_papers():
    """Forwards and backwards are paid the same distance with opposite signs; a velocity is paid its distance."""
    runs = {}
    for goal, goals in (("direction", [[1.0], [-1.0]]), ("velocity", [[0.0], [1.5]])):
        environment = Locomotion("half_cheetah", goal, threads=1)
        environment.reset(torch.tensor(goals), 1, generator(0, "m"))
        environment._state[1] = environment._state[0]
        before = environment._state[0, 0, 0].clone()
        actions = torch.full((2, 1, environment.actions), 0.5)
        _, reward, terminated = environment.step(actions)
        velocity = (environment._state[0, 0, 0] - before) / environment.dt
        runs[goal] = reward[:, 0] + 0.05 * 6 * 0.5**2
        assert not terminated.any()
    torch.testing.assert_close(runs["direction"], velocity.float() * torch.tensor([1.0, -1.0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        runs["velocity"], -(velocity.float() - torch.tensor([0.0, 1.5])).abs(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("body", "goal", "more"), [("ant", "velocity", 1.0), ("ant", "direction", 0.0), ("half_cheetah", "velocity", 0.0)]
)
def test_the_released_version_pays_an_ant_for_every_step_at_a_goal_velocity(body, goal, more):
    rewards = []
    for version in ("text", "released"):
        environment = Locomotion(body, goal, version=version, threads=1)
        environment.reset(torch.ones(2, 1), 1, generator(0, "m"))
        rewards.append(environment.step(torch.zeros(2, 1, environment.actions))[1])
    torch.testing.assert_close(rewards[1] - rewards[0], torch.full((2, 1), more))


def test_goals_and_starts_are_reproducible():
    a, b = (Locomotion("ant", "velocity", threads=t) for t in (1, 2))
    goals = a.sample(3, generator(0, "g"))
    assert torch.equal(goals, b.sample(3, generator(0, "g")))
    assert goals.min() >= 0 and goals.max() <= 3
    assert torch.equal(a.reset(goals, 2, generator(0, "s")), b.reset(goals, 2, generator(0, "s")))
    actions = torch.ones(3, 2, a.actions)
    for _ in range(3):
        left, right = a.step(actions), b.step(actions)
    assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize("body", ["half_cheetah", "ant"])
def test_the_noise_of_the_start_is_gymnasiums_own(body):
    made = gymnasium.make(BODIES[body].environment).unwrapped
    assert BODIES[body].noise == inspect.signature(type(made)).parameters["reset_noise_scale"].default


def test_directions_come_in_equal_numbers():
    assert Locomotion("half_cheetah", "direction", threads=1).sample(4, generator(0, "g"))[:, 0].tolist() == [
        1,
        -1,
        1,
        -1,
    ]


def test_an_ant_that_jumps_has_ended():
    environment = Locomotion("ant", "direction", threads=1)
    environment.reset(torch.ones(1, 1), 2, generator(0, "m"))
    environment._state[0, 1, 2] = 1.5
    _, _, terminated = environment.step(torch.zeros(1, 2, environment.actions))
    assert terminated.tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"body": "horse", "goal": "velocity"}, "body='horse'"),
        ({"body": "ant", "goal": "far"}, "goal='far'"),
        ({"body": "ant", "goal": "velocity", "version": "new"}, "version='new'"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_unknown_bodies_and_goals_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Locomotion(**arguments)


def test_ctml_itself_needs_no_gymnasium():
    code = "import sys, ctml, ctml.rl; sys.exit('gymnasium' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
