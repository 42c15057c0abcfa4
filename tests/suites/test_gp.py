"""Tasks of Gaussian processes are those of the code that published them, and Bayes' prediction of them is exact."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

import bench
from bench.core import seeds
from bench.core.task import SuiteTask
from bench.core.trees import tree_map
from bench.core.types import Normal
from bench.learning.evaluate import FROZEN, manifest
from suites.gp import GP, NOISE, RANGES, Functions, Points, covariance

KERNELS = ("eq", "matern52", "periodic")
EACH = pytest.mark.parametrize("kernel", [*KERNELS, "sawtooth"])


def plain(kernel: str, a: float, b: float) -> float:
    """The kernels of predefined.py, one number at a time."""
    d = abs(a - b)
    if kernel == "matern52":
        far = math.sqrt(5) * d / 0.25
        return (1 + far + far**2 / 3) * math.exp(-far)
    if kernel == "periodic":
        phases = [(math.sin(2 * math.pi * x / 0.25), math.cos(2 * math.pi * x / 0.25)) for x in (a, b)]
        apart = sum((p - q) ** 2 for p, q in zip(*phases, strict=True))
        return math.exp(-0.5 * (d / 0.5) ** 2) * math.exp(-0.5 * apart)
    return math.exp(-0.5 * (d / 0.25) ** 2)


def matrix(kernel: str, one: Any, other: Any) -> np.ndarray[Any, Any]:
    return np.array([[plain(kernel, a, b) for b in other] for a in one]).reshape(len(one), len(other))


def task_of(suite: GP, t: int, count: int = 40) -> tuple[Points, Points]:
    tasks = suite.sample(count, "test", seeds.generator(0))
    support, query = (tree_map(lambda x: x[t], suite.look_up(tasks, role)) for role in ("support", "query"))
    return support, query


@pytest.mark.parametrize("kernel", KERNELS)
def test_bayes_prediction_is_that_of_the_support_points_that_are_there(kernel: Any) -> None:
    suite = GP(kernel=kernel)
    sizes = []
    for t in range(12):
        support, query = task_of(suite, t)
        told = task_of(suite.oracle_view(), t)[1].x
        x, y = (leaf[support.mask].double().squeeze(-1).numpy() for leaf in support[:2])
        asked, truth = (leaf.double().squeeze(-1).numpy() for leaf in query[:2])
        sizes.append(len(x))
        known = matrix(kernel, x, x) + NOISE * np.eye(len(x))
        weights = np.linalg.solve(known, matrix(kernel, x, asked)) if len(x) else np.zeros((0, 50))
        mean = weights.T @ y
        variance = 1 + NOISE - (matrix(kernel, x, asked) * weights).sum(0)
        np.testing.assert_allclose(told[:, 1], mean, atol=2e-5)
        np.testing.assert_allclose(told[:, 2], np.sqrt(variance), atol=2e-5)
        np.testing.assert_allclose(query.bayes, -norm(mean, np.sqrt(variance)).logpdf(truth), atol=2e-4)
    assert min(sizes) < 5 < 20 < max(sizes)


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_have_the_density_that_the_kernel_gives_them(kernel: Any) -> None:
    """2 (ln p at its peak − ln p) of N values is χ² of N degrees of freedom, whose mean over many tasks is near N."""
    suite = GP(kernel=kernel)
    tasks = suite.sample(20, "train", seeds.generator(0))._replace(mask=torch.ones(20, 30, dtype=torch.bool))
    support, query = suite.look_up(tasks, "support"), suite.look_up(tasks, "query")
    x, y = (torch.cat([s, q], 1).squeeze(-1).double().numpy() for s, q in zip(support[:2], query[:2], strict=True))
    found = []
    for t in range(20):
        wide = torch.from_numpy(x[t])[None, :, None]
        spread = covariance(kernel, wide, wide)[0].numpy()
        if t == 0:
            np.testing.assert_allclose(spread, matrix(kernel, x[t], x[t]), atol=1e-9)
        law = multivariate_normal(np.zeros(80), spread + NOISE * np.eye(80))
        found.append(2 * (law.logpdf(np.zeros(80)) - law.logpdf(y[t])))
    assert abs(np.mean(found) - 80) < 4 * math.sqrt(2 * 80 / 20)


def test_sawteeth_rise_or_fall_from_0_to_1_two_to_four_times_a_unit_without_noise() -> None:
    suite = GP(kernel="sawtooth")
    tasks = suite.sample(2000, "train", seeds.generator(0))
    query = suite.look_up(tasks, "query")
    frequency, direction, offset = tasks.draws.squeeze(-1).T
    assert (frequency >= 2).all() and (frequency <= 4).all()
    assert set(direction.tolist()) == {-1.0, 1.0}
    for t in range(5):
        for x, y in zip(query.x[t, :, 0].tolist(), query.y[t, :, 0].tolist(), strict=True):
            phase = frequency[t].item() * direction[t].item() * x - offset[t].item()
            assert y == pytest.approx(phase - math.floor(phase), abs=1e-5)
    assert query.x.shape == (2000, 100, 1)
    assert query.bayes == ()


@EACH
def test_a_task_has_none_to_thirty_support_points_and_says_nothing_of_the_others(kernel: Any) -> None:
    suite = GP(kernel=kernel)
    support = suite.look_up(suite.sample(3000, "train", seeds.generator(0)), "support")
    share = torch.bincount(support.mask.sum(1), minlength=31) / 3000
    assert len(share) == 31
    assert share.min() > 0.02
    assert not support.x[~support.mask].any()
    assert not support.y[~support.mask].any()


@EACH
def test_settings_have_inputs_where_they_say_and_training_has_them_between_minus_two_and_two(
    kernel: Any,
) -> None:
    for suite in GP(kernel=kernel).evaluations:
        for split, (shown, asked) in (("test", RANGES[suite.where]), ("train", RANGES["interpolation"])):
            tasks = suite.sample(500, split, seeds.generator(0))  # type: ignore[arg-type]
            for x, (low, high) in ((tasks.support, shown), (tasks.query, asked)):
                assert low <= x.min() < low + 0.05 < high - 0.05 < x.max() <= high
    assert GP(kernel=kernel, where="shifted").evaluations[0].where == "shifted"


@EACH
def test_its_manifests_are_the_published_ones(kernel: Any) -> None:
    for suite in GP(kernel=kernel).evaluations:
        for split in FROZEN:
            assert f"{suite.setting}/{split}" in GP.manifests
            manifest(suite, "gp", split)  # type: ignore[arg-type]


@EACH
def test_a_grid_goes_on_with_the_function_of_the_support(kernel: Any) -> None:
    suite = GP(kernel=kernel)
    tasks = suite.sample(3, "test", seeds.generator(0))
    grid = suite.grid(tasks)
    assert torch.equal(suite.look_up(grid, "support").y, suite.look_up(tasks, "support").y)
    curve = suite.look_up(grid, "query")
    assert curve.x[0, 0].item() == -2
    assert curve.x[0, -1].item() == 2
    if kernel != "sawtooth":
        noisy = suite.look_up(Functions(*grid[:3], tasks.noise, grid.mask), "query")
        smooth, rough = ((y[:, 1:] - y[:, :-1]).square().mean() for y in (curve.y, noisy.y))
        assert smooth < rough - NOISE  # each difference has the noise of two points


def test_a_gap_is_what_a_density_lacks_to_bayes_and_bayes_lacks_nothing() -> None:
    suite = GP()
    task = SuiteTask(suite)
    _, query = task_of(suite, 1)
    told = task_of(suite.oracle_view(), 1)[1].x
    exact = task.score(Normal(told[:, 1:2], told[:, 2:]), query)
    assert exact["gap"].item() == pytest.approx(0, abs=1e-5)
    guess = task.score(Normal(torch.zeros(50, 1), torch.full((50, 1), math.sqrt(1 + NOISE))), query)
    assert guess["gap"].item() == pytest.approx((guess["nll"] - exact["nll"]).item(), abs=1e-5)
    assert set(guess) == {"mse", "nll", "gap"}
    assert set(task.score(torch.zeros(50, 1), query)) == {"mse"}


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "metrics"), [("eq", {"mse", "nll", "gap"}), ("sawtooth", {"mse", "nll"})])
def test_who_says_how_sure_it_is_has_a_gap_where_bayes_is_known(kernel: str, metrics: set[str], tmp_path: Any) -> None:
    fixed = {"preset": "smoke", "iterations": 2, "threads": 1, "engine": "eager", "out": tmp_path}
    scores = bench.run(f"gp[kernel={kernel}]", "cnp,maml", **fixed)  # type: ignore[arg-type]
    assert set(scores.loc[scores["algorithm"] == "cnp", "metric"]) == metrics
    assert set(scores.loc[scores["algorithm"] == "maml", "metric"]) == {"mse"}
    assert scores["value"].notna().all()
    for record in scores.store.records():
        assert {metric.name for metric in record.judgement.metrics} == metrics
