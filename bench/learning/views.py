"""A suite as a learner wants to see it, in training and at test."""

from typing import NamedTuple, Self

from bench.core import seeds
from bench.core.trees import to
from bench.core.types import Learner, Meta, Suite


class Views(NamedTuple):
    """What is trained on and what is scored on: often the suite itself."""

    training: Suite
    tested: Suite
    alike: bool = True  # whether both are the same view

    @classmethod
    def of(cls, suite: Suite, algorithm: Learner) -> Self:
        """The views that an algorithm names.

        Raises:
            AttributeError: the suite has no such view; planning has told the user before.
        """
        names = algorithm.train_view, algorithm.test_view
        training, tested = (getattr(suite, name)() if name else suite for name in names)
        return cls(training, tested, names[0] == names[1])

    def fit(self, meta: Meta, seed: int, device: str = "cpu") -> Meta:
        """What was trained, fit for test: under a fresh head, if training had a view of its own."""
        if self.alike:
            return meta
        return to(self.tested.replace_head(to(meta, "cpu"), seeds.generator(seed, "head")), device)
