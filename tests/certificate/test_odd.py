"""What is unusual and sound is not called faulty."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from algorithms.maml import MAML
from bench.certificate.beds import Curved
from bench.certificate.suites import suite_checks
from bench.core.gradients import descend, gradient
from bench.core.trees import tree_map
from bench.core.types import Data, Kind, Meta, Normal, Params, Prediction, State, Suite, Task
from bench.testing import check_algorithm, check_suite
from tests.core.test_types import Sentences, Several


@dataclass(frozen=True, kw_only=True)
class Holds(MAML):
    """MAML at a rate that is learned, beside a count, a flag and nothing."""

    learn2learn: ClassVar[str] = ""

    def init(self, task: Task, generator: Generator) -> Meta:
        """All of it."""
        return {
            "net": task.new_params(generator),
            "rate": torch.tensor(self.inner_lr),
            "count": torch.arange(3),
            "flag": torch.tensor(True),
            "nothing": {},
        }

    def start(self, meta: Meta, noise: Data) -> State:
        """The network's."""
        return meta["net"]

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """MAML's."""
        return descend(state, gradient(self.gradient, task)(state, data), meta["rate"])


def test_a_learner_that_holds_whole_numbers() -> None:
    assert any(check.verdict == "pass" for check in check_algorithm(Holds))


@dataclass(frozen=True, kw_only=True)
class Sure(MAML):
    """MAML that is equally sure of everything that it predicts."""

    learn2learn: ClassVar[str] = ""
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression"})

    def predict(self, meta: Params, state: Params, task: Task, data: Data) -> Prediction:
        """A normal about the network's."""
        mean = task.predict(state, data)
        assert isinstance(mean, Tensor)
        return Normal(mean, torch.full_like(mean, 0.5))


def test_a_learner_of_gradients_that_says_how_sure_it_is() -> None:
    closed = "quadratic task: (I − αA)ᴷ ∇L(θ_K)"
    verdicts = {check.name: check.verdict for check in check_algorithm(Sure)}
    assert verdicts[closed] == "n/a: it does not predict by θ alone"


class Turned(nn.Module):
    """Has a constant that is complex."""

    turn: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.tensor([[0.6 + 0.8j, 0.3j]]))
        self.out = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Of sizes."""
        answer: Tensor = self.out((x.to(self.turn.dtype) @ self.turn + 1).abs())
        return answer


@dataclass(frozen=True, kw_only=True)
class Complex(Curved):
    """A network with it."""

    def module(self) -> nn.Module:
        """Its own."""
        return Turned()

    def sample(self, *given: Any) -> Any:
        """In float32."""
        return tree_map(Tensor.float, super().sample(*given))

    def new_params(self, generator: Generator) -> Params:
        """In float32."""
        return Suite.new_params(self, generator)


def test_suites_of_words_of_several_labels_and_of_complex_constants() -> None:
    check_suite(Sentences())
    check_suite(Several())
    vectorised = next(suite_checks(Complex(), "complex"))
    assert vectorised.verdict == "pass", vectorised
