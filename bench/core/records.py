"""What a cell is and what became of it, as the store keeps it: the specification, the record, and their hashes."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from bench.core.labels import written
from bench.core.metric import Metric

FORMAT = 2  # of the store; a newer one is refused, never guessed at
FEWEST_SEEDS = 3  # for an interval that speaks of training anew

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

    @field_validator("given", "parameters")
    @classmethod
    def _as_built(cls, values: dict[str, Any]) -> dict[str, Any]:
        """With tuples, for which JSON has lists only."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    @property
    def label(self) -> str:
        """name[parameter=value,...] with the parameters that were set."""
        return written(self.name, self.given)


class Domain(BaseModel):
    """Where else than in its own suite a trained learner is scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: Component
    suite_version: int
    manifests: dict[str, str]  # "<setting>/test" -> SHA-256


class Spec(BaseModel):
    """All that a cell's result depends on; its hash is the cell's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    suite: Component
    suite_version: int
    norm: str
    manifests: dict[str, str]  # "<setting>/<split>" -> SHA-256
    algorithm: Component
    outer: str  # the optimiser or rule of the outer loop, with its schedule; "" where nothing is trained
    seed: int
    iterations: int
    validate_every: int
    selection: Selection
    test_tasks: int  # 0: a trial of a sweep, which is scored on the validation tasks and never sees the others
    validation_tasks: int
    engine: EngineName
    dtype: str
    device: str
    threads: int
    chunk_tasks: int | None = None  # tasks in memory at once, if that was asked for
    by_task: bool = False  # one task after the other, where vmap cannot take the network
    domain: Domain | None = None  # whose test tasks the scores are of, if not the suite's
    protocol: Literal["episodic", "online"] = "episodic"
    order: str = ""  # SHA-256 of a stream's tasks in the order in which this seed meets them

    @property
    def split(self) -> Literal["test", "validation"]:
        """Whose frozen tasks the scores are of."""
        return "test" if self.test_tasks else "validation"

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the canonical specification's SHA-256."""
        return self._hash(set())

    @property
    def home(self) -> "Spec":
        """The specification of the same training, scored on the suite's own tasks."""
        return self.model_copy(update={"domain": None})

    @property
    def trajectory(self) -> str:
        """Likewise of all but the number of iterations: equal for cells of which one goes on from the other.

        Not of runs whose rate falls until their own end, since `outer` says where that is, nor of streams, whose tasks
        come the slower the more iterations there are.
        """
        return self._hash({"domain", "iterations"} if self.protocol == "episodic" else {"domain"})

    @property
    def kin(self) -> str:
        """Likewise of all but iterations, engine and threads, which may be left open: equal for the same experiment."""
        return self._hash({"iterations", "engine", "threads"})

    @property
    def arm(self) -> str:
        """Likewise of all but the seed: equal for cells that repeat one another."""
        return self._hash({"seed", "order"})

    @property
    def work(self) -> str:
        """Likewise of what one meta-iteration computes, whichever engine does it: equal work takes equal time."""
        kept = {"suite", "suite_version", "algorithm", "by_task", "dtype", "device", "threads"}
        return self._hash(set(type(self).model_fields) - kept)

    def _hash(self, exclude: set[str]) -> str:
        # What was typed does not count, only what it means: maml and maml[steps=1] may be the same cell.
        content = self.model_dump(mode="json", exclude=exclude)
        content["suite"].pop("given"), content["algorithm"].pop("given")
        if domain := content.pop("domain", None):  # without one, a cell has the id that it had before there were any
            domain["suite"].pop("given")
            content["domain"] = domain
        if self.protocol == "episodic":  # a field that came later, without which cells keep the ids that they had
            content.pop("protocol", None), content.pop("order", None)
        return hashlib.sha256(_canonical(content)).hexdigest()[:16]


class Judgement(BaseModel):
    """How a suite's scores are to be read, so that a report needs nothing but the record."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    metrics: tuple[Metric, ...]  # the first is the headline
    report_steps: tuple[int, ...]
    floor: float  # the headline of whoever knows nothing
    caveat: str
    after: str = "inner steps"  # what report_steps count

    @property
    def headline(self) -> Metric:
        """What algorithms are compared by."""
        return self.metrics[0]


class Trial(BaseModel):
    """One set of values that a sweep tried, and what became of it on the validation tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    parameters: dict[str, Any]  # those that were searched
    default: bool = False  # the values are those of the suite's protocol
    outcome: Outcome | Literal["pruned"]
    score: float | None  # mean over seeds and tasks, None where it is no finite number
    iterations: int  # meta-iterations spent, over all seeds
    cells: tuple[str, ...]  # one per seed, in the sweep's own store


class Choices(BaseModel):
    """The values among which a sweep chose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: tuple[bool | int | float | str | None, ...]


class Tuning(BaseModel):
    """A sweep of one algorithm on one suite: its protocol, every trial, and the values it chose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    study: str  # its name in Optuna's storage
    suite: Component
    algorithm: Component  # as built with the suite's protocol; `given` was not searched
    space: dict[str, tuple[float, float, bool] | Choices]  # low, high, logarithmic
    metric: str
    better: Literal["lower", "higher"]
    step: int  # the inner step after which tasks are scored
    iterations: int  # meta-iterations of one seed of a trial that is not cut short
    seeds: tuple[int, ...]
    validation_tasks: int
    sampler: str
    pruner: str
    seed: int  # the sampler's
    batch: int  # trials proposed at once
    trials: tuple[Trial, ...]
    finished: str  # of the last trial, UTC

    @property
    def budget(self) -> dict[str, Any]:
        """What sweeps that are compared must have in common."""
        names = ("iterations", "seeds", "validation_tasks", "sampler", "pruner", "seed", "batch")
        return {name: getattr(self, name) for name in names} | {"trials": len(self.trials)}

    @property
    def spent(self) -> int:
        """Meta-iterations of all trials."""
        return sum(trial.iterations for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The finished trial of the best score, the first of equals; None if none has a finite one."""
        done = [t for t in self.trials if t.outcome == "finished" and t.score is not None]
        sign = 1 if self.better == "lower" else -1
        return min(done, key=lambda trial: sign * (trial.score or 0.0), default=None)


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
    test_seconds: dict[str, float] = {}  # setting -> a test task: adapting to the last report step, and one prediction
    peak_bytes: int | None = None  # resident, of this cell's pieces
    chunk_tasks: int | None = None  # tasks in memory at once, if not all of them
    why_engine: str = ""  # why this engine computed it
    why_by_task: str = ""  # why one task after the other was computed, if so
    pieces: int = 1
    tuning: Tuning | None = None  # the sweep that chose the parameters, if one did
    cautions: dict[str, str] = {}  # signs that training did not train: what -> in a sentence
    environment_steps: int | None = None  # taken in meta-training, adaptation included; None: there is no environment
    finished: str  # UTC
    environment: dict[str, str]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
