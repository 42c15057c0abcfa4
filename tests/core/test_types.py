"""What a suite finds out about its own network and its own data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bench.certificate.beds import Curved, Halves, Pairs
from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.core.errors import PluginError
from bench.core.task import SuiteTask
from bench.core.types import Kind, Split, Suite
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.planning.plan import algorithm_of


class Out(nn.Module):
    """Its layers are built in another order than they are run; one is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.out, self.body, self.spare = nn.Linear(6, 1), nn.Linear(1, 6), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Body, then out."""
        answer: Tensor = self.out(torch.tanh(self.gain * self.body(x)))
        return answer


class Again(nn.Module):
    """Its last layer is run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Out of out."""
        answer: Tensor = self.out(torch.tanh(self.out(x)))
        return answer


def tied() -> nn.Module:
    """Its last layer has the weight of an earlier one."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1))
    net[2].weight = net[0].weight
    return net


def normed() -> nn.Module:
    """Its last layer's weight is parametrized."""
    return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), parametrizations.weight_norm(nn.Linear(6, 1)))


@dataclass(frozen=True, kw_only=True)
class Network(Curved):
    """The curved bed with a network of one's choice."""

    build: Callable[[], nn.Module] = Out

    def module(self) -> nn.Module:
        """The one that is built."""
        return self.build()


@pytest.mark.parametrize(
    ("build", "head"),
    [
        (Out, {"out.weight", "out.bias"}),
        (
            normed,
            {"2.bias", "2.parametrizations.weight.original0", "2.parametrizations.weight.original1"},
        ),
    ],
)
def test_the_head_is_the_layer_that_makes_the_prediction(build: Any, head: set[str]) -> None:
    task = SuiteTask(Network(build=build))
    params, data = task.new_params(seeds.generator(0)), task.example("query")
    assert task.head == head
    changed = {name: p + 0.3 if name in head else p for name, p in params.items()}
    torch.testing.assert_close(task.answer(changed, task.features(params, data)), task.predict(changed, data))


@pytest.mark.parametrize("build", [Again, tied])
def test_features_that_change_with_the_head_are_not_kept_while_it_changes(build: Any) -> None:
    task = SuiteTask(Network(build=build))
    params = task.new_params(seeds.generator(0))
    with pytest.raises(PluginError, match="before that layer as well"):
        task.answer(params, task.features(params, task.example("query")))


class Words(nn.Module):
    """Means of embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3]."""
        return torch.log_softmax(self.out(torch.tanh(self.words(x)).mean(-2)), -1)


@dataclass(frozen=True, kw_only=True)
class Sentences(Curved):
    """Sentences of whole numbers, of three classes."""

    kind: ClassVar[Kind] = "classification"
    floor: ClassVar[float] = math.log(3)

    def module(self) -> nn.Module:
        """Of words."""
        return Words()

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Halves:
        """At random."""
        x = torch.randint(9, (count, 6, 5), generator=generator)
        y = (torch.arange(6) % 3).expand(count, -1)
        return Halves(Pairs(x, y), Pairs(x.flip(1), y.flip(1)))

    def losses(self, prediction: Tensor, data: Pairs) -> Tensor:
        """Cross-entropies."""
        return -prediction.gather(1, data.y.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("name", ["maml", "anil", "protonet"])
def test_data_may_be_whole_numbers_alone(name: str) -> None:
    suite = Sentences()
    learner = algorithm_of(Catalogue(), Named(name, {}), suite)
    meta = learner.init(SuiteTask(suite), seeds.generator(0))
    loss, gradient = meta_gradient(suite, learner)(meta, next(episodes(suite, learner, lambda: meta, 0, 0)))
    assert loss.isfinite()
    assert gradient["words.weight"].abs().sum() > 0


@dataclass(frozen=True, kw_only=True)
class Several(Sentences):
    """Each sentence has several labels, or none."""

    kind = Suite.kind  # as it is by default
    floor: ClassVar[float] = 0.75

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Halves:
        """At random."""
        x = torch.randint(9, (count, 6, 5), generator=generator)
        y = torch.randint(2, (count, 6, 3), generator=generator)
        return Halves(Pairs(x, y), Pairs(x, y))

    def losses(self, prediction: Tensor, data: Pairs) -> Tensor:
        """Squared errors."""
        return (prediction - data.y).square().sum(-1)


def test_several_labels_for_an_example_are_no_class() -> None:
    assert SuiteTask(Several()).kind == "regression"
