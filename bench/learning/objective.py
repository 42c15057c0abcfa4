"""What meta-training minimises for one task, and what the adapted learner predicts there: functions of Meta alone."""

from collections.abc import Callable
from typing import cast

from torch import Tensor

from bench.core.task import SuiteTask
from bench.core.types import Episode, Interactive, Learner, Meta, Suite


def objective(suite: Suite, algorithm: Learner) -> Callable[[Meta, Episode], Tensor]:
    """One task's meta-loss; where the suite is interactive, with its credit for what the support explored."""
    task = SuiteTask(suite)
    if not isinstance(suite, Interactive) or algorithm.remembers:  # whose meta-loss is of all that it did
        return lambda meta, episode: algorithm.meta_loss(meta, task, episode)
    credit = suite.exploration

    def explored(meta: Meta, episode: Episode) -> Tensor:
        value = algorithm.meta_loss(meta, task, episode)
        state = algorithm.start(meta, episode.noise)
        for k, data in enumerate(episode.support):
            extra = credit(algorithm.params(meta, state), data, episode.query)
            if extra is None:
                break
            value = value + extra
            state = algorithm.step(meta, state, task, data, k)
        return value

    return explored


def prediction(suite: Interactive, algorithm: Learner) -> Callable[[Meta, Episode], Tensor]:
    """One task's prediction for its query by the adapted learner: the parameters of its actions' distributions."""
    task = SuiteTask(suite)

    def predicted(meta: Meta, episode: Episode) -> Tensor:
        return cast(Tensor, algorithm.predict(meta, algorithm.adapted(meta, task, episode), task, episode.query))

    return predicted
