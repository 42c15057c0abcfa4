"""What both protocols do with a cell: begin, take meta-gradients, follow the outer rule, say what looks amiss."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from torch import Tensor

from bench.core import modules, seeds
from bench.core.call import Statistics
from bench.core.records import Spec
from bench.core.trees import named_leaves, part, shapes_of, to, tree_map
from bench.core.types import Interactive, Learner, Suite
from bench.learning.elsewhere import familiar
from bench.learning.engines import learn2learn, vectorised
from bench.learning.engines.trust_region import CompiledParts
from bench.learning.outer.descent import Descent, Rule
from bench.learning.outer.trpo import TRPO, TrustRegion, outer_of
from bench.learning.train import Gradients, MetaGradient
from bench.learning.training import Training, begun
from bench.learning.views import Views

LOOKS = 3  # at the validation tasks, of which the first being the best is worth a word
LEAST = 1e-12  # what began as 0 has not moved by less, since no rounding keeps it there
log = logging.getLogger("bench")


class Scores(NamedTuple):
    """What a cell comes to."""

    table: pd.DataFrame  # setting, norm, metric, task, step, value
    selected: dict[str, Any]  # fields that validation tasks chose
    seconds: dict[str, float]  # setting -> those of a task: see `Clock`; empty where they are not measured


class Protocol(ABC):
    """Meta-training and scoring of one cell, whose life does not know which protocol it follows."""

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
        fresh = begun(self.algorithm, self.views.training, seeds.generator(self.spec.seed, "init"))
        if checkpoint is None:
            kept = modules.statistics(self.views.training.skeleton)
            return Training(meta=to(fresh, self.spec.device), kept=to(kept, self.spec.device))
        state = Training.load(checkpoint, fresh, self.spec.trajectory, self.spec.device)
        if state.iteration > self.spec.iterations:
            raise ValueError(f"it is of a longer run, after {state.iteration} of {self.spec.iterations} iterations")
        return state

    @abstractmethod
    def advance(self, state: Training) -> Iterator[Training]:
        """Trains to the specified number of iterations, yielding the updated state after each."""

    @abstractmethod
    def score(self, state: Training) -> Scores:
        """The scores of what was trained, by the protocol's rule."""

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
        still = [name for name, before, after in learned if _stays(before, after)]
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

    def _gradients(self, state: Training) -> Gradients:
        return Gradients(self.algorithm, partial(self._meta_gradient, state))

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


def _stays(before: Tensor, after: Tensor) -> bool:
    return torch.equal(before, after) or (after.is_floating_point() and bool((after - before).abs().max() < LEAST))
