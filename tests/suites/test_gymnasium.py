"""The suite of gymnasium's environments: what varies does, episodes that end are masked, mistakes get one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.cells.execute import run_cells
from bench.cells.watch import Silent
from bench.core import seeds
from bench.core.discovery import Catalogue, parse
from bench.core.errors import BenchError
from bench.core.records import Record
from bench.planning.plan import Request, plan, suite_of
from bench.storage.store import Store

gymnasium = pytest.importorskip("gymnasium", reason='needs the extra "gymnasium"')


class Target(gymnasium.Env):  # type: ignore[misc]
    """Reward −(a − goal)²; over after `lasts` steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2, 1), dtype=np.float64)
    action_space = gymnasium.spaces.Box(0, 4, (1,))

    def __init__(self) -> None:
        self.goal, self.lasts, self.name = np.zeros(2), 3.0, "target"

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(size=(2, 1)), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.zeros((2, 1)), -float((action[0] - self.goal[1]) ** 2), self.time >= self.lasts, False, {}


class Wordy(Target):
    """Observed as a choice."""

    observation_space = gymnasium.spaces.Discrete(3)


for name, cls in (("Target-v0", Target), ("Wordy-v0", Wordy)):
    gymnasium.register(name, cls, max_episode_steps=8)
gymnasium.register("Endless-v0", Target)


def suite(text: str) -> Any:
    return suite_of(Catalogue(), parse(text)[0])


def rollout(made: Any) -> Any:
    tasks, params = made.sample(3, "test", seeds.generator(0)), made.new_params(seeds.generator(1))
    many = {key: value.expand(3, *value.shape) for key, value in params.items()}
    return made.collect(tasks, many, "query", 0, seeds.generator(2))


@pytest.mark.parametrize(
    "text",
    [
        "gymnasium[trajectories=2]",
        "gymnasium[id=Pendulum-v1,vary=g:5-15;m:0.5-2,trajectories=2,horizon=9]",
        "gymnasium[id=Target-v0,vary=goal.1:0-4,trajectories=2]",
    ],
)
def test_a_rollout_is_a_function_of_its_generator_and_ends_when_the_episode_does(text: str) -> None:
    first, again = rollout(suite(text)), rollout(suite(text))
    for one, other in zip(first, again, strict=True):
        assert one == other if isinstance(one, tuple) else torch.equal(one, other)
    steps = first.mask.sum(-1)
    expected = {"Pendulum": 9, "Target": 3}
    known = next((value for key, value in expected.items() if key in text), None)
    assert (steps == known).all() if known else (steps.min() < steps.max()).all()
    assert not first.rewards[~first.mask].any()
    assert len(first.observations[:, :, 0].flatten(0, 1).unique(dim=0)) == 6  # each simulation has a seed of its own


def test_each_simulation_has_the_attributes_of_its_task_and_what_cartpole_derives_of_them() -> None:
    made = suite("gymnasium[vary=length:0.25-1.0;masspole:0.05-0.5]")
    environment, tasks = made.environment(), made.sample(3, "test", seeds.generator(0))
    environment.reset(tasks, 2, seeds.generator(1))
    poles = [simulation.unwrapped for simulation in environment.vector.envs]
    assert [(pole.length, pole.masspole) for pole in poles[::2]] == [tuple(row) for row in tasks.values.tolist()]
    assert poles[0].length == poles[1].length != poles[2].length
    assert poles[0].polemass_length == pytest.approx(poles[0].masspole * poles[0].length)
    assert poles[0].total_mass == pytest.approx(poles[0].masspole + poles[0].masscart)
    plain = suite("gymnasium")
    plain.environment().reset(plain.sample(3, "test", seeds.generator(0)), 2, seeds.generator(1))
    other = suite("gymnasium").environment()
    other.reset(plain.sample(1, "test", seeds.generator(0)), 1, seeds.generator(1))
    assert other.vector.envs[0].unwrapped.masspole == 0.1  # untouched by what the other suite varied


def test_continuous_actions_are_cut_to_one_and_scaled_to_the_bounds() -> None:
    made = suite("gymnasium[id=Target-v0,vary=goal.1:0-4]")
    environment, tasks = made.environment(), made.sample(1, "test", seeds.generator(0))
    environment.reset(tasks, 3, seeds.generator(1))
    _, reward, _ = environment.step(torch.tensor([[[-1.0], [0.0], [7.0]]]))
    expected = -((torch.tensor([0.0, 2.0, 4.0]) - tasks.values[0].float()) ** 2)
    torch.testing.assert_close(reward[0], expected)


def test_the_oracle_sees_what_varies_in_units_of_its_range() -> None:
    seen = rollout(suite("gymnasium[id=Target-v0,vary=goal.1:0-4,view=oracle,trajectories=2]")).observations
    values = suite("gymnasium[id=Target-v0,vary=goal.1:0-4]").sample(3, "test", seeds.generator(0)).values
    torch.testing.assert_close(seen[:, 0, 0, -1], (values[:, 0] / 4).float())


def test_the_floor_of_an_episode_of_known_length_is_what_chance_earns() -> None:
    class Count(Target):
        def step(self, action: Any) -> Any:
            seen, _, *rest = super().step(action)
            return seen, 1.0, *rest

    gymnasium.register("Count-v0", Count, max_episode_steps=8)
    assert suite("gymnasium[id=Count-v0,vary=goal.0:0-4]").floor == 3.0


def test_what_an_environment_says_that_is_no_number_is_told_before_anything_runs() -> None:
    class Lost(Target):
        def step(self, action: Any) -> Any:
            seen, _, *rest = super().step(action)
            return seen, float("nan"), *rest

    gymnasium.register("Lost-v0", Lost, max_episode_steps=8)
    with pytest.raises(BenchError, match="Lost-v0 gave a reward that is no finite number"):
        _ = suite("gymnasium[id=Lost-v0,vary=goal.0:0-4]").floor


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("id=CartPol-v1", "unknown environment 'CartPol-v1'. Did you mean 'CartPole-v1'"),
        ("id=no_such_module:A-v0,vary=a:0-1", "no_such_module, which is to register A-v0, does not import"),
        ("vary=lenght:0.25-1", "unknown attribute 'lenght' of CartPole-v1. Did you mean 'length'"),
        ("vary=length:1-0.5", "is no range"),
        ("vary=length:1-1", "is no range"),
        ("vary=length", "is no attribute with a range"),
        ("vary=length:0.2-1;length:0.1-2", "is to vary twice"),
        ("vary=kinematics_integrator:0-1", "is str, not a number"),
        ("vary=np_random_seed:0-1", "cannot be set"),
        ("id=Pendulum-v1", "nothing is to vary"),
        ("id=Wordy-v0,vary=lasts:1-3", "only a Box of numbers"),
        ("id=Endless-v0,vary=lasts:1-3", "without a limit of time-steps"),
        ("id=Target-v0,vary=goal.2:1-3", "unknown attribute '2' of Target-v0"),
    ],
)
def test_a_mistake_gets_one_line_that_says_what_to_do(given: str, said: str) -> None:
    with pytest.raises(BenchError) as error:
        suite(f"gymnasium[{given}]")
    assert said in str(error.value)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_digest_of_one_that_was_left_alone(tmp_path: Path) -> None:
    def run(out: str, iterations: int) -> Record:
        store = Store.create(tmp_path / out)
        text = "gymnasium[trajectories=2,horizon=10]"
        request = Request(suites=text, algos="maml[meta_batch=2]", preset="smoke", threads=1, iterations=iterations)
        [record] = run_cells(plan(request, store.specs()), store, Silent(), None, ())
        return record

    run("cut", 1)
    cut, whole = run("cut", 2), run("whole", 2)
    assert (cut.pieces, cut.digest) == (2, whole.digest)
