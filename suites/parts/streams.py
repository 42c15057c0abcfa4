"""An episodic suite as a stream: each of its tasks gives its points one after the other. Letters: T tasks, N points."""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core.discovery import Catalogue, build, parse
from bench.core.errors import BenchError
from bench.core.sheet import Sheet
from bench.core.stream import Stream
from bench.core.trees import tree_map
from bench.core.types import Data, Kind, Metric, Params, Prediction, Setting, Split, Supervised, Tasks


class Ordered(NamedTuple):
    """Tasks of an episodic suite, with the order in which their points come."""

    tasks: Tasks  # leaves [T, ...]
    order: Tensor  # [T, points of support and query]


@dataclass(frozen=True, kw_only=True)
class StreamOf(Stream):
    """A stream of the suite `of`, whose support and query are a task's points, in an order drawn for each task."""

    of: Annotated[str, Field(description="the suite whose tasks come: any that looks its data up and has shots")]

    def __post_init__(self) -> None:
        """Refuses a suite that has no points to give.

        Raises:
            BenchError: it has none, or not so many.
        """
        super().__post_init__()
        _ = self.base

    @cached_property
    def base(self) -> Supervised:
        """The suite, with as many points in a task as the stream gives."""
        named, *others = parse(self.of)
        if others:
            raise BenchError(f"of={self.of} is more than one. Give one, such as {named.name}.")
        cls = Catalogue.within().load("suite", named.name)
        names = {field.name for field in fields(cls)}
        if not issubclass(cls, Supervised) or issubclass(cls, Stream) or "shots" not in names:
            raise BenchError(
                f"{self.of} is no suite whose tasks can come as a stream: it must look its data up and have a "
                "parameter shots, as sinusoid, glyphs and omniglot."
            )
        given: dict[str, Any] = {"shots": self.points + self.unseen}
        if "queries" in names:  # each class has so many
            ways = build(cls, named.name, named.given).ways
            given = {"shots": math.ceil(self.points / ways), "queries": math.ceil(self.unseen / ways)}
        if set_here := sorted(given.keys() & named.given.keys()):
            raise BenchError(
                f"of={self.of} says {' and '.join(set_here)}, which points={self.points} and unseen={self.unseen} of "
                "the stream decide. Leave them out there."
            )
        base: Supervised = build(cls, named.name, named.given | given)
        return base

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]  # of whichever suite
        """The suite's."""
        return self.base.metrics

    @property
    def kind(self) -> Kind:
        """The suite's."""
        return self.base.kind

    @property
    def norm(self) -> str:  # type: ignore[override]
        """The suite's."""
        return self.base.norm

    @property
    def setting(self) -> str:
        """What comes, and how much of it."""
        ways = f"{self.base.outputs}-way " if self.kind == "classification" else ""
        scored = "" if self.unseen == type(self).unseen else f", scored on {self.unseen}"
        return f"{ways}{self.of}, {self.points} points{scored}"

    @property
    def caveat(self) -> str:
        """What must be known of labels."""
        if self.kind != "classification":
            return ""
        return f"{self.of}: a label means another class in each task, which no model of all tasks together can learn"

    @property
    def protocol(self) -> dict[str, Setting]:
        """The suite's."""
        return self.base.protocol

    @property
    def floor(self) -> float:
        """The suite's."""
        return self.base.floor

    @property
    def made_of(self) -> tuple[type, ...]:
        """The suite as well."""
        return (*super().made_of, type(self.base))

    @cached_property
    def skeleton(self) -> nn.Module:
        """The suite's."""
        return self.base.skeleton

    @property
    def head(self) -> frozenset[str]:
        """The suite's."""
        return self.base.head

    def module(self) -> nn.Module:
        """The suite's."""
        return self.base.module()

    def new_params(self, generator: Generator) -> Params:
        """As the suite draws them."""
        return self.base.new_params(generator)

    def adaptable(self, name: str) -> bool:
        """As the suite says."""
        return self.base.adaptable(name)

    def sample(self, count: int, split: Split, generator: Generator) -> Ordered:
        """Tasks of the suite."""
        tasks = self.base.sample(count, split, generator)
        support, query = (len(self.base.targets(self.base.example(role))) for role in ("support", "query"))
        order = torch.rand(count, support + query, generator=generator, dtype=torch.float64).argsort(1)
        return Ordered(tasks, order)

    def show(self, tasks: Ordered, places: Tensor) -> Data:
        """The points of support and query at these places of the order."""
        support, query = (self.base.look_up(tasks.tasks, role) for role in ("support", "query"))
        rows = torch.arange(len(places)).unsqueeze(1)
        some = tasks.order.gather(1, places)
        return tree_map(lambda a, b: torch.cat([a, b], 1)[rows, some], support, query)

    def inputs(self, data: Data) -> Tensor:
        """As the suite has them."""
        return self.base.inputs(data)

    def targets(self, data: Data) -> Tensor:
        """As the suite has them."""
        return self.base.targets(data)

    def features(self, params: Params, data: Data) -> Tensor:
        """As the suite's network computes them."""
        return self.base.features(params, data)

    def answer(self, params: Params, features: Tensor) -> Tensor:
        """As the suite's network's end does."""
        return self.base.answer(params, features)

    def predict(self, params: Params, data: Data) -> Tensor:
        """As the suite does."""
        return self.base.predict(params, data)

    def losses(self, prediction: Tensor, data: Data) -> Tensor:
        """As the suite does."""
        return self.base.losses(prediction, data)

    def score(self, prediction: Tensor, data: Data) -> dict[str, Tensor]:
        """As the suite does."""
        return self.base.score(prediction, data)

    def average(self, predictions: Prediction) -> Any:
        """As the suite does."""
        return self.base.average(predictions)  # type: ignore[arg-type]

    def stand_in(self) -> Self:
        """Of the suite's stand-in."""
        other = replace(self)
        vars(other)["base"] = self.base.stand_in()
        return other

    def sheet(self) -> Sheet:
        """The suite's."""
        return self.base.sheet()
