"""The episodic protocol: i.i.d. tasks in meta-training, frozen tasks at test. A cell's life does not know it."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.core import modules, seeds
from bench.core.call import Statistics
from bench.core.discovery import parameters
from bench.core.errors import StoreError
from bench.core.records import Spec
from bench.core.task import SuiteTask
from bench.core.trees import named_leaves, part, shapes_of, to, tree_map
from bench.core.types import Interactive, Learner, Meta, Params, Suite
from bench.learning.batches import episodes
from bench.learning.elsewhere import familiar, pairs
from bench.learning.engines import learn2learn, vectorised
from bench.learning.engines.trust_region import CompiledParts
from bench.learning.evaluate import Clock, manifest, quoted_step, steps_of, trace, traces
from bench.learning.outer.descent import Descent, Rule
from bench.learning.outer.trpo import TRPO, TrustRegion, outer_of
from bench.learning.train import Gradients, MetaGradient, Validation, train
from bench.learning.training import Training
from bench.learning.views import Views

LOOKS = 3  # at the validation tasks, of which the first being the best is worth a word
log = logging.getLogger("bench")


class Scores(NamedTuple):
    """What a cell comes to."""

    table: pd.DataFrame  # setting, norm, metric, task, step, value
    selected: dict[str, Any]  # fields that validation tasks chose
    seconds: dict[str, float]  # setting -> those of a task: see `Clock`; empty where they are not measured


class Learned(NamedTuple):
    """What is scored: all that was meta-learned, and what was kept beside it."""

    meta: Meta
    kept: Params


class Episodic:
    """Meta-training and scoring of one cell."""

    def __init__(self, spec: Spec, suite: Suite, algorithm: Learner, domain: Suite | None = None) -> None:
        """Of a specification with its suite, its algorithm and the suite that it is scored on, if that is another."""
        self.spec, self.suite, self.algorithm, self.domain = spec, suite, algorithm, domain
        self.views = Views.of(suite, algorithm)
        self.chunk = spec.chunk_tasks

    def begin(self, checkpoint: bytes | None) -> Training:
        """Where training stands: as in a checkpoint, or before its first iteration.

        Raises:
            Exception: the checkpoint is not one of this cell.
        """
        fresh = self.algorithm.init(SuiteTask(self.views.training), seeds.generator(self.spec.seed, "init"))
        if checkpoint is None:
            kept = modules.statistics(self.views.training.skeleton)
            return Training(meta=to(fresh, self.spec.device), kept=to(kept, self.spec.device))
        state = Training.load(checkpoint, fresh, self.spec.trajectory, self.spec.device)
        if state.iteration > self.spec.iterations:
            raise ValueError(f"it is of a longer run, after {state.iteration} of {self.spec.iterations} iterations")
        return state

    def advance(self, state: Training) -> Iterator[Training]:
        """Trains to the specified number of iterations, yielding the updated state after each."""
        seed, device = self.spec.seed, self.spec.device
        batches = episodes(self.views.training, self.algorithm, lambda: state.meta, seed, state.iteration, device)
        gradients = Gradients(self.algorithm, partial(self._meta_gradient, state))
        validation = Validation(self._validation(), self.spec.validate_every, self._better)
        rule, until = self._rule(state), self.spec.iterations
        return train(state, batches, gradients, rule, until, validation, self.views.training)

    def score(self, state: Training) -> Scores:
        """The scores on the frozen tasks of what was selected."""
        meta, kept = state.chosen(self.spec.selection == "best")
        learned = Learned(self.views.fit(meta, self.spec.seed, self.spec.device), kept)
        algorithm, selected = self._select(self.algorithm.at(state.iteration), learned)
        clocks: dict[str, Clock] = {}
        table = self._test(algorithm, learned, clocks)
        took = {setting: clock.per_task for setting, clock in clocks.items()}
        return Scores(table, selected, {setting: each for setting, each in took.items() if each is not None})

    def doubts(self, state: Training) -> dict[str, str]:
        """Signs that meta-training did not train: what -> in a sentence; none where nothing is trained."""
        if not self.spec.iterations:
            return {}
        suite = self.views.training
        fresh, last = (tree_map(Tensor.cpu, meta) for meta in (self.begin(None).meta, state.meta))
        noise = part(self.algorithm.noise(shapes_of(fresh), 1, seeds.generator("doubts")), 0)
        began = self.algorithm.params(fresh, self.algorithm.start(fresh, noise))
        names = {name for name, _ in suite.skeleton.named_parameters()} - suite.fixed
        network = {id(leaf) for name, leaf in began.items() if name in names} if isinstance(began, dict) else set()
        # What is learned beside the network, such as rates of what is not adapted, may have nothing to learn from.
        pairs = zip(named_leaves(fresh), named_leaves(last), strict=True)
        learned = [(name[1:], a, b) for (name, a), (_, b) in pairs if id(a) in network or not network]
        still = [name for name, before, after in learned if torch.equal(before, after)]
        looks = [score for *_, score in state.curve if score is not None]
        found = {}
        if self.domain and (seen := familiar(suite, self.domain)):
            found["test classes were trained on"] = seen
        if 2 * state.rejected >= state.iteration:
            found["steps were rejected"] = f"{state.rejected:,} of {state.iteration:,} steps were not taken"
        if still if network else len(still) == len(learned):
            few = f"{', '.join(still[:3])}{', ...' if len(still) > 3 else ''}"
            found["parameters never moved"] = f"{len(still)} of {len(learned)} tensors are as they were drawn: {few}"
        if len(looks) >= LOOKS and not any(self._better(score, looks[0]) for score in looks[1:]):
            found["validation never improved"] = f"the first of {len(looks)} looks at the validation tasks was the best"
        return found

    def _meta_gradient(self, state: Training, algorithm: Learner) -> MetaGradient:
        if self.spec.engine == "learn2learn":
            return learn2learn.meta_gradient(self.views.training, algorithm)
        return vectorised.meta_gradient(
            self.views.training,
            algorithm,
            compiled=self.spec.engine == "compiled",
            chunk=self.chunk,
            by_task=self.spec.by_task,
            halved=self._halved,
            seen=lambda statistics: self._seen(state, statistics),
        )

    def _rule(self, state: Training) -> Rule:
        suite = self.views.training
        outer = outer_of(suite, self.algorithm, self.spec.iterations)
        if isinstance(outer, TRPO):
            acted_in = cast(Interactive, suite)
            parts = CompiledParts(acted_in, self.algorithm) if self.spec.engine == "compiled" else None
            return TrustRegion(acted_in, self.algorithm, state.meta, parts)
        return Descent(outer, state.meta, state.memory, self.suite.clip)

    def _halved(self, chunk: int) -> None:
        log.warning("out of memory: going on with %d tasks in memory at once", chunk)
        self.chunk = chunk

    def _seen(self, state: Training, statistics: dict[str, Statistics]) -> None:
        state.kept = modules.move(state.kept, statistics, self.views.training.skeleton, state.iteration)

    def _better(self, a: float, b: float) -> bool:
        return a < b if self._lower else a > b

    @property
    def _lower(self) -> bool:
        return self.views.tested.metrics[0].better == "lower"

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
