"""The MuJoCo suites observe and reward as the paper's code does, on its goals, and say what they need."""

from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.cli import main
from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.core.errors import BenchError
from bench.planning.plan import suite_of
from suites.parts import physics

NAMES = ("halfcheetah_vel", "halfcheetah_dir", "ant_vel", "ant_dir")
WHY = 'needs the extra "mujoco": pip install "meta-bench[mujoco]"'


def suite(name: str, **given: str) -> Any:
    pytest.importorskip("mujoco", reason=WHY)
    pytest.importorskip("gymnasium", reason=WHY)
    return suite_of(Catalogue(), Named(name, given))


def stepped(name: str, **given: str) -> tuple[Any, torch.Tensor, Any, tuple[torch.Tensor, ...]]:
    """A suite, an action, the environment after it, and what that returned, of 3 tasks x 2 trajectories."""
    made = suite(name, **given)
    environment = made.environment()
    environment.reset(made.sample(3, "test", seeds.generator(0)), 2, seeds.generator(1))
    action = 1.5 * torch.randn(3, 2, made.actions, generator=seeds.generator(2))
    return made, action, environment, environment.step(action)


@pytest.mark.parametrize("name", NAMES)
def test_reward_and_observation_are_the_papers(name: str) -> None:
    made, action, environment, (observation, reward, _) = stepped(name)
    reading = environment.simulations._read()
    goal = made.sample(3, "test", seeds.generator(0)).goal.numpy().repeat(2, 0)[:, 0]
    a, v = action.clamp(-1, 1).numpy().reshape(6, -1).astype(float), reading.centre_velocity[:, 0]
    forces = np.clip(reading.contact, -1, 1)
    legs = 0.005 * (a**2).sum(1) + 0.0005 * (forces**2).sum(1) - 0.05
    expected = {
        "halfcheetah_vel": -np.abs(v - goal) - 0.05 * (a**2).sum(1),
        "halfcheetah_dir": goal * v - 0.05 * (a**2).sum(1),
        "ant_vel": 1 - np.abs(v - goal) - legs,
        "ant_dir": goal * v - legs,
    }[name]
    assert reward.flatten().numpy() == pytest.approx(expected, abs=1e-5)
    parts = [reading.position, reading.velocity, forces, reading.orientation, reading.centre]
    if "cheetah" in name:
        parts = [reading.position[:, 1:], reading.velocity, reading.centre]
    assert observation.flatten(0, 1).numpy() == pytest.approx(np.concatenate(parts, 1), abs=1e-4)
    assert observation.shape[-1] == made.observations


@pytest.mark.parametrize(("name", "seed", "low", "high"), [("halfcheetah_vel", 1, 0, 2), ("ant_vel", 1, 0, 3)])
def test_the_first_test_goals_are_those_of_the_published_evaluation(
    name: str, seed: int, low: float, high: float
) -> None:
    goals = suite(name).sample(600, "test", seeds.generator(5)).goal.flatten().numpy()
    published = np.random.RandomState(seed).uniform(low, high, 40)
    assert goals[:40] == pytest.approx(published, rel=1e-6)
    assert len(set(goals)) == 600
    assert goals.min() >= low and goals.max() <= high


@pytest.mark.parametrize(("name", "seed", "half"), [("halfcheetah_dir", 1, 1.0), ("ant_dir", 2, 1.5)])
def test_directions_are_backward_under_the_published_threshold(name: str, seed: int, half: float) -> None:
    goals = suite(name).sample(600, "test", seeds.generator(5)).goal.flatten().numpy()
    published = np.random.RandomState(seed).uniform(0, 2 * half, 40)
    assert np.array_equal(goals[:40], np.where(published < half, -1, 1))
    assert set(goals) == {-1.0, 1.0}


def test_an_ant_that_flies_is_done_and_a_cheetah_never_is() -> None:
    ant, cheetah = suite("ant_vel"), suite("halfcheetah_vel")
    for made, over in ((ant, True), (cheetah, False)):
        environment = made.environment()
        environment.reset(made.sample(1, "test", seeds.generator(0)), 1, seeds.generator(1))
        environment.simulations.state[:, 3 if made is ant else 2] = 1.5  # m; a step's fall is 1 cm
        _, _, done = environment.step(torch.zeros(1, 1, made.actions))
        assert bool(done.all()) == over


def test_a_broken_simulation_ends_its_episode_and_is_counted() -> None:
    made = suite("halfcheetah_dir", trajectories="3")
    environment = made.environment()
    tasks = made.sample(2, "test", seeds.generator(0))
    begin = environment.reset

    def broken(*given: Any) -> torch.Tensor:
        observation = begin(*given)
        environment.simulations.state[4, -1] = 1e9
        return observation

    environment.reset, environment.horizon = broken, 3
    object.__setattr__(made, "environment", lambda: environment)
    params = made.new_params(seeds.generator(3))
    many = {key: value.expand(2, *value.shape) for key, value in params.items()}
    data = made.collect(tasks, many, "support", 0, seeds.generator(4))
    assert made.tally(data)["unstable"] == 1
    assert data.mask.sum(-1).flatten().tolist()[:4] == [3, 3, 3, 3]
    assert data.mask[1, 1, 1:].sum() == 0
    assert all(leaf.isfinite().all() for leaf in data if isinstance(leaf, torch.Tensor) and leaf.is_floating_point())


def test_the_oracle_sees_the_goal() -> None:
    _, _, _, (observation, _, _) = stepped("halfcheetah_vel")
    made, _, _, (told, _, _) = stepped("halfcheetah_vel", view="oracle")
    assert torch.equal(told[..., :-1], observation)
    assert torch.equal(told[..., -1], made.sample(3, "test", seeds.generator(0)).goal.expand(3, 2))


def test_frame_skip_is_how_long_an_action_lasts() -> None:
    environments = [stepped("halfcheetah_vel", frame_skip=skip)[2] for skip in ("5", "1")]
    heights = [environment.simulations.state[:, 2] for environment in environments]
    assert not np.allclose(*heights)
    assert environments[1].simulations.engine.lasts == pytest.approx(0.01)


def test_the_specification_names_environment_and_packages() -> None:
    made = suite("ant_vel")
    assert made.simulator.startswith("Ant-v5 gymnasium-")
    assert " mujoco-" in made.simulator
    assert suite("ant_vel", simulator=made.simulator) == made
    with pytest.raises(BenchError, match="installed are Ant-v5"):
        suite("ant_vel", simulator="Ant-v5 gymnasium-0.1 mujoco-0.1")


@pytest.mark.parametrize("command", [["show", "ant_vel"], ["run", "--suite", "ant_vel", "--algos", "maml"]])
def test_without_the_extra_one_line_says_how_to_get_it(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(physics, "version", missing)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    line = 'Error: gymnasium is not installed. Install it with: pip install "meta-bench[mujoco]"\n'
    assert result.output.endswith(line)
    listed = CliRunner().invoke(main, ["list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in NAMES)
    others = CliRunner().invoke(main, ["show", "maml"])
    assert others.exit_code == 0
    assert "not shown: ant_dir, ant_vel, halfcheetah_dir, halfcheetah_vel" in others.output
