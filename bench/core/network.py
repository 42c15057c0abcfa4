"""A learner's own network: an ordinary module, built from the task's shapes and run with Meta's values.

A module is named by the function (or class) that builds it and its arguments, such as `(nn.Linear, 3, 128)`; what it
computes depends on nothing but them and the values that it is given, so that it may be called under vmap and again.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from bench.core import modules
from bench.core.errors import BenchError
from bench.core.layers import Written
from bench.core.types import Params

Build = tuple[Any, ...]  # a function or class that makes a module, then its arguments, which can be hashed


def new_params(build: Build, generator: Generator) -> Params:
    """Freshly initialised parameters and buffers of the module, by name; the global generator is put back.

    Raises:
        BenchError: a layer drops at random, or keeps a state that no learner can hold.
    """
    _skeleton(build)  # now, since its own initial values are random, which vmap forbids
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        make: Callable[..., nn.Module] = build[0]
        return modules.values(make(*build[1:]))


def run(build: Build, params: Params, *inputs: Any) -> Tensor:
    """The module's output with these parameters."""
    with Written():
        output: Tensor = torch.func.functional_call(_skeleton(build), params, inputs)
    return output


@cache
def _skeleton(build: Build) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        make: Callable[..., nn.Module] = build[0]
        made = modules.prepared(make(*build[1:]), tracks=False)
    for name, layer in made.named_modules():
        drops = getattr(layer, "p", 0) if isinstance(layer, _DropoutNd) else getattr(layer, "dropout", 0)
        if isinstance(drops, float) and drops > 0:
            raise BenchError(
                f"the layer {name!r} of a learner's own network drops at random, which nothing here would repeat. Draw "
                "a mask in the learner's `noise` instead."
            )
    return made
