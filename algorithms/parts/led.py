"""A learner that does everything as another does."""

from dataclasses import dataclass, fields
from typing import Any

from torch import Generator, Tensor

from bench.core.discovery import Catalogue, build, parse
from bench.core.errors import BenchError
from bench.core.outer import Outer
from bench.core.types import Data, Episode, Learner, Meta, Params, Prediction, State, Task


@dataclass(frozen=True, kw_only=True)
class Led(Learner):
    """Does what `led` does; subclasses say which learner that is, and where it is led."""

    @property
    def led(self) -> Learner:
        """The learner."""
        raise NotImplementedError

    @property
    def second_order(self) -> bool:
        """As the learner claims."""
        return self.led.second_order

    @property
    def outer(self) -> Outer:
        """The learner's."""
        return self.led.outer

    @property
    def made_of(self) -> tuple[type, ...]:
        """The learner's classes as well."""
        return (*super().made_of, *self.led.made_of)

    def at(self, iteration: int) -> Any:
        """The learner itself where it changes, as it is after so many meta-iterations."""
        now = self.led.at(iteration)
        return self if now == self.led else now

    def init(self, task: Task, generator: Generator) -> Meta:
        """As the learner does."""
        return self.led.init(task, generator)

    def adapts(self, task: Task, name: str) -> bool:
        """As the learner says."""
        return self.led.adapts(task, name)

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        """As the learner draws it."""
        return self.led.noise(shapes, count, generator)

    def start(self, meta: Meta, noise: Data) -> State:
        """As the learner does."""
        return self.led.start(meta, noise)

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """As the learner does."""
        return self.led.step(meta, state, task, data, k)

    def params(self, meta: Meta, state: State) -> Params:
        """As the learner has them."""
        return self.led.params(meta, state)

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        """As the learner does."""
        return self.led.predict(meta, state, task, data)

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        """The learner's."""
        return self.led.meta_loss(meta, task, episode)


def led_by_name(learner: str, passed: dict[str, Any], protocol: dict[str, Any]) -> Learner:
    """The learner that was typed.

    Raises:
        BenchError: it is none that can be led, or its brackets say something else than what is passed to it.
    """
    named, *others = parse(learner)
    if others:
        raise BenchError(f"learner={learner} is more than one. Give one, such as {named.name}.")
    cls: type[Learner] = Catalogue.within().load("algorithm", named.name)
    if cls.follows or not cls.trains or cls.train_view or cls.remembers:
        raise BenchError(f"{learner} can't be led along a stream: give one that is meta-trained on support and query.")
    has = {field.name for field in fields(cls)}
    known = {name: value for name, value in passed.items() if name in has}
    for name, value in passed.items():
        if name not in has and value != (its := getattr(cls, name, None)):
            fixed = "has none" if its is None else f"always has {its}"
            raise BenchError(f"{name}={value} means nothing to learner={learner}, which {fixed}. Leave it out.")
    led: Learner = build(cls, named.name, known | named.given, protocol)
    for name, value in known.items():
        if (its := getattr(led, name)) != value:
            raise BenchError(f"{name}={value} is not the {name}={its} of learner={learner}. Give it once.")
    return led
