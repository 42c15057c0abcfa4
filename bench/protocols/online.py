"""The online protocol: tasks come one after the other, points one after the other; scored before they are given.

Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), algorithm 1. Meta-training goes on while tasks and points
come: each meta-iteration draws tasks among those so far, and of each some of the points that it has given. What there
is in an iteration depends on its number and the seed alone, so that a run that was cut goes on as if it had not been.
Letters: T tasks, N points of a task.
"""

import hashlib
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from torch import Tensor

from bench.core import modules, seeds
from bench.core.errors import BenchError, StoreError
from bench.core.records import Spec
from bench.core.stream import Stream
from bench.core.task import SuiteTask
from bench.core.trees import part, raw, shapes_of, to, tree_leaves
from bench.core.types import Episode, Learner, Split, Suite, Tasks
from bench.learning.batches import points
from bench.learning.evaluate import manifest, quoted_step
from bench.learning.outer.descent import Rule
from bench.learning.train import Validation, train
from bench.learning.training import Training
from bench.protocols.protocol import Protocol, Scores

Row = dict[str, float]  # metric -> score


class Look(NamedTuple):
    """When the learner of a round is scored."""

    round: int
    amount: int  # of points that it has of the round's task
    iteration: int  # meta-iterations done before


class Pace(NamedTuple):
    """Which tasks and points are there in which meta-iteration.

    Half a round with the known tasks alone, then rounds of equal length, in each of which a task's points come evenly,
    as many as a meta-iteration takes of a task at once.
    """

    suite: Stream
    rounds: int
    iterations: int

    @property
    def every(self) -> int:
        """Meta-iterations of a round."""
        return 2 * self.iterations // (2 * self.rounds + 1)

    @property
    def before(self) -> int:
        """Meta-iterations before the first."""
        return self.iterations - self.rounds * self.every

    def present(self, iteration: int) -> tuple[int, int]:
        """The number in the stream of the task whose round it is, and how many points it has given."""
        number, gone = divmod(iteration - self.before, self.every)
        if number < 0:
            return self.suite.known - 1, self.suite.points
        return self.suite.known + number, self._given(gone)

    def looks(self) -> list[Look]:
        """All, in their order: the learner has met no more points than the look gives it to adapt to."""
        within = range(self.every)
        late = {a: next((i for i in within if self._given(i) > a), self.every) for a in self.suite.amounts}
        begins = (self.before + number * self.every for number in range(self.rounds))
        return [Look(number, a, begin + late[a]) for number, begin in enumerate(begins) for a in self.suite.amounts]

    def _given(self, gone: int) -> int:
        first = min(2 * self.suite.shots, self.suite.points)
        return first + (self.suite.points - first) * gone // self.every


def stream(suite: Stream, name: str, split: Split, seed: int, rounds: int) -> tuple[Tasks, str, str]:
    """A seed's tasks in their order, [T, ...], the SHA-256 of those, and that of all tasks, whatever their order.

    Raises:
        BenchError: the suite has not so many.
        ManifestError: as of `manifest`.
    """
    tasks, found = manifest(suite, name, split)
    if (wanted := suite.known + rounds) > suite.length:
        raise BenchError(
            f"{name} has {suite.length} tasks, of which {suite.known} are known and {rounds} come: together {wanted}. "
            f"Give known={max(1, suite.length - rounds)} or less."
        )
    draws = torch.rand(suite.length, generator=seeds.generator(seed, "stream"), dtype=torch.float64)
    ordered = part(tasks, draws.argsort()[:wanted])
    digest = hashlib.sha256()
    for leaf in tree_leaves(ordered):
        digest.update(raw(leaf))
    return ordered, digest.hexdigest(), found


def rounds_of(spec: Spec) -> int:
    """How many tasks come."""
    return spec.test_tasks or spec.validation_tasks


class Online(Protocol):
    """Meta-training along a stream, whose rounds are scored as they come, and once more in the end."""

    def __init__(self, spec: Spec, suite: Suite, algorithm: Learner, domain: Suite | None = None) -> None:
        """Of a specification with its suite and algorithm.

        Raises:
            StoreError: the suite's tasks are no longer those that were planned.
        """
        super().__init__(spec, suite, algorithm, domain)
        self.stream = cast(Stream, suite)
        self.pace = Pace(self.stream, rounds_of(spec), spec.iterations)
        self.looks = self.pace.looks()
        self.tasks, order, found = stream(self.stream, spec.suite.name, spec.split, spec.seed, self.pace.rounds)
        if (order, found) != (spec.order, spec.manifests[f"{suite.setting}/{spec.split}"]):
            raise StoreError(f"the tasks of {suite.setting} changed while the cell ran")
        self.steps = quoted_step(suite, algorithm)

    def advance(self, state: Training) -> Iterator[Training]:
        """Trains to the end of the stream, scoring on the way, and yields the updated state after each iteration."""
        rule = self._rule(state)
        self._look(state, rule)
        rest = (self._gradients(state), rule, self.spec.iterations, Validation(None, self.spec.validate_every))
        for trained in train(state, self._batches(state), *rest, self.suite):
            self._look(trained, rule)
            yield trained

    def score(self, state: Training) -> Scores:
        """What every look found, and of each round what it needed, its regret, and what of it is forgotten."""
        suite = self.stream
        self._look(state, self._rule(state))  # the last, where a run was cut before it
        rows = [(number, amount, *score) for number, amount, scores in state.looks for score in scores.items()]
        ended = self.algorithm.at(state.iteration)
        hindsight = [self._scores(ended, state, look) for look in self.looks]
        width, sign = len(suite.amounts), 1 if suite.metrics[0].better == "lower" else -1
        for number in range(self.pace.rounds):
            own = slice(number * width, (number + 1) * width)
            then, later = [scores for *_, scores in state.looks[own]], hindsight[own]
            reached = [amount for amount, scores in zip(suite.amounts, then, strict=True) if self._reached(scores)]
            of_round = {"needed": float(min(reached, default=suite.points)), "reached": 100.0 * bool(reached)}
            if self.algorithm.follows != "present":  # who keeps nothing of a task is no leader of all
                regrets = [now[suite.lost] - best[suite.lost] for now, best in zip(then, later, strict=True)]
                of_round["regret"] = sum(regrets) / width
            name = suite.metrics[0].name
            of_round["forgetting"] = sign * (later[-1][name] - then[-1][name])
            rows += [(number, suite.points, *score) for score in of_round.items()]
        table = pd.DataFrame(rows, columns=["task", "step", "metric", "value"])
        table.insert(0, "setting", suite.setting)
        table.insert(1, "norm", suite.normalisation)
        table = table[["setting", "norm", "metric", "task", "step", "value"]]
        return Scores(table.sort_values(["metric", "task", "step"], ignore_index=True), {}, {})

    def _batches(self, state: Training) -> Iterator[Episode]:
        suite, size = self.stream, self.algorithm.meta_batch
        for iteration in count(state.iteration):
            draws = (self.spec.seed, "stream", iteration)
            generator = seeds.generator(*draws)
            present, given = self.pace.present(iteration)
            first = present if self.algorithm.follows == "present" else 0
            last = present - 1 if self.algorithm.follows == "earlier" and iteration >= self.pace.before else present
            some = torch.randint(first, last + 1, (size,), generator=generator)
            there = torch.where(some == present, given, suite.points).unsqueeze(1)
            order = torch.rand(size, suite.points, generator=generator).masked_fill(
                torch.arange(suite.points) >= there, 2
            )
            places = order.argsort(1)[:, : 2 * suite.shots]
            learner = self.algorithm.at(iteration)
            yield points(suite, learner, state.meta, part(self.tasks, some), places, draws, self.spec.device)

    def _look(self, state: Training, rule: Rule) -> None:
        """All looks that are due and were not yet taken; before a round's first, who keeps nothing begins anew."""
        state.whole = False
        while (
            len(state.looks) < len(self.looks) and (look := self.looks[len(state.looks)]).iteration <= state.iteration
        ):
            if look.amount == 0 and self.algorithm.follows == "present":
                self._begin_anew(state, rule, look.round)
            scores = self._scores(self.algorithm.at(state.iteration), state, look)
            state.looks.append((look.round, look.amount, scores))
        state.whole = True

    def _begin_anew(self, state: Training, rule: Rule, number: int) -> None:
        drawn = self.algorithm.init(SuiteTask(self.suite), seeds.generator(self.spec.seed, "init", number))
        state.kept = to(modules.statistics(self.suite.skeleton), self.spec.device)
        with torch.no_grad():
            for leaf, new in zip(tree_leaves(state.meta), tree_leaves(drawn), strict=True):
                leaf.copy_(new)
            for slots in rule.memory:
                for slot in slots.values():
                    slot.zero_()

    def _scores(self, learner: Learner, state: Training, look: Look) -> Row:
        """Metric -> score on the next points of the round's task, after adapting to those that were given."""
        suite, number = self.stream, self.stream.known + look.round
        one = part(self.tasks, slice(number, number + 1))

        def shown(first: int, length: int) -> Any:
            return to(part(suite.show(one, torch.arange(first, first + length).unsqueeze(0)), 0), self.spec.device)

        generator = seeds.generator(self.spec.seed, "look", number)
        noise = to(part(learner.noise(shapes_of(state.meta), 1, generator), 0), self.spec.device)
        support = (shown(0, look.amount),) * self.steps if look.amount else ()
        query = shown(look.amount, suite.unseen)
        view = SuiteTask.tested(suite, state.kept)
        with torch.no_grad():
            adapted = learner.adapted(state.meta, SuiteTask(suite), Episode(support, query, noise))
            scores: dict[str, Tensor] = view.score(learner.predict(state.meta, adapted, view, query), query)
        return {name: score.item() for name, score in scores.items()}

    def _reached(self, scores: Row) -> bool:
        headline = self.stream.metrics[0]
        score = scores[headline.name]
        return score <= self.stream.proficient if headline.better == "lower" else score >= self.stream.proficient
