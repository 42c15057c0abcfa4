"""What an audit of a run directory says: findings, and the comparisons that stand all the same.

Here and not in `bench.storage.audit`, which makes them, so that reports can show them without importing what moves the
data.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that makes a comparison invalid (a fault) or to be read with care (a caution)."""

    severity: Literal["fault", "caution"]
    suite: str  # as in the tables: sinusoid[shots=5]
    what: str  # a few words, the same for every finding of the kind: "iterations differ"
    message: str  # a sentence with the values and whose they are
    advice: str = ""  # what to do about it
    cells: tuple[str, ...] = ()  # the ids that it concerns, where they are few


@dataclass(frozen=True)
class Comparison:
    """Algorithms of one suite that may be compared with one another, or one that may be compared with none."""

    suite: str
    algorithms: tuple[str, ...]  # as in the tables: maml[steps=5]
    why_not: str = ""  # of one that stands alone: the faults that keep it from the others


@dataclass(frozen=True)
class Audit:
    """All that was found in a run directory; `sound` if no fault is among it."""

    findings: tuple[Finding, ...]  # faults first
    comparisons: tuple[Comparison, ...]  # of every suite, in the records' order

    def beside(self, other: "Audit") -> "Audit":
        """Both, faults first."""
        found = sorted((*self.findings, *other.findings), key=lambda finding: finding.severity, reverse=True)
        return Audit(tuple(found), (*self.comparisons, *other.comparisons))

    def named(self, name: str) -> "Audit":
        """The same with the run directory's name beside every suite's."""
        return Audit(
            tuple(replace(finding, suite=f"{finding.suite} ({name})") for finding in self.findings),
            tuple(replace(one, suite=f"{one.suite} ({name})") for one in self.comparisons),
        )

    @property
    def sound(self) -> bool:
        """Whether every comparison stands; cautions don't count."""
        return not any(finding.severity == "fault" for finding in self.findings)
