"""The reference engine: learn2learn 0.2.0's own wrappers, one task after the other as in its examples.

It shares the suite with our engine and nothing of the algorithm, so that where the two agree, neither is wrong alone.
Arnold et al. 2020 (arXiv:2008.12284). Letters: T tasks, K inner steps.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import PathFinder
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.trees import to, tree_flatten, tree_leaves, tree_map, tree_unflatten
from bench.core.types import Data, Episode, Learner, Meta, Params, Suite
from bench.learning.engines.vectorised import MetaGradient
from bench.learning.evaluate import CHUNK

INSTALL = "pip install --no-deps -r requirements/learn2learn.txt"


def meta_gradient(suite: Suite, algorithm: Learner) -> MetaGradient:
    """(meta, episodes [T, ...]) -> mean loss and its gradient, of meta's structure.

    Args:
        suite: whose loss is taken.
        algorithm: which names the wrapper and gives its rate.
    """
    library, model = load(), _Model(suite)

    def mean(meta: Meta, episodes: Episode) -> tuple[Tensor, Meta]:
        wrapper, live = _wrap(library, model, algorithm, meta)
        tasks = list(_each((episodes.support, episodes.query)))
        losses = []
        with torch.enable_grad():
            for support, query in tasks:
                learner = wrapper.clone()
                for data in support:
                    learner.adapt(_loss(suite, learner, data))
                loss = _loss(suite, learner, query) / len(tasks)
                loss.backward()
                losses.append(loss.detach())
        gradients = tree_map(lambda leaf: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, live)
        return torch.stack(losses).sum(), gradients

    return mean


def wrapper(algorithm: Learner) -> str:
    """The name of the wrapper that is a method; none where inner gradients are clipped, which no wrapper does."""
    return "" if getattr(algorithm, "inner_clip", None) is not None else algorithm.learn2learn


def trace(
    suite: Suite, algorithm: Learner, meta: Meta, tasks: Any, steps: int, device: str = "cpu"
) -> dict[str, Tensor]:
    """Metric -> [T, K + 1]: the scores before and after each of `steps` inner steps, as ours has them."""
    wrapper, _ = _wrap(load(), _Model(suite), algorithm, meta)
    generator = seeds.generator("evaluate", suite.setting)

    def score(learner: Any, query: Data) -> dict[str, Tensor]:
        with torch.no_grad():
            return suite.score(learner(query), query)

    rows = []
    for i in range(0, len(tree_leaves(tasks)[0]), CHUNK):
        some = tree_map(lambda x, i=i: x[i : i + CHUNK], tasks)
        both = tuple(to(suite.collect(some, meta, role, 0, generator), device) for role in ("support", "query"))
        for support, query in _each(both):
            with torch.enable_grad():
                learner = wrapper.clone()
                scores = [score(learner, query)]
                for _ in range(steps):
                    # The same step without the graph that only a meta-gradient needs.
                    learner.adapt(_loss(suite, learner, support), first_order=True)
                    scores.append(score(learner, query))
            rows.append({name: torch.stack([s[name] for s in scores]) for name in scores[0]})
    return {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}


def shim() -> tuple[str, ...]:
    """Lets torchvision be imported where its compiled part does not load; the operators that it declares to that end.

    On PyPI that part is built for CUDA. Beside another torch it does not load; torchvision passes over that in silence,
    only to stop at operators that exist nowhere then. learn2learn calls none of them: declaring them is enough.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None:
        return ()
    compiled = PathFinder.find_spec("_C", found.submodule_search_locations)
    if compiled and compiled.origin:
        with contextlib.suppress(OSError):
            torch.ops.load_library(compiled.origin)
    missing = tuple(name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name))
    for name in missing:
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return missing


class _Model(nn.Module):
    """The suite's model as learn2learn expects one: whatever is among its parameters is adapted."""

    def __init__(self, suite: Suite) -> None:
        super().__init__()
        self.suite = _by_module(suite)
        with torch.random.fork_rng(devices=[]):
            self.net = suite.module()
        first: dict[int, str] = {}  # a tensor that two layers share has the first one's name
        self.places: list[tuple[str, dict[str, Any], str]] = []
        for name, shared in list(self.net.named_parameters(remove_duplicate=False)):
            canonical = first.setdefault(id(shared), name)
            path, _, own = name.rpartition(".")
            module = self.net.get_submodule(path)
            place: dict[str, Any] = module._parameters
            if not suite.adaptable(canonical):
                module._parameters.pop(own, None)
                place = module.__dict__  # an attribute like any other
            self.places.append((canonical, place, own))

    def load(self, params: Params) -> None:
        """Runs with these tensors from here on, not with copies."""
        for name, place, own in self.places:
            place[own] = params[name]

    def params(self) -> "_Params":
        return _Params(self.net, {name: attrgetter(name)(self.net) for name, _, _ in self.places})

    def forward(self, data: Data) -> Tensor:
        return self.suite.predict(self.params(), data)


class _Params(Params):
    """Parameters together with the module that has them."""

    def __init__(self, net: nn.Module, values: Params) -> None:
        super().__init__(values)
        self.net = net


def _by_module(suite: Suite) -> Suite:
    """The suite, but it runs a learner's module as it stands.

    functional_call, which our engine pays for once for all tasks, here would double the time of a small network.
    """

    def call(params: Params, *inputs: Any) -> Tensor:
        output: Tensor = params.net(*inputs) if isinstance(params, _Params) else suite.call(params, *inputs)
        return output

    view = copy.copy(suite)
    object.__setattr__(view, "call", call)  # the suite is frozen
    return view


def _wrap(library: Any, model: _Model, algorithm: Any, meta: Meta) -> tuple[Any, Meta]:
    """The wrapper around a model with meta's values, and the leaves that collect its gradients, of meta's structure."""
    live = tree_map(lambda leaf: nn.Parameter(leaf.detach()), meta)
    first_order = not algorithm.second_order
    if algorithm.learn2learn == "MAML":
        model.load(live)
        # A parameter on which the support's loss does not depend stays, as with us; by default it is an error.
        wrapper = library.algorithms.MAML(model, algorithm.inner_lr, first_order=first_order, allow_unused=True)
    else:
        model.load(live["params"])
        rates = [live["rates"][name.removeprefix("net.")] for name, _ in model.named_parameters()]
        wrapper = library.algorithms.MetaSGD(model, first_order=first_order, lrs=rates)
    return wrapper, live


def _loss(suite: Suite, learner: Any, data: Data) -> Tensor:
    return suite.mean(suite.losses(learner(data), data), data)


def _each(batch: Data) -> Iterator[Data]:
    """The tasks of a pytree [T, ...], one by one."""
    leaves, spec = tree_flatten(batch)
    return (tree_unflatten(row, spec) for row in zip(*(leaf.unbind() for leaf in leaves), strict=True))


def load() -> Any:
    """The library, imported when it is first needed, since not everybody has it.

    Raises:
        BenchError: it, or something that it imports, is not installed.
    """
    if "learn2learn" not in sys.modules:
        shim()
    try:
        # gym complains about its age, on stderr and by warnings, as soon as it is imported.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module("learn2learn")
    except ImportError as error:
        raise BenchError(f"the engine learn2learn is not installed ({error}). Install it: {INSTALL}") from None
