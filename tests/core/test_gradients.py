"""The operators agree in value, and differ only in what they let through to the meta-gradient."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from bench.core import seeds
from bench.core.gradients import GradientName, descend, gradient
from bench.core.types import Params


class Cubic:
    """Σ x_i θ_i³ + b θ_0, where b does not adapt."""

    def loss(self, params: Params, data: Tensor) -> Tensor:
        return (data * params["theta"] ** 3).sum() + (params["fixed"] * params["theta"]).sum()

    def adaptable(self, name: str) -> bool:
        return name == "theta"


def adapted_sum(operator: GradientName, theta: Tensor, fixed: Tensor, data: Tensor, rate: float) -> Tensor:
    params = {"theta": theta, "fixed": fixed}
    return descend(params, gradient(operator, Cubic())(params, data), rate)["theta"].sum()


numbers = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


@settings(max_examples=25, deadline=None)
@given(theta=numbers, data=numbers, rate=st.floats(0.01, 1))
@pytest.mark.parametrize("operator", ["reverse", "mixed"])
def test_second_order_is_the_derivative_by_hand(
    operator: GradientName, theta: list[float], data: list[float], rate: float
) -> None:
    t, x = (torch.tensor(v, dtype=torch.float64) for v in (theta, data))
    t.requires_grad_()
    fixed = torch.ones(3, dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(adapted_sum(operator, t, fixed, x, rate), [t, fixed])
    torch.testing.assert_close(slopes[0], 1 - rate * 6 * x * t.detach())  # I − α ∇²L
    torch.testing.assert_close(slopes[1], torch.full((3,), -rate, dtype=torch.float64))  # it is learned


def test_first_order_takes_the_inner_gradient_for_a_constant() -> None:
    t, fixed = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    value = adapted_sum("first_order", t, fixed, torch.ones(3), 0.1)
    slopes = torch.autograd.grad(value, [t, fixed], allow_unused=True)
    assert torch.equal(slopes[0], torch.ones(3))
    assert slopes[1] is None


@pytest.mark.parametrize("operator", ["first_order", "reverse", "mixed"])
def test_what_does_not_adapt_stays_and_inputs_are_not_modified(operator: GradientName) -> None:
    params = {"theta": torch.ones(3), "fixed": torch.full((3,), 2.0)}
    before = {name: p.clone() for name, p in params.items()}
    after = descend(params, gradient(operator, Cubic())(params, torch.ones(3)), 0.1)
    assert after["fixed"] is params["fixed"]
    torch.testing.assert_close(after["theta"], 1 - 0.1 * torch.full((3,), 5.0))
    assert all(torch.equal(params[name], before[name]) for name in params)


def test_one_rate_per_weight() -> None:
    params = {"theta": torch.zeros(3), "fixed": torch.ones(3)}
    rates = {"theta": torch.tensor([1.0, 2.0, 3.0]), "fixed": torch.ones(3)}
    after = descend(params, gradient("reverse", Cubic())(params, torch.ones(3)), rates)
    torch.testing.assert_close(after["theta"], torch.tensor([-1.0, -2.0, -3.0]))


@settings(max_examples=25, deadline=None)
@given(theta=numbers, data=numbers, rate=st.floats(0.01, 1), clip=st.floats(0.01, 20))
@pytest.mark.parametrize("operator", ["reverse", "mixed", "first_order"])
def test_a_clipped_step_and_its_derivative_by_hand(
    operator: GradientName, theta: list[float], data: list[float], rate: float, clip: float
) -> None:
    t, x = (torch.tensor(v, dtype=torch.float64) for v in (theta, data))
    slope = 3 * x * t**2 + 1
    assume((slope.abs() - clip).abs().min() > 1e-6)  # not at the edge, where it has two derivatives
    t.requires_grad_()
    params = {"theta": t, "fixed": torch.ones(3, dtype=torch.float64)}
    after = descend(params, gradient(operator, Cubic())(params, x), rate, clip)
    torch.testing.assert_close(after["theta"].detach(), (t - rate * slope.clip(-clip, clip)).detach())
    [found] = torch.autograd.grad(after["theta"].sum(), [t])
    curvature = 6 * x * t.detach() * (slope.abs() < clip) * (operator != "first_order")
    torch.testing.assert_close(found, 1 - rate * curvature)


def test_one_rate_per_weight_multiplies_what_was_clipped() -> None:
    params = {"theta": torch.zeros(3), "fixed": torch.tensor([1.0, -9.0, 0.25])}
    rates = {"theta": torch.tensor([1.0, 2.0, 4.0])}
    after = descend(params, gradient("reverse", Cubic())(params, torch.ones(3)), rates, 0.5)
    torch.testing.assert_close(after["theta"], torch.tensor([-0.5, 1.0, -1.0]))


@pytest.mark.parametrize("shared", [True, False])
def test_mixed_equals_reverse_under_vmap(shared: bool) -> None:
    generator = seeds.generator("vmap")
    draw: Any = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    theta, data = draw(3) if shared else draw(5, 3), draw(5, 3)
    fixed = torch.ones(3, dtype=torch.float64, requires_grad=True)
    theta.requires_grad_()
    slopes = []
    for operator in ("reverse", "mixed"):
        total = vmap(adapted_sum, in_dims=(None, None if shared else 0, None, 0, None))(
            operator, theta, fixed, data, 0.1
        )
        slopes.append(torch.autograd.grad(total.sum(), [theta, fixed]))
    for reverse, mixed in zip(*slopes, strict=True):
        torch.testing.assert_close(reverse, mixed)
