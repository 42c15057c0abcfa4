"""The sinusoids are the papers'."""

import math

import pytest
import torch

from algorithms.maml import MAML
from bench.core import seeds
from bench.core.outer import Adam
from bench.learning.evaluate import FROZEN, manifest
from bench.learning.outer.trpo import outer_of
from suites.sinusoid import Sinusoid
from suites.sinusoid_freq import SinusoidFreq


def test_labels_are_amplitude_times_sine_of_x_minus_phase() -> None:
    suite = Sinusoid(shots=5)
    tasks = suite.sample(7, "train", seeds.generator(0))
    for role in ("support", "query"):
        x, y, _ = suite.look_up(tasks, role)
        for t in range(7):
            for point, label in zip(x[t, :, 0].tolist(), y[t, :, 0].tolist(), strict=True):
                expected = tasks.amplitude[t].item() * math.sin(point - tasks.phase[t].item())
                assert label == pytest.approx(expected, abs=1e-5)


def test_draws_fill_the_published_ranges() -> None:
    tasks = Sinusoid().sample(5000, "train", seeds.generator(0))
    for leaf, low, high in ((tasks.amplitude, 0.1, 5), (tasks.phase, 0, math.pi), (tasks.query, -5, 5)):
        assert low <= leaf.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < leaf.max() <= high


def test_oracle_sees_amplitude_and_phase_of_the_same_tasks() -> None:
    plain, oracle = Sinusoid(), Sinusoid().oracle_view()
    tasks = plain.sample(3, "test", seeds.generator(0))
    x, y, _ = oracle.look_up(tasks, "query")
    assert x.shape == (3, 10, 3)
    assert torch.equal(x[:, 0, 1:], torch.cat([tasks.amplitude, tasks.phase], 1).squeeze(-1))
    assert torch.equal(y, plain.look_up(tasks, "query").y)
    assert manifest(plain, "sinusoid", "test")[1] == manifest(oracle, "sinusoid", "test")[1]


def test_the_floor_is_the_error_of_predicting_zero() -> None:
    for suite in (Sinusoid(), SinusoidFreq(family="bmaml"), SinusoidFreq()):
        y = suite.look_up(suite.sample(20_000, "train", seeds.generator(0)), "query").y
        assert y.square().mean().item() == pytest.approx(suite.floor, rel=0.03)


def test_it_is_tested_with_5_10_and_20_points_whatever_it_was_trained_with() -> None:
    assert [v.setting for v in Sinusoid(shots=7).evaluations] == ["K=5", "K=10", "K=20"]
    assert [v.sample(1, "test", seeds.generator(0)).query.shape[1] for v in Sinusoid().evaluations] == [5, 10, 20]


def test_the_network_starts_as_in_the_paper() -> None:
    params = Sinusoid().new_params(seeds.generator(0))
    assert [tuple(p.shape) for p in params.values()] == [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]
    weight = params["layers.1.weight"]
    assert weight.abs().max() <= 0.02
    assert weight.std().item() == pytest.approx(0.0088, rel=0.1)  # of a normal cut at two deviations
    assert not params["layers.0.bias"].any()


def test_bmaml_family_trains_on_a_finite_number_of_noisy_points() -> None:
    suite = SinusoidFreq(family="bmaml", shots=5)
    train, again = (suite.sample(4000, "train", seeds.generator(seed)) for seed in (0, 1))
    for one, other in zip(train[:-1], again[:-1], strict=True):
        points = {row for tasks in (one, other) for row in map(tuple, tasks.flatten(1).tolist())}
        assert 900 < len(points) <= 1000
    assert train.query_noise.std().item() == pytest.approx(0.01, rel=0.05)
    assert train.support_noise.std().item() == pytest.approx(0.01, rel=0.05)


def test_bmaml_family_is_tested_on_other_tasks_whose_queries_have_no_noise() -> None:
    suite = SinusoidFreq(family="bmaml", shots=5)
    test = suite.sample(4000, "test", seeds.generator(0))
    assert len(test.amplitude.unique()) > 3000
    assert test.support_noise.std().item() == pytest.approx(0.01, rel=0.05)
    assert not test.query_noise.any()


@pytest.mark.parametrize(("asked", "exist"), [({"train_tasks": 100}, 100), ({"train_tasks": 0}, 4000)])
def test_as_many_training_tasks_exist_as_are_asked_for(asked: dict[str, int], exist: int) -> None:
    for suite in (SinusoidFreq(**asked), SinusoidFreq(family="bmaml", **asked)):  # type: ignore[arg-type]
        assert len(suite.sample(4000, "train", seeds.generator(0)).support.flatten(1).unique(dim=0)) == exist


def test_metasgd_family_has_tasks_without_end_a_constant_rate_and_finns_first_weights() -> None:
    suite = SinusoidFreq()
    assert (suite.train_tasks, suite.decay) == (0, None)
    assert suite.new_params(seeds.generator(0))["layers.1.weight"].abs().max() <= 0.02


def test_bmaml_family_starts_as_glorot_and_bengio_do() -> None:
    weight = SinusoidFreq(family="bmaml").new_params(seeds.generator(0))["layers.1.weight"]
    assert weight.abs().max() <= math.sqrt(6 / 80) < 1.05 * weight.abs().max()


def test_its_outer_rate_falls_by_two_percent_in_each_percent_of_a_run_whoever_learns() -> None:
    learner = MAML(inner_lr=0.001, outer_lr=0.001, steps=1, meta_batch=10)
    outer = outer_of(SinusoidFreq(family="bmaml"), learner, 1000)
    assert isinstance(outer, Adam)
    for iteration in (0, 1, 10, 500, 999):
        assert outer.rate_at(iteration) == pytest.approx(0.001 * 0.98 ** (iteration / 10))
    assert outer_of(Sinusoid(), learner, 1000) == learner.outer


@pytest.mark.parametrize("suite", [Sinusoid(), SinusoidFreq(), SinusoidFreq(family="bmaml")])
def test_manifests_are_the_published_ones(suite: Sinusoid) -> None:
    name = "sinusoid" if type(suite) is Sinusoid else "sinusoid_freq"
    for variant in suite.evaluations:
        for split in FROZEN:
            assert f"{variant.setting}/{split}" in variant.manifests
            manifest(variant, name, split)  # type: ignore[arg-type]
