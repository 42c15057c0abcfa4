"""The polynomials are those of the authors' code."""

import pytest
import torch

from bench.core import seeds
from bench.learning.evaluate import manifest
from bench.testing import check_suite
from suites.polynomials import Polynomials


@pytest.mark.parametrize("order", [0, 1, 2])
def test_targets_are_the_polynomial_and_coefficients_fill_their_ranges(order: int) -> None:
    suite = Polynomials(order=order)
    tasks = suite.sample(3000, "train", seeds.generator(0))
    for role, inputs in (("support", tasks.support), ("query", tasks.query)):
        x, y, _ = suite.look_up(tasks, role)  # type: ignore[arg-type]
        assert torch.equal(x, inputs)
        expected = sum(tasks.coefficients[:, :, i : i + 1] * inputs**i for i in range(order + 1))
        torch.testing.assert_close(y, expected)
    assert tasks.coefficients.shape == (3000, 1, order + 1)
    for i in range(order + 1):
        c = tasks.coefficients[..., i] * 2**i
        assert -1 <= c.min() < -0.99
        assert 0.99 < c.max() <= 1
    assert -2 <= tasks.query.min() < -1.99 < 1.99 < tasks.query.max() <= 2


def test_ten_points_are_asked_in_training_and_a_hundred_at_test() -> None:
    suite = Polynomials()
    assert suite.sample(1, "train", seeds.generator(0)).query.shape == (1, 10, 1)
    assert suite.sample(1, "test", seeds.generator(0)).query.shape == (1, 100, 1)


def test_the_oracle_is_told_the_coefficients_of_the_same_tasks() -> None:
    plain, oracle = Polynomials(), Polynomials().oracle_view()
    tasks = plain.sample(3, "test", seeds.generator(0))
    x, y, _ = oracle.look_up(tasks, "query")
    assert torch.equal(x[:, 0, 1:], tasks.coefficients.squeeze(1))
    assert torch.equal(y, plain.look_up(tasks, "query").y)


def test_it_is_certified() -> None:
    check_suite(Polynomials())


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_manifests_are_the_published_ones(order: int, split: str) -> None:
    suite = Polynomials(order=order)
    assert f"{suite.setting}/{split}" in suite.manifests
    manifest(suite, "polynomials", split)  # type: ignore[arg-type]
