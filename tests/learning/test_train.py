"""What an iteration is given is its own, however many were looked up with it and wherever a run begins."""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Generator

from algorithms.maml import MAML
from bench.core import seeds
from bench.core.trees import tree_flatten, tree_map
from bench.core.types import Params, Role
from bench.learning import batches as drawn
from bench.learning.batches import BLOCK, episodes
from suites.glyphs import Glyphs
from suites.sinusoid import Points, Sinusoid, Waves

SUITE, TASKS = Sinusoid(), 3


def learner(steps: int = 2) -> MAML:
    return MAML(inner_lr=0.01, steps=steps, outer_lr=0.001, meta_batch=TASKS, gradient="mixed")


@pytest.mark.parametrize("start", [0, 1, BLOCK - 1, BLOCK, BLOCK + 5])
@pytest.mark.parametrize("cache", [1, 3000, 2**20])  # one, a few and all of a block's batches at once
def test_a_batch_is_the_block_s_own_tasks_looked_up(start: int, cache: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(drawn, "CACHE", cache)
    batches = episodes(SUITE, learner(), dict, 7, start)
    for iteration, batch in enumerate(itertools.islice(batches, BLOCK + 3), start):
        block = SUITE.sample(TASKS * BLOCK, "train", seeds.generator(7, "train", iteration // BLOCK))
        place = iteration % BLOCK * TASKS
        tasks = tree_map(lambda leaf, place=place: leaf[place : place + TASKS], block)
        support, query = SUITE.look_up(tasks, "support"), SUITE.look_up(tasks, "query")
        expected, _ = tree_flatten((support, support, query))
        actual, _ = tree_flatten((*batch.support, batch.query))
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("cache", [1, 2**30])
def test_pretraining_sees_one_batch_an_iteration_however_much_a_cache_holds(cache: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(drawn, "CACHE", cache)
    batches = episodes(Glyphs(ways=2).pretraining(), learner(steps=0), dict, 0, 0)
    for batch in itertools.islice(batches, 3):
        assert batch.query.labels.shape == (1, TASKS * 2 * 2)  # 2 ways, support and query alike


def test_an_episode_knows_its_iteration() -> None:
    numbers = [batch.iteration.tolist() for batch in itertools.islice(episodes(SUITE, learner(), dict, 0, 62), 4)]
    assert numbers == [[i] * TASKS for i in (62, 63, 64, 65)]


def test_without_inner_steps_there_is_no_support() -> None:
    assert next(episodes(SUITE, learner(steps=0), dict, 0, 0)).support == ()


@dataclass(frozen=True, kw_only=True)
class Drifting(Sinusoid):
    """Its data depend on the inner step."""

    def collect(self, tasks: Waves, params: Params, role: Role, step: int, generator: Generator) -> Points:
        return self.look_up(tasks._replace(amplitude=tasks.amplitude + step), role)


def test_a_suite_with_a_collection_of_its_own_is_asked_for_it() -> None:
    plain, drifting = (next(episodes(suite, learner(), dict, 0, 0)) for suite in (SUITE, Drifting()))
    assert torch.equal(plain.support[0].y, drifting.support[0].y)
    assert not torch.equal(plain.query.y, drifting.query.y)
