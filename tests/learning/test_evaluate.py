"""What is measured while test tasks are scored."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from algorithms.finetune import Finetune
from algorithms.maml import MAML
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.types import Data, Learner, Params, Prediction, Task
from bench.learning.evaluate import CHUNK, Clock, chunk, quoted_step, trace, traces
from suites.cifar_fs import CifarFS
from suites.glyphs import Glyphs
from suites.sinusoid import Sinusoid
from tests.probes.prototypes import Prototypes

COMMON = {"outer_lr": 0.01, "meta_batch": 2}


@dataclass(frozen=True, kw_only=True)
class Ticking(MAML):
    """Time goes by in it alone: 1 for an inner step, 10 for a prediction."""

    now: ClassVar[list[float]] = [0.0]

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        self.now[0] += 1
        return super().step(meta, state, task, data, k)

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        self.now[0] += 10
        return super().predict(meta, state, task, data)


@pytest.mark.parametrize(("until", "by_task", "seconds"), [(0, False, 10), (3, False, 13), (2, True, 4 * 12)])
def test_the_clock_counts_the_steps_before_a_prediction_and_that_prediction_once(
    until: int, by_task: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.learning.evaluate.time.perf_counter", lambda: Ticking.now[0])
    suite, learner = Sinusoid(), Ticking(inner_lr=0.01, steps=1, **COMMON)
    generator, clock = seeds.generator(0), Clock(until)
    meta, tasks = learner.init(SuiteTask(suite), generator), suite.sample(4, "test", generator)
    traces((suite, suite), learner, meta, tasks, 5, by_task=by_task, clock=clock)
    assert clock.per_task == seconds / 4


def test_scores_are_the_same_bits_with_a_clock() -> None:
    suite, learner = Sinusoid(), MAML(inner_lr=0.01, steps=1, **COMMON)
    meta = learner.init(SuiteTask(suite), seeds.generator(0))
    tasks = suite.sample(3, "test", seeds.generator(1))
    without, with_it = (traces((suite,), learner, meta, tasks, 2, clock=clock) for clock in (None, Clock(1)))
    assert torch.equal(without[0]["mse"], with_it[0]["mse"])


@pytest.mark.parametrize(
    ("suite", "learner", "steps"),
    [
        (Sinusoid(), MAML(inner_lr=0.01, steps=1, **COMMON), 10),
        (Sinusoid(), Finetune(**COMMON), 10),  # whose pretraining has no inner steps
        (Glyphs(), Prototypes(**COMMON), 1),
    ],
)
def test_a_learner_is_quoted_at_the_last_report_step_or_after_the_looks_it_takes(
    suite: Sinusoid | Glyphs, learner: Learner, steps: int
) -> None:
    assert quoted_step(suite, learner) == steps


def test_fewer_tasks_of_large_images_are_scored_at_once_with_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (chunk(Sinusoid()), chunk(Glyphs())) == (CHUNK, CHUNK)
    assert chunk(CifarFS().stand_in()) < 12  # 75 queries of 32x32 in colour, 0.9 MB, of 8 MiB
    suite, learner = Glyphs(), MAML(inner_lr=0.1, steps=1, **COMMON)
    generator = seeds.generator(0)
    meta, tasks = learner.init(SuiteTask(suite), generator), suite.sample(5, "test", generator)
    whole = trace(suite, learner, meta, tasks, 1)
    monkeypatch.setattr("bench.learning.evaluate.LARGE", 2 * 5 * 28 * 28 * 4 + 100)
    assert chunk(suite) == 2
    torch.testing.assert_close(trace(suite, learner, meta, tasks, 1)["loss"], whole["loss"])
