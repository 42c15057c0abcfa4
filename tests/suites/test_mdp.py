"""Tables are walked as they say, and the best return is that of dynamic programming, written out."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from bench.core import seeds
from bench.core.types import Split
from bench.learning.evaluate import manifest
from suites.mdp import Rules, Tables, TabularMDP, worths

SMALL = TabularMDP(states=3, actions=2, moves=4)


def test_the_worth_is_that_of_the_best_of_all_policies() -> None:
    rules = SMALL.sample(2, "test", seeds.generator("test"))
    found = worths(rules, 2)
    for task in range(2):
        reward, chances = rules.rewards[task], rules.transitions[task]
        returns = [
            reward[0, first] + sum(chances[0, first, state] * reward[state, then[state]] for state in range(3))
            for first in range(2)
            for then in product(range(2), repeat=3)
        ]
        assert found[task, 0, 0].max() == pytest.approx(float(max(returns)))
    assert torch.equal(found[:, 1], rules.rewards)


def test_whoever_takes_what_is_worth_most_gets_what_it_is_worth() -> None:
    rules = SMALL.sample(5, "test", seeds.generator("test"))
    tables = Tables(4, told=True)
    seen, returns = tables.reset(rules, 20_000, seeds.generator("luck")), torch.zeros(5, 20_000)
    for _ in range(4):
        seen, reward, done = tables.step(seen[..., 3:].argmax(-1))
        returns += reward
        assert not done.any()
    error = returns.std(-1) / 20_000**0.5
    assert ((returns.mean(-1) - worths(rules, 4)[:, 0, 0].amax(-1)).abs() < 4 * error).all()


def test_steps_lead_where_the_table_says_as_often_as_it_says() -> None:
    rules = Rules(torch.zeros(1, 3, 2), torch.tensor([[[[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]] * 3]))
    tables = Tables(1, told=False)
    for action, chances in enumerate(rules.transitions[0, 0]):
        tables.reset(rules, 40_000, seeds.generator(str(action)))
        seen, reward, _ = tables.step(torch.full((1, 40_000), action))
        assert seen[0].mean(0) == pytest.approx(chances, abs=0.01)
        assert (float(reward.mean()), float(reward.std())) == pytest.approx((0, 1), abs=0.03)


def test_floor_and_optimum_are_what_chance_and_knowledge_reach() -> None:
    rules = SMALL.sample(2_000, "test", seeds.generator("many"))
    tables = Tables(4, told=False)
    tables.reset(rules, 20, seeds.generator("luck"))
    generator = seeds.generator("actions")
    returns = sum(tables.step(torch.randint(2, (2_000, 20), generator=generator))[1] for _ in range(4))
    assert float(torch.as_tensor(returns).mean()) == pytest.approx(SMALL.floor, abs=0.1)
    assert SMALL.optimum == pytest.approx(float(worths(rules, 4)[:, 0, 0].amax(-1).mean()), abs=0.3)


@pytest.mark.parametrize("view", ["plain", "oracle"])
def test_its_manifests_are_the_published_ones(view: str) -> None:
    suite = replace(TabularMDP(), view=view)
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        assert f"{suite.setting}/{split}" in TabularMDP.manifests
        manifest(suite, "mdp", split)
