"""Whoever looks on while cells run."""

import logging
from collections.abc import Sequence
from typing import Protocol

from bench.core.records import Record
from bench.learning.training import Training
from bench.planning.plan import Cell

log = logging.getLogger("bench")


class Watch(Protocol):
    """Whoever looks on while a cell runs."""

    def starts(self, cell: Cell, done: int) -> None:
        """A cell begins, with `done` iterations behind it."""

    def trains(self, cell: Cell, state: Training) -> None:
        """An iteration is done."""

    def scores(self, cell: Cell) -> None:
        """Meta-training is over, evaluation begins."""

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """The cell has its record; not `fresh` if it had it before."""

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        """The cell was lost where it ran; `again` if it is sent once more."""

    def waits(self, cell: Cell, who: str) -> None:
        """Somebody else runs the cell, and all the others have ended or are with somebody too."""


class Silent:
    """A Watch that says nothing but what went wrong."""

    def starts(self, cell: Cell, done: int) -> None:
        """Nothing."""

    def trains(self, cell: Cell, state: Training) -> None:
        """Nothing."""

    def scores(self, cell: Cell) -> None:
        """Nothing."""

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """Nothing."""

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        """Warns, since nothing that is returned tells of it."""
        log.warning("%s was lost: %s", cell.label, message)

    def waits(self, cell: Cell, who: str) -> None:
        """Nothing."""


class Watches:
    """Several who look on, as one Watch."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        """All are told everything, in order."""
        self.watches = watches

    def starts(self, cell: Cell, done: int) -> None:
        """Tells all."""
        for watch in self.watches:
            watch.starts(cell, done)

    def trains(self, cell: Cell, state: Training) -> None:
        """Tells all."""
        for watch in self.watches:
            watch.trains(cell, state)

    def scores(self, cell: Cell) -> None:
        """Tells all."""
        for watch in self.watches:
            watch.scores(cell)

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """Tells all."""
        for watch in self.watches:
            watch.ends(cell, record, fresh)

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        """Tells all."""
        for watch in self.watches:
            watch.loses(cell, message, again)

    def waits(self, cell: Cell, who: str) -> None:
        """Tells all."""
        for watch in self.watches:
            watch.waits(cell, who)
