"""iMAML's meta-gradient is that of what its inner loop solves, and keeps no graph of how it did."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from algorithms.imaml import IMAML
from algorithms.maml import MAML
from algorithms.parts.conjugate import conjugate_gradient
from bench.certificate.algorithms import algorithm_checks
from bench.certificate.beds import Curved, Labels, Pairs, Quadratic
from bench.certificate.checks import TASKS, Case, case_of, gap, task_of
from bench.core.gradients import descend, gradient
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves
from bench.core.types import Data, Params, Suite, Task
from bench.learning.engines.vectorised import meta_gradient
from bench.reporting.costing import LiveTensors

STRENGTH = 0.7
# To the exact minimum, and as many iterations of conjugate gradient as there are parameters, undamped.
SOLVED: dict[str, Any] = {
    "steps": 200, "inner_lr": 0.2, "strength": STRENGTH, "cg_steps": 4, "damping": 0.0, "hessian_damping": 0.0,
}  # fmt: skip


def learner(of: type[IMAML] = IMAML, **fields: Any) -> IMAML:
    return of(outer_lr=0.01, meta_batch=TASKS, **fields)


def found(case: Case) -> list[Tensor]:
    return tree_leaves(meta_gradient(case.bed, case.algorithm)(case.meta, case.episodes)[1])


def solution(theta: Tensor, support: Pairs) -> Tensor:
    """The φ that minimises ½ mean (xφ − y)² + λ/2 ‖φ − θ‖²."""
    curvature = support.x.T @ support.x / len(support.y)
    target = support.x.T @ support.y / len(support.y)
    return torch.linalg.solve(curvature + STRENGTH * torch.eye(4, dtype=theta.dtype), target + STRENGTH * theta)


def off_implicit(of: type[IMAML]) -> float:
    """How far the meta-gradient is from that of L_query(φ*(θ)), of which autograd knows the closed form."""
    faults = {name: value for name, value in vars(of).items() if name in SOLVED and of is not IMAML}
    case = case_of(lambda bed: learner(of, **SOLVED | faults), Quadratic())
    theta = case.meta["theta"].clone().requires_grad_()
    losses = []
    for t in range(TASKS):
        episode = task_of(case.episodes, t)
        x, y = episode.query
        losses.append((x @ solution(theta, episode.support[0]) - y).square().mean() / 2)
    return gap(found(case), list(torch.autograd.grad(torch.stack(losses).mean(), theta)))


def test_the_meta_gradient_is_the_implicit_functions_on_a_quadratic() -> None:
    assert off_implicit(IMAML) < 1e-10


@dataclass(frozen=True, kw_only=True)
class Inverted(IMAML):
    """Solves for I − H/λ."""

    hessian_damping: float = -2 * STRENGTH


@dataclass(frozen=True, kw_only=True)
class Undamped(IMAML):
    """Solves for H/λ alone: the identity is forgotten."""

    damping: float = -1.0


@dataclass(frozen=True, kw_only=True)
class Unbound(IMAML):
    """Its inner loop forgets θ."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        return descend(state, gradient("first_order", task)(state, data), self.inner_lr or 0.1)


@pytest.mark.parametrize("faulty", [Inverted, Undamped, Unbound])
def test_a_planted_fault_is_found_on_the_quadratic(faulty: type[IMAML]) -> None:
    assert off_implicit(faulty) > 0.05


@pytest.mark.parametrize("adapted", [True, False])
def test_a_solution_also_moves_with_what_does_not_adapt(adapted: bool) -> None:
    solved = {"steps": 100, "inner_lr": 0.1, "strength": 2.0, "cg_steps": 40, "damping": 0.0, "hessian_damping": 0.0}
    case = case_of(lambda bed: learner(**solved), Labels())
    task, episode = SuiteTask(case.bed), task_of(case.episodes, 0)
    along = {name: torch.ones_like(p) * (task.adaptable(name) is adapted) for name, p in case.meta.items()}
    assert any(d.any() for d in along.values())

    def loss(meta: Params) -> Tensor:
        return case.algorithm.meta_loss(meta, task, episode)

    live = {name: p.clone().requires_grad_() for name, p in case.meta.items()}
    gradients = torch.autograd.grad(loss(live), list(live.values()))
    slope = sum((g * along[name]).sum().item() for name, g in zip(live, gradients, strict=True))
    up, down = (loss({name: p + h * along[name] for name, p in case.meta.items()}).item() for h in (1e-5, -1e-5))
    assert slope == pytest.approx((up - down) / 2e-5, rel=1e-3)


def test_their_codes_system_is_the_default() -> None:
    """(2 I + H / 12) v = ∇L_query(φ), where φ was drawn back by one step of the pull."""
    case = case_of(lambda bed: learner(pull="once", inner_lr=0.1, steps=3), Quadratic())
    expected = torch.zeros(4, dtype=torch.float64)
    for t in range(TASKS):
        (x, y), *_ = (episode := task_of(case.episodes, t)).support
        theta, curvature = case.meta["theta"], x.T @ x / len(y)
        phi = theta
        for _ in range(3):
            phi = phi - 0.1 * (curvature @ phi - x.T @ y / len(y))
        phi = phi - 0.1 * 2 * (phi - theta)
        xq, yq = episode.query
        system = 2 * torch.eye(4, dtype=torch.float64) + curvature / 12
        expected += torch.linalg.solve(system, xq.T @ (xq @ phi - yq) / len(yq)) / TASKS
    assert gap(found(case), [expected]) < 1e-9


def test_conjugate_gradient_solves_and_stays_where_nothing_is_left() -> None:
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6)
    x = torch.arange(6.0, dtype=torch.float64)

    def product(v: Params) -> Params:
        image = matrix @ torch.cat([v["a"], v["b"]])
        return {"a": image[:2], "b": image[2:]}

    b = {"a": (matrix @ x)[:2], "b": (matrix @ x)[2:]}
    for iterations in (6, 40):
        solved = conjugate_gradient(product, b, iterations)
        assert torch.allclose(torch.cat([solved["a"], solved["b"]]), x, atol=1e-8)
    nothing = conjugate_gradient(product, {name: torch.zeros_like(p) for name, p in b.items()}, 3)
    assert all((p == 0).all() for p in nothing.values())


def peak(make: Any, steps: int) -> int:
    case = case_of(make, Labels(), steps=steps)
    call = meta_gradient(case.bed, case.algorithm)
    with LiveTensors() as live:
        call(case.meta, case.episodes)
    return live.peak


def test_memory_does_not_grow_with_inner_steps() -> None:
    def maml(bed: Suite) -> MAML:
        return MAML(inner_lr=0.1, steps=1, outer_lr=0.01, meta_batch=TASKS)

    assert peak(maml, 12) > 2.5 * peak(maml, 3)
    assert peak(lambda bed: learner(), 12) == pytest.approx(peak(lambda bed: learner(), 3), rel=0.01)


@pytest.mark.slow
def test_their_codes_pull_is_certified_too() -> None:
    checks = list(algorithm_checks(lambda bed: learner(steps=3, pull="once")))
    assert not [check for check in checks if check.verdict == "FAULT"]


def test_the_rate_is_that_of_the_kind_of_task_unless_given() -> None:
    rates = {}
    for bed in (Curved(), Labels()):
        case = case_of(lambda bed: learner(), bed)
        rates[bed.kind] = case.algorithm._rate(SuiteTask(bed))
    assert rates == {"regression": 0.001, "classification": 0.1}
    assert learner(inner_lr=0.3)._rate(SuiteTask(Curved())) == 0.3
