"""What small suites of counted actions share, in which the best return is known: all of it choices of these suites."""

from dataclasses import dataclass
from typing import ClassVar

from bench.core.types import Setting
from suites.parts.control import Reinforcement


@dataclass(frozen=True, kw_only=True)
class Discrete(Reinforcement):
    """Acted in by a small network, on the device of its tasks."""

    validate_every: ClassVar[int] = 10
    of_tensors: ClassVar[bool] = True

    @property
    def report_steps(self) -> tuple[int, ...]:
        """Before adaptation, and after one and three steps."""
        return (0, 1, 3)

    @property
    def protocol(self) -> dict[str, Setting]:
        """A choice of this suite."""
        values = {"inner_lr": 1.0, "steps": 1, "outer_lr": 0.01, "meta_batch": 20}
        return {name: Setting(value, "a choice of this suite") for name, value in values.items()}
