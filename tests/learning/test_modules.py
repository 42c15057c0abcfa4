"""Every row and column of docs/modules.md, held to a plain loop over torch's own layers that is differentiated twice.

BENCH_MODULES_TABLE names the page that is to be written (`tox -e modules`); then every network is compiled.
"""

import contextlib
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from algorithms.maml import MAML
from bench.certificate.checks import ORDER, gap
from bench.core.call import Keyed
from bench.core.errors import BenchError
from bench.core.gradients import OPERATORS
from bench.core.layers.dropout import uniform
from bench.core.task import SuiteTask
from bench.core.trees import part, tree_leaves
from bench.core.types import Episode, Params
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.planning.networks import why_by_task
from tests.conftest import ROOT
from tests.learning.networks import BY_TASK, NETWORKS, WORKS, Worn

RATE, TASKS = 0.05, 3
ENGINES = ("eager", "task by task", "compiled")
TABLE = os.environ.get("BENCH_MODULES_TABLE")
FIVE = ("BatchNorm1d", "Dropout", "GRU", "LSTM", "MultiheadAttention")
COMPILED = (*((name, "mixed") for name in FIVE), ("BatchNorm1d", "reverse"), ("GRU", "reverse"))
RUN = [name for name, network in NETWORKS.items() if network.expected in (WORKS, BY_TASK)]
REFUSED = [name for name in NETWORKS if name not in RUN]


@contextlib.contextmanager
def masks(key: Tensor) -> Iterator[None]:
    """torch's functions that draw, with the masks that a key stands for, in the order in which they are asked for."""
    count = itertools.count(1)

    def kept(shape: tuple[int, ...], p: float, dtype: torch.dtype) -> Tensor:
        return (uniform(key, next(count), shape) >= p).to(dtype)

    def dropout(x: Tensor, p: float, training: bool = True, inplace: bool = False, axes: int = 0) -> Tensor:
        shape = (*x.shape[: x.dim() - axes], *(1,) * axes)
        return x * kept(shape, p, x.dtype) / (1 - p) if p else x

    def alpha_dropout(x: Tensor, p: float, training: bool, inplace: bool = False, axes: int = 0) -> Tensor:
        alpha = -1.7580993408473766
        a = 1 / ((1 - p) * (1 + p * alpha**2)) ** 0.5
        mask = kept((*x.shape[: x.dim() - axes], *(1,) * axes), p, x.dtype)
        return a * (mask * x + (1 - mask) * alpha) - a * p * alpha

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, p: float = 0.0, is_causal: bool = False) -> Tensor:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if is_causal:
            scores = scores + torch.full(scores.shape[-2:], -math.inf).triu(1)
        return dropout(scores.softmax(-1), p) @ v

    # The second derivative of torch 2.13's own is wrong: torch.autograd.gradgradcheck says so.
    def weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
        return g * v / v.norm(2, [i for i in range(v.dim()) if i != dim], keepdim=True)

    replaced = {
        "dropout": dropout,
        "dropout1d": partial(dropout, axes=1),
        "dropout2d": partial(dropout, axes=2),
        "alpha_dropout": alpha_dropout,
        "feature_alpha_dropout": partial(alpha_dropout, axes=1),
        "scaled_dot_product_attention": attention,
    }
    older = sys.modules["torch.nn.utils.weight_norm"]
    with (
        mock.patch.multiple(nn.functional, **replaced),
        mock.patch.object(torch, "_weight_norm", weight_norm),
        mock.patch.object(older, "_weight_norm", weight_norm),
    ):
        yield


def plain_gradient(net: nn.Module, meta: Params, batch: Episode, steps: int, second: bool) -> list[Tensor]:
    """The meta-gradient of MAML by torch.autograd alone, task by task, through torch's own layers."""
    held = {name for name, p in net.named_parameters() if not p.requires_grad} | dict(net.named_buffers()).keys()
    live = {
        name: p.clone().requires_grad_(name not in held) if p.is_floating_point() else p for name, p in meta.items()
    }

    def loss(params: Params, data: Any) -> Tensor:
        pairs, key = (data.data, data.key) if isinstance(data, Keyed) else (data, torch.zeros((), dtype=torch.int64))
        with masks(key):
            output = functional_call(net, params, (pairs.x,))
        return (output - pairs.y).square().mean()

    total = torch.zeros((), dtype=torch.float64)
    for t in range(TASKS):
        params, episode = dict(live), part(Episode(batch.support, batch.query), t)
        moving = [name for name in params if name not in held]
        for k in range(steps):
            slopes = torch.autograd.grad(
                loss(params, episode.support[k]), [params[n] for n in moving], create_graph=second
            )
            params |= {name: params[name] - RATE * slope for name, slope in zip(moving, slopes, strict=True)}
        total = total + loss(params, episode.query) / TASKS
    found = torch.autograd.grad(total, [live[name] for name in moving])
    by_name = dict(zip(moving, found, strict=True))
    return [total, *(by_name.get(name, torch.zeros_like(p)) for name, p in live.items())]


def distance(name: str, operator: str, engine: str) -> float:
    suite, steps = Worn(net=name), 2
    algorithm = MAML(inner_lr=RATE, steps=steps, outer_lr=0.1, meta_batch=TASKS, gradient=operator)  # type: ignore[arg-type]
    meta = algorithm.init(SuiteTask(suite), torch.Generator().manual_seed(3))
    batch = next(episodes(suite, algorithm, lambda: meta, 0, 0))
    ways = {"eager": {}, "compiled": {"compiled": True}, "task by task": {"by_task": True}}
    value, gradient = meta_gradient(suite, algorithm, **ways[engine])(meta, batch)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        net = suite.module().double()
    expected = plain_gradient(net, meta, batch, steps, OPERATORS[operator].exact)
    return gap([value, *tree_leaves(gradient)], expected)


Verdict = Callable[[str, str, str, str], None]


@pytest.fixture(scope="module", autouse=True)
def written(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if TABLE:
        write_table(Path(TABLE), request.config.cache)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Verdict:
    """What a cell of the table came to is kept in pytest's cache, so that the table can be filled in pieces."""
    return lambda name, operator, engine, verdict: request.config.cache.set(_key(name, operator, engine), verdict)


def _key(name: str, operator: str, engine: str) -> str:
    return "modules/" + re.sub(r"\W+", "-", f"{name} {operator} {engine}")


@pytest.mark.parametrize(
    ("name", "operator", "engine"),
    [
        pytest.param(*case, marks=pytest.mark.forms(0) if case[2] == "task by task" and case[1] != "mixed" else ())
        for case in itertools.product(RUN, OPERATORS, ENGINES[:2])
    ],
)
def test_a_network_has_the_meta_gradient_of_a_plain_loop(name: str, operator: str, engine: str, tell: Verdict) -> None:
    if engine == "eager" and NETWORKS[name].expected == BY_TASK:
        tell(name, operator, engine, BY_TASK)
        tell(name, operator, "compiled", BY_TASK)
        with pytest.raises(RuntimeError, match="vmap"):
            distance(name, operator, engine)
        return
    tell(name, operator, engine, "fails")
    assert distance(name, operator, engine) < ORDER
    tell(name, operator, engine, WORKS)


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "operator"),
    [
        (name, operator)
        for name, operator in itertools.product(RUN, OPERATORS)
        if NETWORKS[name].expected == WORKS and (TABLE or (name, operator) in COMPILED)
    ],
)
def test_a_network_compiled_has_the_meta_gradient_of_a_plain_loop(name: str, operator: str, tell: Verdict) -> None:
    tell(name, operator, "compiled", "fails")
    assert distance(name, operator, "compiled") < ORDER
    tell(name, operator, "compiled", WORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_planning_knows_how_a_network_is_run_or_why_it_is_not(name: str, tell: Verdict) -> None:
    suite, expected = Worn(net=name), NETWORKS[name].expected
    algorithm = MAML(inner_lr=RATE, steps=1, outer_lr=0.1, meta_batch=TASKS)
    if name in REFUSED:
        with pytest.raises(BenchError, match=expected):
            why_by_task(suite, algorithm)
        for operator, engine in itertools.product(OPERATORS, ENGINES):
            tell(name, operator, engine, "refused")
        return
    why = why_by_task(suite, algorithm)
    assert bool(why) == (expected == BY_TASK)
    assert "Depends" in why or expected == WORKS


def test_the_page_has_a_row_for_every_network() -> None:
    page = (ROOT / "docs" / "modules.md").read_text()
    rows = re.search(r"<!-- modules -->\n(.*?)<!-- /modules -->", page, re.S)
    assert rows
    names = [line.split("|")[1].strip() for line in rows[1].splitlines()[2:]]
    assert names == list(NETWORKS)
    for line, (name, network) in zip(rows[1].splitlines()[2:], NETWORKS.items(), strict=True):
        eager = line.split("|")[2].strip()
        assert eager == ("refused" if name in REFUSED else network.expected), name


def test_torchs_own_second_derivatives_are_wrong_where_ours_are_written_out() -> None:
    """Where this fails, torch has been mended: docs/modules.md is to say so, and less need be written out."""
    torch.manual_seed(0)
    v, g = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 1, dtype=torch.float64)
    moving = (v.requires_grad_(), g.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, g: torch._weight_norm(v, g, 0).sin(), moving)
    assert not torch.autograd.gradgradcheck(
        lambda v, g: torch._weight_norm(v, g, 0).sin(), moving, raise_exception=False
    )
    x, weights = torch.randn(3, 6, 8, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(8, dtype=torch.float64, requires_grad=True)

    def loss(weights: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x @ weights, (8,), scale).sin().square().mean()

    def task(x: Tensor) -> Tensor:
        slopes = torch.func.grad(loss, (0, 1))(weights, scale, x)
        return loss(weights - 0.5 * slopes[0], scale - 0.5 * slopes[1], x)

    (together,) = torch.autograd.grad(torch.func.vmap(task)(x).sum(), weights)
    (alone,) = torch.autograd.grad(task(x[0]) + task(x[1]) + task(x[2]), weights)
    assert gap([together], [alone]) > 1e-4


def write_table(path: Path, cache: pytest.Cache) -> None:
    """A row for each network: what all three operators come to, in each engine."""
    rows = []
    for name, network in NETWORKS.items():
        cells = []
        for engine in ENGINES:
            found = {o: cache.get(_key(name, o, engine), "not tried") for o in OPERATORS}
            alike = len(set(found.values())) == 1
            cells.append(next(iter(found.values())) if alike else ", ".join(f"{k}: {v}" for k, v in found.items()))
        why = network.note if name in RUN else f"“{network.expected}”"
        rows.append(f"| {name} | {' | '.join(cells)} | {why} |")
    head = ["| network | eager | one task after the other | compiled | |", "|---|---|---|---|---|"]
    text = path.read_text(encoding="utf-8")
    table = "\n".join([*head, *rows])
    made = re.sub(r"(?<=<!-- modules -->\n).*?(?=<!-- /modules -->)", lambda _: f"{table}\n", text, flags=re.S)
    path.write_text(made, encoding="utf-8")
