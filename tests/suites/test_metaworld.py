"""Meta-World's suites take the package's goals, count success at any step, survive what breaks (tox -e metaworld)."""

from typing import Any

import numpy as np
import pytest
import torch

from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.core.errors import BenchError
from bench.planning.plan import suite_of

metaworld = pytest.importorskip("metaworld", reason='needs the extra "metaworld": tox -e metaworld runs this')


def suite(name: str = "metaworld_ml1", **given: str) -> Any:
    return suite_of(Catalogue(), Named(name, given))


def test_splits_share_no_goal() -> None:
    made = suite()
    seen = {
        split: {tuple(row) for row in made.sample(600, split, seeds.generator(0)).layout.tolist()}
        for split in ("train", "validation", "test")
    }
    assert [len(seen[split]) for split in seen] == [40, 10, 50]
    assert not seen["train"] & seen["validation"] and not seen["test"] & (seen["train"] | seen["validation"])


def test_a_step_is_the_packages_and_hides_the_goal() -> None:
    made = suite(trajectories="2")
    tasks = made.sample(2, "test", seeds.generator(0))
    ours = made.environment()
    first = ours.reset(tasks, 2, seeds.generator(0))
    assert (first[..., -3:] == 0).all()
    theirs = metaworld.ML1("reach-v3", seed=42)
    env = theirs.test_classes["reach-v3"]()
    env.set_task(theirs.test_tasks[1])
    expected, _ = env.reset()
    assert first[1, 0].numpy() == pytest.approx(expected, abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-1, 1, 4)
        seen, reward, done = ours.step(torch.from_numpy(action).expand(2, 2, 4))
        expected, value, *_ = env.step(action)
        assert seen[1, 1].numpy() == pytest.approx(expected, abs=1e-6)
        assert reward[1, 1].item() == pytest.approx(value, abs=1e-5)
        assert not done.any()


@pytest.mark.filterwarnings("ignore:Constant")  # its own
def test_the_packages_own_policy_succeeds_and_no_action_does_not() -> None:
    from metaworld.policies import SawyerReachV3Policy

    made = suite(view="oracle", trajectories="1")
    tasks = made.sample(2, "test", seeds.generator(0))
    environment, expert = made.environment(), SawyerReachV3Policy()
    observation = environment.reset(tasks, 1, seeds.generator(0))
    for _ in range(120):
        wise = torch.from_numpy(expert.get_action(observation[0, 0].double().numpy()))
        observation, _, _ = environment.step(torch.stack([wise.float(), torch.zeros(4)]).unsqueeze(1))
    assert environment.success.flatten().tolist() == [1.0, 0.0]


def test_an_arm_that_breaks_down_ends_its_episode_alone() -> None:
    made = suite(trajectories="1")
    environment = made.environment()
    environment.reset(made.sample(2, "test", seeds.generator(0)), 1, seeds.generator(0))
    environment.arms[0].data.qvel[:] = np.nan
    seen, reward, done = environment.step(torch.zeros(2, 1, 4))
    assert done.flatten().tolist() == [True, False]
    assert torch.isnan(seen[0]).all() and torch.isnan(reward[0]).all()
    assert torch.isfinite(seen[1]).all()


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(BenchError, match="Did you mean 'reach-v3'"):
        suite(task="reach-v9").sample(1, "test", seeds.generator(0))
