"""Meta-training: sample tasks, take the meta-gradient, follow the outer rule; every iteration can be resumed from.

What happens in an iteration depends on its number, the seed and the parameters alone, never on where a run was cut or
how long it will be.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from torch import Tensor

from bench.core.trees import tree_map
from bench.core.types import Episode, Interactive, Learner, Meta, Suite
from bench.learning.outer.descent import Rule
from bench.learning.training import Training

INTERVAL = 50  # iterations that share a row of the curve
MetaGradient = Callable[[Meta, Episode], tuple[Tensor, Meta]]


class Diverged(Exception):
    """The loss is no longer a number."""


class Validation(NamedTuple):
    """How, how often and to what end the validation tasks are looked at."""

    score: Callable[[Training], float] | None
    every: int  # meta-iterations
    better: Callable[[float, float], bool] = lambda a, b: a < b


class Gradients:
    """The meta-gradient of a learner that may change on the way, made anew when it does."""

    def __init__(self, algorithm: Learner, of: Callable[[Learner], MetaGradient]) -> None:
        """Nothing is made before it is needed."""
        self.algorithm, self.of = algorithm, of
        self.learner: Learner | None = None

    def at(self, iteration: int) -> MetaGradient:
        """That of the learner as it is after so many iterations."""
        now = self.algorithm.at(iteration)
        if now is not self.learner and now != self.learner:
            self.learner, self.gradient = now, self.of(now)
        return self.gradient


def train(
    state: Training,
    batches: Iterator[Episode],
    gradients: Gradients,
    rule: Rule,
    until: int,
    validation: Validation,
    suite: Suite | None = None,
) -> Iterator[Training]:
    """Trains up to iteration `until`, yielding the same, updated state after every iteration.

    Of an interactive `suite`, every row of the curve has its notes.

    Raises:
        Diverged: the loss is NaN or infinite; `state.iteration` is where.
    """
    recent: list[float] = []
    warm = False
    interactive = suite if isinstance(suite, Interactive) else None
    interval = interactive.curve_every if interactive else INTERVAL
    state.memory = rule.memory
    while state.iteration < until:
        began = time.perf_counter()
        batch = next(batches)
        again = partial(gradients.at(state.iteration), state.meta, batch)
        loss, gradient = again()
        state.whole = False
        noted = rule.update(gradient, batch, state.iteration, again)
        state.rejected += bool(noted.pop("rejected", 0.0))
        value = loss.item()
        seconds = time.perf_counter() - began
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value} in meta-iteration {state.iteration + 1}")
        state.iteration += 1
        state.losses.append(value)
        if warm:
            state.train_seconds += seconds
            recent.append(seconds)
        else:  # the first iteration of a piece compiles
            state.compile_seconds += seconds
            warm = True
        if interactive:
            noted = _counted(interactive, batch, state.counts) | noted
        looked_at = state.iteration % validation.every == 0
        if state.iteration % interval == 0 or looked_at:
            score = validation.score(state) if validation.score and looked_at else None
            state.curve.append((state.iteration, math.fsum(state.losses) / len(state.losses), score))
            state.losses.clear()
            if interactive:
                state.notes.append((state.iteration, noted))
            if recent:
                state.pace.append(statistics.median(recent))
                recent.clear()
            if score is not None and (state.best_score is None or validation.better(score, state.best_score)):
                state.best_score = score
                state.best, state.best_kept = tree_map(lambda x: x.detach().clone(), (state.meta, state.kept))
        if state.iteration == until and recent:
            state.pace.append(statistics.median(recent))
        state.whole = True
        yield state


def _counted(suite: Interactive, batch: Episode, counts: dict[str, float]) -> dict[str, float]:
    """The columns of a batch: what adds up so far, and the returns before and after adaptation."""
    tallies = [suite.tally(data) for data in (*batch.support, batch.query)]
    first, last = tallies[0].pop("return"), tallies[-1].get("return", 0.0)
    for tally in tallies:
        tally.pop("return", None)
        for name, value in tally.items():
            counts[name] = counts.get(name, 0.0) + value
    return {**counts, "return_before": first, "return_after": last if len(tallies) > 1 else first}
