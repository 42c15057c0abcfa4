"""The sinusoids are the papers'."""

import math

import pytest
import torch

from bench.core import seeds
from bench.learning.evaluate import FROZEN, manifest
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


def test_bmaml_family_draws_training_tasks_from_a_pool_with_noisy_labels() -> None:
    suite = SinusoidFreq(family="bmaml", shots=5)
    train = suite.sample(4000, "train", seeds.generator(0))
    assert len(train.amplitude.unique()) <= 1000
    test = suite.sample(4000, "test", seeds.generator(0))
    assert len(test.amplitude.unique()) > 3000
    assert train.query_noise.std().item() == pytest.approx(0.01, rel=0.05)
    assert test.support_noise.std().item() == pytest.approx(0.01, rel=0.05)
    assert not test.query_noise.any()


@pytest.mark.parametrize("suite", [Sinusoid(), SinusoidFreq(), SinusoidFreq(family="bmaml")])
def test_manifests_are_the_published_ones(suite: Sinusoid) -> None:
    name = "sinusoid" if type(suite) is Sinusoid else "sinusoid_freq"
    for variant in suite.evaluations:
        for split in FROZEN:
            assert f"{variant.setting}/{split}" in variant.manifests
            manifest(variant, name, split)  # type: ignore[arg-type]
