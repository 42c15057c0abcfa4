"""What a cell is and what became of it, as the store keeps it: the specification, the record, and their hashes."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1  # of the store; a newer one is refused, never guessed at

Selection = Literal["last", "best"]
EngineName = Literal["eager", "compiled", "learn2learn"]
Outcome = Literal["finished", "diverged", "failed"]


class Component(BaseModel):
    """A suite or an algorithm: its name, its parameters and the hash of its source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    given: dict[str, Any]  # the parameters that were typed, for labels
    parameters: dict[str, Any]  # all of them
    source: str


class Spec(BaseModel):
    """All that a cell's result depends on; its hash is the cell's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    suite: Component
    suite_version: int
    norm: str
    manifests: dict[str, str]  # "<setting>/<split>" -> SHA-256
    algorithm: Component
    seed: int
    iterations: int
    validate_every: int
    selection: Selection
    test_tasks: int
    validation_tasks: int
    engine: EngineName
    dtype: str
    device: str
    threads: int
    chunk_tasks: int | None = None  # tasks in memory at once, if that was asked for

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the canonical specification's SHA-256."""
        return self._hash(set())

    @property
    def trajectory(self) -> str:
        """Likewise of all but the number of iterations: equal for cells of which one goes on from the other."""
        return self._hash({"iterations"})

    @property
    def arm(self) -> str:
        """Likewise of all but the seed: equal for cells that repeat one another."""
        return self._hash({"seed"})

    @property
    def work(self) -> str:
        """Likewise of what one meta-iteration computes, whichever engine does it: equal work takes equal time."""
        kept = {"suite", "suite_version", "algorithm", "dtype", "device", "threads"}
        return self._hash(set(type(self).model_fields) - kept)

    def _hash(self, exclude: set[str]) -> str:
        # What was typed does not count, only what it means: maml and maml[steps=1] may be the same cell.
        content = self.model_dump(mode="json", exclude=exclude)
        content["suite"].pop("given"), content["algorithm"].pop("given")
        if self.chunk_tasks is None:  # as before there was such a field
            content.pop("chunk_tasks", None)
        return hashlib.sha256(_canonical(content)).hexdigest()[:16]


class Judgement(BaseModel):
    """How a suite's scores are to be read, so that a report needs nothing but the record."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str  # the headline
    unit: str
    better: Literal["lower", "higher"]
    report_steps: tuple[int, ...]
    floor: float
    caveat: str


class Record(BaseModel):
    """What became of a cell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    cell: str
    spec: Spec
    judgement: Judgement
    outcome: Outcome
    message: str = ""
    stopped_at: int  # meta-iterations done
    digest: str = ""  # SHA-256 of the final Meta, the scores and the curve
    files: dict[str, str] = {}  # name of a table -> SHA-256 of its file
    selected: dict[str, Any] = {}
    seconds_per_iteration: float | None = None  # median after warm-up
    train_seconds: float = 0.0  # without compiling, summed over resumed pieces
    compile_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    peak_bytes: int | None = None  # resident, of this cell's pieces
    chunk_tasks: int | None = None  # tasks in memory at once, if not all of them
    pieces: int = 1
    finished: str  # UTC
    environment: dict[str, str]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
