"""What a network is run with besides its parameters and its input: a key of what it draws, statistics, who records."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Keyed(NamedTuple):
    """Data with the key of what is random while a module is run on them."""

    data: Any
    key: Tensor  # int64, []


class Statistics(NamedTuple):
    """Of a layer's batch."""

    mean: Tensor  # [C]
    variance: Tensor  # [C], unbiased


@dataclass
class Call:
    """What a module is run with besides its parameters and its input."""

    key: Tensor | None = None  # None: nothing is dropped
    running: dict[str, Tensor] = field(default_factory=dict)  # statistics that take the batch's place
    dropped: int = 0  # draws so far


NO_CALL = Call()
_call: ContextVar[Call | None] = ContextVar("_call", default=None)
_seen: ContextVar[tuple[dict[str, Statistics], int | None] | None] = ContextVar("_seen", default=None)


@contextmanager
def calling(key: Tensor | None = None, running: dict[str, Tensor] | None = None) -> Iterator[Call]:
    """Inside, prepared modules draw from `key`, and normalise by `running` (`layer.running_mean`, ...) where it is."""
    call = Call(key, running or {})
    token = _call.set(call)
    try:
        yield call
    finally:
        _call.reset(token)


@contextmanager
def recording() -> Iterator[dict[str, Statistics]]:
    """Inside, the statistics of each batch-normalised layer's last pass, but for passes whose gradient is taken."""
    found: dict[str, Statistics] = {}
    token = _seen.set((found, _level()))
    try:
        yield found
    finally:
        _seen.reset(token)


def present() -> Call:
    """What the module that is being run is run with."""
    return _call.get() or NO_CALL


def record(place: str, statistics: Statistics) -> None:
    """Tells whoever records of a layer's batch, unless a gradient is taken of this pass."""
    recorder = _seen.get()
    if recorder is not None and recorder[1] == _level():
        recorder[0][place] = statistics


def _level() -> int | None:
    level: int | None = torch._C._functorch.maybe_current_level()
    return level


def statistic(place: Any, which: str) -> str:
    """The name of a running statistic, "mean" or "var", of the layer of a name."""
    return f"{place}.running_{which}".lstrip(".")
