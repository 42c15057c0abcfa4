"""What happens while cells run: a live line each on a terminal, plain lines elsewhere."""

import statistics
import time
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bench.core.labels import span
from bench.core.records import Record
from bench.learning.training import Training
from bench.planning.plan import Cell

EVERY = 10.0  # seconds between lines of progress where the output is no terminal


class Progress:
    """A Watch: a live line for each running cell on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        """Nothing is shown before a cell starts."""
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True) if self._tty else None
        self.running: dict[str, _Running] = {}
        self.lost: dict[str, str] = {}  # label -> what happened, of cells that have no record for it

    @property
    def _tty(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def __enter__(self) -> Self:
        """Starts the live display on a terminal."""
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes it away."""
        if self.live:
            self.live.stop()

    def starts(self, cell: Cell, done: int) -> None:
        """Says which cell begins."""
        self.running[cell.id] = _Running()
        going_on = f", going on from iteration {done:,}" if done else ""
        compiling = ", compiling first" if cell.spec.engine == "compiled" else ""
        what = f"{cell.spec.iterations:,} meta-iterations" if cell.spec.iterations else "no meta-training"
        self._line(f"{cell.label}: {what}{going_on}{compiling}")

    def trains(self, cell: Cell, state: Training) -> None:
        """Shows loss, validation score and the time left."""
        now, its = time.monotonic(), self.running.setdefault(cell.id, _Running())
        if its.first is None:  # the first iteration may compile and foretells nothing
            its.began, its.first = now, state.iteration
        if now - its.said < (0.25 if self.live else EVERY) or state.iteration == its.first:
            return
        its.said = now
        left = (now - its.began) / (state.iteration - its.first) * (cell.spec.iterations - state.iteration)
        losses = state.losses or [row[1] for row in state.curve[-1:]]
        validated = [row[2] for row in state.curve if row[2] is not None]
        score = f"  validation {validated[-1]:.4g}" if validated else ""
        share = 100 * state.iteration / cell.spec.iterations
        self._line(
            f"{cell.label}: {state.iteration:,}/{cell.spec.iterations:,} ({share:.0f} %)  "
            f"loss {statistics.fmean(losses):.4g}{score}  {span(left)} left",
            its,
        )

    def scores(self, cell: Cell) -> None:
        """Says that evaluation begins."""
        its = self.running.setdefault(cell.id, _Running())
        count = cell.spec.test_tasks or cell.spec.validation_tasks
        what = f"{cell.spec.split} tasks" if cell.spec.protocol == "episodic" else "tasks once more, in hindsight"
        self._line(f"{cell.label}: scoring {count} {what}", its)

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        """Says what became of the cell."""
        self.running.pop(cell.id, None), self.lost.pop(cell.label, None)
        trained = record.train_seconds + record.compile_seconds if not cell.domain else 0.0  # by another cell
        took = span(trained + record.evaluate_seconds)
        how = f"{record.outcome} ({took})" if fresh else f"{record.outcome} before"
        self._line(f"{cell.label}: {how}{': ' + record.message if record.message else ''}")

    def loses(self, cell: Cell, message: str, again: bool) -> None:
        """Says that a cell was lost where it ran, and keeps it for the end where it is not sent again."""
        self.running.pop(cell.id, None)
        if not again:
            self.lost[cell.label] = message
        self._line(f"{cell.label}: lost: {message}{'; sent again' if again else ''}")

    def waits(self, cell: Cell, who: str) -> None:
        """Says whom a cell waits for."""
        self._line(f"{cell.label}: {who} runs it; waiting")

    def _line(self, text: str, its: "_Running | None" = None) -> None:
        """Prints a line, or on a terminal shows it as that of a running cell."""
        if self.live and its:
            its.line = text
        if self.live:
            lines = [its.line for its in self.running.values() if its.line]
            self.live.update(Group(*(Text(line, overflow="ellipsis", no_wrap=True) for line in lines)))
        if not self.live or not its:
            self.console.print(Text(text), soft_wrap=True)


class _Running:
    """What is known of a running cell."""

    def __init__(self) -> None:
        self.began = self.said = time.monotonic()
        self.first: int | None = None
        self.line = ""
