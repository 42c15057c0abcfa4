"""Any suite that looks its data up as a stream: `stream[of=omniglot]`, whose tasks come one after the other.

The protocol of Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438); hyperparameters are those of the suite.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from bench.core.types import Budget
from suites import published
from suites.parts.streams import StreamOf


@dataclass(frozen=True, kw_only=True)
class AnyStream(StreamOf):
    """The tasks of another suite, one after the other, each with its points in an order of its own."""

    of: Annotated[str, Field(description="the suite whose tasks come: any that looks its data up and has shots")] = (
        "glyphs"
    )
    unseen: int = 25
    shots: int = 10
    known: int = 5

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(8, 2, 2),
        "quick": Budget(2_000, 50, 20),
        "standard": Budget(6_600, 100, 50),
        "paper": Budget(20_000, 100, 50),
    }
    manifests: ClassVar[dict[str, str]] = published()["stream"]
