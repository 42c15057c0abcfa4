"""Against other libraries for torch: MAML's second-order meta-gradient, written as each library's documentation shows.

`tox -e peers` installs them. Every one must first agree with ours.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import higher
import pytest
import torch
import torchopt
from metalearn.algorithms.MAML import MAML as ParallelMAML
from metalearn.inner_optimizers.optimizers import InnerSGD
from metalearn.loss.base import BaseLoss
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn import functional

from algorithms.maml import MAML
from bench.core.trees import tree_map
from bench.core.types import Episode, Meta, Suite
from bench.learning.engines import vectorised
from suites.omniglot import Omniglot
from suites.sinusoid import Sinusoid
from tests.benchmarks.test_speed import ROUNDS, in_alternation, inputs, maml, report

Gradient = Callable[[], tuple[float, dict[str, Tensor]]]
TASKS = {Sinusoid: 25, Omniglot: 32}
WORK = {Sinusoid: "sinusoid, 25 tasks, K=10", Omniglot: "Omniglot 5-way 1-shot, 32 tasks"}


def loss(suite: Suite, outputs: Tensor, data: Any) -> Tensor:
    if isinstance(suite, Sinusoid):
        return functional.mse_loss(outputs, data.y)
    return functional.cross_entropy(outputs, data.labels)


def by_higher(suite: Suite, algorithm: MAML, net: nn.Module, batch: Episode) -> Gradient:
    tasks = [tree_map(lambda leaf, i=i: leaf[i], batch) for i in range(algorithm.meta_batch)]
    adapted = [p for name, p in net.named_parameters() if suite.adaptable(name)]

    def gradient() -> tuple[float, dict[str, Tensor]]:
        net.zero_grad()
        total = 0.0
        for task in tasks:
            inner = torch.optim.SGD(adapted, algorithm.inner_lr)
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, optimiser):
                for _ in range(algorithm.steps):
                    optimiser.step(loss(suite, fast(task.support[0][0]), task.support[0]))
                value = loss(suite, fast(task.query[0]), task.query) / len(tasks)
                value.backward()
            total += value.item()
        return total, {name: p.grad for name, p in net.named_parameters()}

    return gradient


def by_torchopt(suite: Suite, algorithm: MAML, net: nn.Module, batch: Episode) -> Gradient:
    inner = torchopt.sgd(algorithm.inner_lr)

    def fit(params: Meta, data: Any) -> Tensor:
        return loss(suite, functional_call(net, params, (data[0],)), data)

    def task(params: Meta, episode: Episode) -> Tensor:
        state = inner.init(params)
        for _ in range(algorithm.steps):
            g = grad(fit)(params, episode.support[0])
            g = {name: x if suite.adaptable(name) else torch.zeros_like(x) for name, x in g.items()}
            updates, state = inner.update(g, state, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return fit(params, episode.query)

    total = grad_and_value(lambda params: vmap(task, (None, 0))(params, batch).mean())
    params = {name: p.detach() for name, p in net.named_parameters()}

    def gradient() -> tuple[float, dict[str, Tensor]]:
        gradients, value = total(params)
        return value.item(), gradients

    return gradient


class Wrapped(nn.Module):
    """As parallel-metalearn wants its models."""

    def __init__(self, suite: Suite, net: nn.Module) -> None:
        super().__init__()
        self.net, self.suite = net, suite

    def forward(self, x: Tensor, **_: Any) -> dict[str, Any]:
        return {"logits": self.net(x), "buffers": {}}

    def get_fast_weights(self) -> OrderedDict[str, Tensor]:
        named = self.named_parameters()
        return OrderedDict((n, p) for n, p in named if self.suite.adaptable(n.removeprefix("net.")))


class Fit(BaseLoss):  # type: ignore[misc]
    """As parallel-metalearn wants its losses."""

    def __init__(self, suite: Suite) -> None:
        super().__init__()
        self.suite = suite

    def forward(self, out_dict: Any, targets: Any, model_states: Any = None, **_: Any) -> tuple[Tensor, Tensor]:
        if isinstance(self.suite, Sinusoid):
            value = functional.mse_loss(out_dict["logits"], targets["labels"])
        else:
            value = functional.cross_entropy(out_dict["logits"], targets["labels"])
        return value, value.detach()


def by_parallel_metalearn(suite: Suite, algorithm: MAML, net: nn.Module, batch: Episode) -> Gradient:
    model = Wrapped(suite, net)
    inner = InnerSGD(model.get_fast_weights(), inner_lr=algorithm.inner_lr, learn_lr=False)
    outer = torch.optim.SGD(model.parameters(), 0.0)
    learner = ParallelMAML(
        model=model, optimizer=outer, inner_optimizer=inner, support_loss_fn=Fit(suite), inner_steps=algorithm.steps
    )
    support, query = batch.support[0], batch.query
    tasks = (support[0], {"labels": support[1]}, query[0], {"labels": query[1]})

    def again() -> Iterator[Any]:
        while True:
            yield tasks

    batches = again()

    def gradient() -> tuple[float, dict[str, Tensor]]:
        value, _ = learner.step(batches)
        return value, {name: p.grad for name, p in net.named_parameters()}

    return gradient


LIBRARIES = {"higher": by_higher, "TorchOpt": by_torchopt, "parallel-metalearn": by_parallel_metalearn}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("made", "steps"), [(Sinusoid, 1), (Sinusoid, 5), (Omniglot, 1)])
def test_against(benchmark: Any, made: Any, steps: int, library: str) -> None:
    suite = made().stand_in()
    algorithm = maml(suite, "reverse", steps, TASKS[made])
    meta, batch = inputs(suite, algorithm)
    net = suite.module()
    net.load_state_dict(meta)
    theirs = LIBRARIES[library](suite, algorithm, net, batch)
    ours = vectorised.meta_gradient(suite, algorithm, compiled=True)
    (value, expected), (their_value, found) = ours(meta, batch), theirs()
    assert their_value == pytest.approx(value.item(), rel=1e-3)
    distance = sum(float((found[k] - v).square().sum()) for k, v in expected.items())
    assert distance < 1e-4 * sum(float(v.square().sum()) for v in expected.values())
    mine, other = in_alternation(benchmark, lambda: ours(meta, batch), theirs, ROUNDS, 5 if made is Sinusoid else 1)
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    said = f"{WORK[made]}, {steps} step{'s' * (steps > 1)}, 2nd order (compiled)"
    report(benchmark, said, library, "(for comparison)", ratios)
