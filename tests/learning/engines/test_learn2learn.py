"""The reference engine: that ours and learn2learn, which share no line of an algorithm, find the same numbers."""

import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from algorithms.fomaml import FOMAML
from algorithms.maml import MAML
from algorithms.metasgd import MetaSGD
from bench.core.errors import BenchError
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves, tree_map
from bench.core.types import Episode, Learner, Meta, Split, Suite
from bench.learning import evaluate
from bench.learning.engines import learn2learn, vectorised
from suites.parts.fewshot import Classes, Images
from suites.parts.nets import Conv4
from suites.sinusoid import Sinusoid

ROOT = Path(__file__).parents[3]
TASKS = 4
OUTER: dict[str, Any] = {"outer_lr": 0.001, "meta_batch": TASKS}


@dataclass(frozen=True, kw_only=True)
class Noise(Images):
    """Eight classes of random pixels, looked up in float64, and a network of few filters."""

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        return np.random.default_rng(0).integers(256, size=(8, 20, 28, 28), dtype=np.uint8)

    def classes_of(self, split: Split) -> Tensor:
        return torch.arange(8)

    def network(self, outputs: int) -> nn.Module:
        return Conv4(outputs, filters=8)

    def images(self, tasks: Classes, drawings: Tensor) -> Tensor:
        return super().images(tasks, drawings).double()


SUITES: dict[str, Suite] = {
    "sinusoid": Sinusoid(shots=5),
    "images": Noise(ways=3, shots=2),
    "images-inductive": Noise(ways=3, norm="inductive"),
}
ALGORITHMS: dict[str, Learner] = {
    "maml-1": MAML(inner_lr=0.1, steps=1, **OUTER),
    "maml-3": MAML(inner_lr=0.1, steps=3, **OUTER),
    "fomaml-1": FOMAML(inner_lr=0.1, steps=1, **OUTER),
    "fomaml-3": FOMAML(inner_lr=0.1, steps=3, **OUTER),
    "metasgd-1": MetaSGD(steps=1, **OUTER),
    "metasgd-3": MetaSGD(steps=3, **OUTER),
}


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> Suite:
    return SUITES[request.param]


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> Learner:
    return ALGORITHMS[request.param]


def double(tree: Any) -> Any:
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, tree)


def meta_of(suite: Suite, algorithm: Learner) -> Meta:
    """Values that differ everywhere, the shifts and the rates as well, which begin alike."""
    generator = Generator().manual_seed(1)
    meta = double(algorithm.init(SuiteTask(suite), generator))
    return tree_map(lambda x: x + 0.02 * torch.rand(x.shape, generator=generator, dtype=x.dtype), meta)


def tasks_of(suite: Suite, count: int = TASKS) -> Any:
    return double(suite.sample(count, "train", Generator().manual_seed(2)))


def episodes_of(suite: Suite, algorithm: Learner, meta: Meta) -> Episode:
    support, query = (suite.collect(tasks_of(suite), meta, role, 0, Generator()) for role in ("support", "query"))
    return Episode((support,) * algorithm.steps, query)


def assert_same(ours: Any, theirs: Any) -> None:
    """To 1e-10 of each value, or of the largest, since what is 0 in theory (a bias before a norm) is noise."""
    assert isinstance(theirs, type(ours))
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
    scale = max(leaf.abs().max().item() for leaf in tree_leaves(ours))
    assert scale > 0
    for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert a.dtype == b.dtype == torch.float64
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10 * scale)


def test_meta_gradient_is_ours(suite: Suite, algorithm: Learner) -> None:
    meta = meta_of(suite, algorithm)
    episodes = episodes_of(suite, algorithm, meta)
    loss, gradient = vectorised.meta_gradient(suite, algorithm)(meta, episodes)
    their_loss, their_gradient = learn2learn.meta_gradient(suite, algorithm)(meta, episodes)
    assert_same(loss, their_loss)
    assert_same(gradient, their_gradient)


@pytest.mark.parametrize("name", ["maml-3", "fomaml-3", "metasgd-3"])
def test_parameters_that_do_not_adapt_are_meta_learned_alike(name: str) -> None:
    suite, algorithm = SUITES["images"], ALGORITHMS[name]
    meta = meta_of(suite, algorithm)
    episodes = episodes_of(suite, algorithm, meta)
    results = [engine.meta_gradient(suite, algorithm)(meta, episodes)[1] for engine in (vectorised, learn2learn)]
    ours, theirs = (gradient.get("params", gradient) for gradient in results)
    fixed = [key for key in ours if not suite.adaptable(key)]
    assert fixed
    for key in fixed:
        assert ours[key].norm() > 1e-6
        assert_same(ours[key], theirs[key])
        assert name != "metasgd-3" or not results[1]["rates"][key].any()


def test_adapted_parameters_are_ours(suite: Suite, algorithm: Learner) -> None:
    meta = meta_of(suite, algorithm)
    support = tree_map(lambda x: x[0], episodes_of(suite, algorithm, meta).support)
    state = algorithm.start(meta, ())
    for k, data in enumerate(support):
        state = algorithm.step(meta, state, SuiteTask(suite), data, k)
    wrapper, _ = learn2learn._wrap(learn2learn.load(), learn2learn._Model(suite), algorithm, meta)
    learner = wrapper.clone()
    for data in support:
        learner.adapt(learn2learn._loss(suite, learner, data))
    assert_same(state, tree_map(Tensor.detach, dict(learner.module.params())))
    unchanged = {key for key, before in meta.get("params", meta).items() if torch.equal(state[key], before)}
    assert unchanged >= {key for key in state if not suite.adaptable(key)}
    assert len(unchanged) < len(state)


def test_trace_is_ours(suite: Suite, algorithm: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (evaluate, learn2learn):
        monkeypatch.setattr(module, "CHUNK", 3)  # of 4 tasks
    meta = meta_of(suite, algorithm)
    ours = evaluate.trace(suite, algorithm, meta, tasks_of(suite), 5)
    theirs = learn2learn.trace(suite, algorithm, meta, tasks_of(suite), 5)
    assert list(ours) == list(theirs)
    for name, scores in ours.items():
        assert scores.shape == (TASKS, 6)
        assert_same(scores, theirs[name])
        assert not theirs[name].requires_grad


def test_same_bits_and_nothing_changed(suite: Suite, algorithm: Learner) -> None:
    meta = meta_of(suite, algorithm)
    episodes = episodes_of(suite, algorithm, meta)
    before = tree_map(torch.clone, (meta, episodes))
    run = learn2learn.meta_gradient(suite, algorithm)
    first, second = run(meta, episodes), run(meta, episodes)
    traces = [learn2learn.trace(suite, algorithm, meta, tasks_of(suite), 2) for _ in range(2)]
    for a, b in ((first, second), traces, (before, (meta, episodes))):
        for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
            assert torch.equal(x, y)
    assert not any(x.requires_grad for x in tree_leaves((meta, first)))


def test_gradient_follows_meta() -> None:
    """Another meta, of another precision even, is not answered from the values of the call before."""
    suite, algorithm = SUITES["sinusoid"], ALGORITHMS["maml-1"]
    meta = meta_of(suite, algorithm)
    episodes = episodes_of(suite, algorithm, meta)
    run = learn2learn.meta_gradient(suite, algorithm)
    run(*tree_map(Tensor.float, (meta, episodes)))
    with torch.no_grad():  # as an optimiser changes it: in place
        tree_map(lambda x: x.mul_(2), meta)
        result = run(meta, episodes)
    assert_same(vectorised.meta_gradient(suite, algorithm)(meta, episodes), result)


class Folded(nn.Module):
    """Two layers are one, and two more share a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.third = self.second
        self.fourth = nn.Linear(4, 4)
        self.fourth.bias = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third, self.fourth):
            x = torch.tanh(layer(x))
        output: Tensor = self.last(x)
        return output


@dataclass(frozen=True, kw_only=True)
class FoldedSinusoid(Sinusoid):
    frozen: str

    def module(self) -> nn.Module:
        return Folded()

    def adaptable(self, name: str) -> bool:
        return not name.startswith(self.frozen)


@pytest.mark.parametrize("frozen", ["last.", "second.", "first."])
def test_shared_weights_stay_shared(frozen: str) -> None:
    suite, algorithm = FoldedSinusoid(shots=5, frozen=frozen), ALGORITHMS["maml-3"]
    meta = meta_of(suite, algorithm)
    episodes = episodes_of(suite, algorithm, meta)
    ours, theirs = (engine.meta_gradient(suite, algorithm)(meta, episodes)[1] for engine in (vectorised, learn2learn))
    assert_same(ours, theirs)


def test_missing_library_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    suite, algorithm = SUITES["sinusoid"], ALGORITHMS["maml-1"]
    command = re.escape("pip install --no-deps -r requirements/learn2learn.txt")
    with pytest.raises(BenchError, match=command):
        learn2learn.meta_gradient(suite, algorithm)
    with pytest.raises(BenchError, match=command):
        learn2learn.trace(suite, algorithm, {}, (), 1)


def in_a_new_process(script: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


@pytest.mark.slow
def test_shim_leaves_a_torchvision_that_loads_alone() -> None:
    # The compiled part is played by other schemas, which would show if they were declared over.
    script = """
import sys, torch
from bench.learning.engines import learn2learn
def load(path):
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor its_own) -> Tensor")
torch.ops.load_library = load
assert learn2learn.shim() == ()
assert "its_own" in str(torch.ops.torchvision.nms.default._schema)
assert "learn2learn" not in sys.modules and "torchvision" not in sys.modules
"""
    in_a_new_process(script)


@pytest.mark.slow
def test_library_is_imported_in_silence_where_torchvision_does_not_load() -> None:
    script = """
import torch
from bench.learning.engines import learn2learn
def load(path):
    raise OSError("libcudart.so.13: cannot open shared object file")
torch.ops.load_library = load
assert learn2learn.shim() == ("nms", "qnms")
assert learn2learn.shim() == ()
print(learn2learn.load().__version__)
"""
    assert in_a_new_process(script).strip() == "0.2.0"
