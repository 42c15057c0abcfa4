"""The certificate passes what is sound and finds faults planted in what is not."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from algorithms.maml import MAML
from bench.certificate.algorithms import algorithm_checks, compiled_check
from bench.certificate.beds import Curved
from bench.certificate.checks import Check
from bench.certificate.suites import suite_checks
from bench.core.discovery import Catalogue
from bench.core.gradients import descend
from bench.core.types import Data, Params, Task
from bench.planning.plan import Named, algorithm_of, suite_of
from bench.testing import check_algorithm, check_suite
from suites.glyphs import Glyphs
from suites.parts.fewshot import Labelled
from tests.probes.bmaml import BMAML
from tests.probes.mtnet import MTNet

ALGORITHMS = list(Catalogue().names("algorithm"))


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_is_certified(name: str) -> None:
    catalogue = Catalogue()
    checks = list(algorithm_checks(lambda bed: algorithm_of(catalogue, Named(name, {}), bed)))
    assert not [check for check in checks if check.verdict == "FAULT"]
    assert sum(check.verdict == "pass" for check in checks) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["reverse", "mixed", "first_order"])
@pytest.mark.parametrize("name", ["maml", "metasgd"])
def test_every_operator_is_certified(name: str, operator: str) -> None:
    catalogue = Catalogue()
    named = Named(name, {"gradient": operator, "steps": "3"})
    checks = list(algorithm_checks(lambda bed: algorithm_of(catalogue, named, bed)))
    assert not [check for check in checks if check.verdict == "FAULT"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_compiler_leaves_every_operator_as_it_was() -> None:
    check = compiled_check(lambda bed: algorithm_of(Catalogue(), Named("metasgd", {}), bed))
    assert check.verdict == "pass", check


def test_the_whole_certificate_applies_to_maml() -> None:
    catalogue = Catalogue()
    checks = list(algorithm_checks(lambda bed: algorithm_of(catalogue, Named("maml", {}), bed)))
    assert set(verdicts(checks).values()) == {"pass"}


@pytest.mark.parametrize(
    "name", ["glyphs", "sinusoid", "sinusoid_freq", "sinusoid_freq[family=bmaml]", "glyphs[net=fc]"]
)
def test_every_suite_that_needs_no_download_is_certified(name: str) -> None:
    stem, _, rest = name.partition("[")
    given = dict([rest.rstrip("]").split("=")]) if rest else {}
    check_suite(suite_of(Catalogue(), Named(stem, given)))


@pytest.mark.parametrize("probe", [BMAML, MTNet])
def test_the_types_carry_particles_and_per_task_masks(probe: type) -> None:
    checks = check_algorithm(probe)
    assert verdicts(checks)["vmap = loop over tasks"] == "pass"


@dataclass(frozen=True, kw_only=True)
class Posing(MAML):
    """First order, though it claims second."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        slopes = torch.func.grad(lambda p: task.loss(p, data))(state)
        return descend(state, {name: g.detach() for name, g in slopes.items()}, self.inner_lr)


@dataclass(frozen=True, kw_only=True)
class Leaking(MAML):
    """Starts where the last task ended."""

    last: ClassVar[list[Params]] = []

    def start(self, meta: Params, noise: Data) -> Params:
        return self.last[-1] if self.last else meta

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        adapted = super().step(meta, state, task, data, k)
        if not any(torch._C._functorch.is_functorch_wrapped_tensor(p) for p in adapted.values()):
            self.last.append({name: p.detach() for name, p in adapted.items()})
        return adapted


@dataclass(frozen=True, kw_only=True)
class Overwriting(MAML):
    """Adapts the meta-learned parameters in place."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        adapted = super().step(meta, state, task, data, k)
        with torch.no_grad():
            for name, p in state.items():
                p.add_(0.01 * torch.ones_like(p)) if name else None
        return adapted


@dataclass(frozen=True, kw_only=True)
class WrongBatch(Glyphs):
    """Says inductive, and normalises the query by its own statistics."""

    def predict(self, params: Params, data: Labelled) -> Tensor:
        return nn.functional.log_softmax(self.call(params, data.images)[-len(data.labels) :], -1)


def faults_of(algorithm: type[MAML]) -> set[str]:
    def make(bed: object) -> MAML:
        return algorithm(inner_lr=0.1, steps=2, outer_lr=0.01, meta_batch=4)

    return {check.name for check in algorithm_checks(make) if check.verdict == "FAULT"}


def test_first_order_posing_as_second_is_found() -> None:
    found = faults_of(Posing)
    assert "claims second order: plain central differences" in found
    assert "quadratic task: (I − αA)ᴷ ∇L(θ_K)" in found


def test_an_adapted_weight_that_leaks_into_the_next_task_is_found() -> None:
    found = faults_of(Leaking)
    Leaking.last.clear()
    assert "what a task leaves to the next" in found


def test_a_learner_that_changes_its_input_is_found() -> None:
    assert "inputs modified" in faults_of(Overwriting)


def test_batch_statistics_from_the_wrong_set_are_found() -> None:
    found = {check.name for check in suite_checks(WrongBatch(norm="inductive"), "wrong") if check.verdict == "FAULT"}
    assert "inductive: other predictions when one query changes" in found


def test_check_algorithm_names_the_faults() -> None:
    with pytest.raises(AssertionError, match="claims second order"):
        check_algorithm(Posing)


def test_a_check_that_does_not_apply_never_passes() -> None:
    maml = MAML(inner_lr=0.1, steps=2, outer_lr=0.01, meta_batch=4)
    first = dataclasses.replace(maml, gradient="first_order")
    checks = verdicts(list(algorithm_checks(lambda bed: first)))
    assert checks["quadratic task: (I − αA)ᴷ ∇L(θ_K)"].startswith("n/a")
    assert Curved().sample(2, "train", torch.Generator().manual_seed(0)).support.x.shape == (2, 5, 1)
