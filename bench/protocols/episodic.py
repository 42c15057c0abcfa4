"""The episodic protocol: i.i.d. tasks in meta-training, frozen tasks at test."""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.core.discovery import parameters
from bench.core.errors import StoreError
from bench.core.trees import part
from bench.core.types import Learner, Meta, Params, Suite
from bench.learning.batches import episodes
from bench.learning.elsewhere import pairs
from bench.learning.engines import learn2learn
from bench.learning.evaluate import Clock, manifest, quoted_step, steps_of, trace, traces
from bench.learning.train import Validation, train
from bench.learning.training import Training
from bench.protocols.protocol import Protocol, Scores

log = logging.getLogger("bench")


class Learned(NamedTuple):
    """What is scored: all that was meta-learned, and what was kept beside it."""

    meta: Meta
    kept: Params


class Episodic(Protocol):
    """Meta-training and scoring of one cell."""

    def advance(self, state: Training) -> Iterator[Training]:
        """Trains to the specified number of iterations, yielding the updated state after each."""
        seed, device = self.spec.seed, self.spec.device
        batches = episodes(self.views.training, self.algorithm, lambda: state.meta, seed, state.iteration, device)
        validation = Validation(self._validation(), self.spec.validate_every, self._better)
        rule, until = self._rule(state), self.spec.iterations
        return train(state, batches, self._gradients(state), rule, until, validation, self.views.training)

    def score(self, state: Training) -> Scores:
        """The scores on the frozen tasks of what was selected."""
        meta, kept = state.chosen(self.spec.selection == "best")
        learned = Learned(self.views.fit(meta, self.spec.seed, self.spec.device), kept)
        algorithm, selected = self._select(self.algorithm.at(state.iteration), learned)
        clocks: dict[str, Clock] = {}
        table = self._test(algorithm, learned, clocks)
        took = {setting: clock.per_task for setting, clock in clocks.items()}
        return Scores(table, selected, {setting: each for setting, each in took.items() if each is not None})

    def _validation(self) -> Any:
        open_rate = len(self.algorithm.candidates()) > 1
        if open_rate and self.spec.selection == "last":
            return None  # a curve over every candidate would cost more than the training

        def validate(state: Training) -> float:
            learned = Learned(self.views.fit(state.meta, self.spec.seed, self.spec.device), state.kept)
            candidates = self.algorithm.at(state.iteration).candidates()
            scores = [self._validate(candidate, learned) for candidate in candidates]
            return min(scores) if self._lower else max(scores)

        return validate

    def _validate(self, algorithm: Learner, learned: Learned) -> float:
        suite = self.views.tested.evaluations[0]
        tasks = self._tasks(suite, "validation", self.spec.validation_tasks)
        steps = suite.report_steps[-1]
        rest = (tasks, steps, self.spec.device, learned.kept)
        scores = trace(suite, algorithm, learned.meta, *rest, by_task=self.spec.by_task)
        headline = scores[suite.metrics[0].name][:, -1]
        mean = headline.double().mean().item()
        return mean if np.isfinite(mean) else (np.inf if suite.metrics[0].better == "lower" else -np.inf)

    def _tasks(self, suite: Suite, split: Any, count: int) -> Any:
        return self._checked(suite, split, count, self.spec.suite.name, self.spec.manifests)

    def _checked(self, suite: Suite, split: Any, count: int, name: str, manifests: dict[str, str]) -> Any:
        tasks, found = manifest(suite, name, split)
        if found != manifests[f"{suite.setting}/{split}"]:
            raise StoreError(f"the {split} tasks of {suite.setting} changed while the cell ran")
        return part(tasks, slice(count))

    def _select(self, algorithm: Learner, learned: Learned) -> tuple[Learner, dict[str, Any]]:
        candidates = algorithm.candidates()
        if len(candidates) == 1:
            return candidates[0], {}
        scores = [self._validate(candidate, learned) for candidate in candidates]
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=not self._lower)
        chosen = candidates[order[0]]
        given = parameters(algorithm)
        selected = {name: value for name, value in parameters(chosen).items() if value != given[name]}
        log.info("selected %s on the validation tasks", selected)
        return chosen, selected

    def _test(self, algorithm: Learner, learned: Learned, clocks: dict[str, Clock]) -> pd.DataFrame:
        frames = []
        there = self._there if self.domain else self._traces
        for suite, scores in there(algorithm, learned, clocks):
            for name, values in scores.items():
                count, steps = values.shape
                frames.append(
                    pd.DataFrame(
                        {
                            "setting": suite.setting,
                            "norm": suite.normalisation,
                            "metric": name,
                            "task": np.repeat(np.arange(count), steps),
                            "step": np.tile(np.arange(steps), count),
                            "value": values.double().numpy().reshape(-1),
                        }
                    )
                )
        return pd.concat(frames, ignore_index=True)

    def _traces(
        self, algorithm: Learner, learned: Learned, clocks: dict[str, Clock]
    ) -> Iterator[tuple[Suite, dict[str, Any]]]:
        trial = self.spec.split == "validation"
        variants = self.views.tested.evaluations[:1] if trial else self.views.tested.evaluations
        count = self.spec.validation_tasks if trial else self.spec.test_tasks
        for setting in dict.fromkeys(variant.setting for variant in variants):
            alike = [variant for variant in variants if variant.setting == setting]
            tasks = self._tasks(alike[0], self.spec.split, count)
            steps = alike[0].report_steps[-1] if trial else steps_of(alike[0], algorithm)
            rest = (algorithm, learned.meta, tasks, steps, self.spec.device)
            if self.spec.engine == "learn2learn":
                yield from ((variant, learn2learn.trace(variant, *rest)) for variant in alike)
            else:
                clock = clocks[setting] = Clock(quoted_step(alike[0], algorithm), self.spec.device)
                found = traces(alike, *rest, learned.kept, by_task=self.spec.by_task, clock=clock)
                yield from zip(alike, found, strict=True)

    def _there(
        self, algorithm: Learner, learned: Learned, clocks: dict[str, Clock]
    ) -> Iterator[tuple[Suite, dict[str, Any]]]:
        """The scores in another domain, by the suite's network after as many steps as the suite's own."""
        spec, view = self.spec.domain, self.algorithm.test_view
        if spec is None or self.domain is None:
            return
        domain = getattr(self.domain, view)() if view else self.domain
        matched = pairs(self.views.tested, domain)
        for setting in dict.fromkeys(other.setting for _, other in matched):
            own, others = zip(*((a, b) for a, b in matched if b.setting == setting), strict=True)
            tasks = self._checked(others[0], "test", self.spec.test_tasks, spec.suite.name, spec.manifests)
            rest = (algorithm, learned.meta, tasks, steps_of(own[0], algorithm), self.spec.device, learned.kept)
            clock = clocks[setting] = Clock(quoted_step(own[0], algorithm), self.spec.device)
            found = traces(own, *rest, by_task=self.spec.by_task, clock=clock, domain=others)
            yield from zip(others, found, strict=True)
