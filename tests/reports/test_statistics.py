"""Intervals cover, tests and estimates agree with hand-worked cases and with the libraries that have them."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

from reports import statistics
from reports.statistics import Scores


def crossed(rng: np.random.Generator, seeds: int, tasks: int, sd: tuple[float, float, float]) -> Scores:
    return np.asarray(
        sd[0] * rng.normal(size=(seeds, 1))
        + sd[1] * rng.normal(size=(1, tasks))
        + sd[2] * rng.normal(size=(seeds, tasks))
    )


def test_one_seed_has_students_interval_over_tasks() -> None:
    found = statistics.interval(np.array([[1.0, 2.0, 3.0, 6.0]]))
    assert found.value == 3.0
    assert found.half == pytest.approx(3.1824 * math.sqrt(14 / 3) / 2, rel=1e-4)  # t(3), squares 4 + 1 + 0 + 9


def test_one_seed_on_many_tasks_has_the_published_interval() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 600))
    published = 1.96 * scores.std() / math.sqrt(600)
    assert published < statistics.interval(scores).half < 1.003 * published


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_task_says_nothing_of_others(seeds: int) -> None:
    one = np.arange(seeds, dtype=float)[:, None]
    robust = statistics.median_and_iqm(one)
    for found in (statistics.interval(one), statistics.difference(one, one + 1), robust.median, robust.iqm):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert statistics.improvement(one, one, "higher")[1:] == (0, 1)


SPREADS = {"mixed": (1.0, 1.0, 1.0), "tasks": (0.3, 3.0, 1.0), "seeds": (1.0, 0.1, 0.1)}


@pytest.mark.forms(20)
@pytest.mark.parametrize(
    ("spread", "seeds", "tasks"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case[0] != "mixed" or case[2] > 8 else [])
        for case in itertools.product(SPREADS, [1, 2, 3, 5], [2, 5, 8, 20, 600])
    ],
)
def test_intervals_cover_however_few_tasks_and_seeds_there_are(spread: str, seeds: int, tasks: int) -> None:
    sd = SPREADS[spread]
    rng = np.random.default_rng(0)
    single, apart, paired = [], [], []
    for _ in range(300 if tasks < 600 else 100):
        shared = sd[1] * rng.normal(size=(1, tasks))
        models = sd[0] * rng.normal(size=(3, seeds, 1))
        a, b, c = (shared + model + crossed(rng, seeds, tasks, (0.0, sd[1], sd[2])) for model in models)
        # Of these models where seeds are few, else of any: their means are 0.
        one, other, _ = models.mean((1, 2)) if seeds < 3 else np.zeros(3)
        found = statistics.interval(a)
        single.append(found.low <= one <= found.high)
        found = statistics.difference(a, b, paired_seeds=False)
        apart.append(found.low <= one - other <= found.high)
        found = statistics.difference(a, c + (other - models[2].mean() if seeds < 3 else 0))
        paired.append(found.low <= one - other <= found.high)
    # 0.95 less three standard errors. Two tasks leave the share of variance that is theirs all but unknown, which the
    # degrees of freedom of three seeds and more depend on.
    least = 0.88 if tasks == 2 and seeds > 2 else 0.95 - 3 * math.sqrt(0.95 * 0.05 / len(single))
    assert min(map(np.mean, (single, apart, paired))) >= least


@pytest.mark.parametrize("tasks", [2, 5, 6, 8, 20])
def test_the_median_of_few_tasks_has_an_interval_that_covers_or_none(tasks: int) -> None:
    rng = np.random.default_rng(0)
    found = [statistics.median_and_iqm(rng.normal(size=(1, tasks)), 300) for _ in range(300)]
    for intervals in ([f.median for f in found], [f.iqm for f in found]):
        if tasks < 6:
            assert all(math.isnan(i.low) for i in intervals)
        else:
            assert np.mean([i.low <= 0 <= i.high for i in intervals]) >= 0.91


def test_seeds_that_agree_add_nothing_and_seeds_that_differ_have_students_interval() -> None:
    tasks = np.random.default_rng(0).normal(size=(1, 200))
    alike = statistics.interval(np.repeat(tasks, 3, 0))
    assert alike.half == pytest.approx(statistics.interval(tasks).half, rel=0.1)
    apart = statistics.interval(np.repeat([[-1.0], [0.0], [1.0]], 200, 1))
    assert apart.half == pytest.approx(4.303 / math.sqrt(3), rel=0.05)  # t(2 degrees of freedom) sd / sqrt(3)


def test_the_interval_is_the_same_at_every_call() -> None:
    values = np.random.default_rng(1).normal(size=(3, 50))
    assert statistics.interval(values) == statistics.interval(values)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("sd", [(1.0, 1.0, 1.0), (0.3, 3.0, 1.0), (1.0, 0.1, 0.1)], ids=["mixed", "tasks", "seeds"])
def test_with_fewer_than_three_seeds_the_interval_covers_what_the_trained_models_reach_on_all_tasks(
    sd: tuple[float, float, float], seeds: int
) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        offsets = sd[0] * rng.normal(size=(seeds, 1))  # of the models: their mean over all tasks
        found = statistics.interval(offsets + crossed(rng, seeds, 40, (0.0, *sd[1:])))
        covered.append(found.low <= offsets.mean() <= found.high)
    assert np.mean(covered) >= 0.92


def test_two_seeds_have_no_interval_wider_than_their_scores() -> None:
    rng = np.random.default_rng(0)
    scores = 20.0 * rng.integers(0, 6, size=(2, 40)) * [[0.5], [1.0]]  # percent right, of seeds that differ
    found = statistics.interval(scores)
    assert found.half < 10
    assert found.half == pytest.approx(2.0227 * scores.mean(0).std(ddof=1) / math.sqrt(40), rel=1e-4)  # t(39)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("logit", "tasks"), [(2.0, 60), (6.0, 600)], ids=["one in seven fails", "one in 300 fails"])
def test_an_interval_within_the_metrics_range_covers_near_its_edge(seeds: int, logit: float, tasks: int) -> None:
    rng = np.random.default_rng(0)
    chances = 1 / (1 + np.exp(-logit - 0.7 * rng.normal(size=(300, seeds, 1))))
    truth = 100 * float(np.mean(1 / (1 + np.exp(-logit - 0.7 * rng.normal(size=100_000)))))
    free = [statistics.interval(20.0 * rng.binomial(5, np.repeat(p, tasks, 1))) for p in chances]
    found = [interval.within(0, 100) for interval in free]
    assert any(interval.high > 100 for interval in free)
    assert all(0 <= i.low <= i.value <= i.high <= 100 for i in found)
    assert np.mean([i.low <= truth <= i.high for i in found]) >= 0.92


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(("tasks", "chance"), [(20, 0.97), (50, 0.98), (100, 0.98), (50, 0.02)])
def test_few_successes_or_failures_on_few_tasks_are_covered(seeds: int, tasks: int, chance: float) -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.binomial(1, chance, size=(seeds, tasks)).astype(float) for _ in range(500)]
    found = [statistics.bounded(scores, 0, 1) for scores in drawn]
    assert any(scores.min() == scores.max() for scores in drawn)  # without a spread
    assert all(0 <= i.low < i.high <= 1 for i in found)
    assert np.mean([i.low <= chance <= i.high for i in found]) >= 0.92


def test_scores_that_all_are_at_one_end_of_their_range_leave_room_for_what_was_not_seen() -> None:
    assert statistics.bounded(np.full((2, 60), 100.0), 0, 100) == pytest.approx((100, 100 * 0.05 ** (1 / 60), 100))
    assert statistics.bounded(np.zeros((1, 60)), 0, 100) == pytest.approx((0, 0, 100 - 100 * 0.05 ** (1 / 60)))
    assert statistics.bounded(np.zeros((1, 60)), 0, math.inf) == (0, 0, 0)  # no range to take a share of


def test_the_probability_of_improvement_covers_where_one_wins_nearly_always() -> None:
    rng = np.random.default_rng(0)
    truth, covered = float(ndtr(2.0)), []
    for _ in range(400):
        a, b = (rng.normal(size=(1, 40)) / math.sqrt(2) + mean for mean in (2.0, 0.0))
        found = statistics.improvement(a, b, "higher")
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) >= 0.92


@pytest.mark.parametrize("sd", [(1.0, 1.0, 1.0), (0.3, 3.0, 1.0), (1.0, 0.1, 0.1)], ids=["mixed", "tasks", "seeds"])
def test_the_interval_of_a_mean_covers_at_five_seeds(sd: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    found = [statistics.interval(crossed(rng, 5, 40, sd)) for _ in range(400)]
    assert np.mean([i.low <= 0 <= i.high for i in found]) >= 0.92  # 0.95 less three standard errors


def test_the_interval_of_a_difference_covers_with_other_seeds() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        tasks = 3 * rng.normal(size=(1, 40))
        a, b = (tasks + crossed(rng, n, 40, (1.0, 0.5, 1.0)) for n in (5, 4))
        found = statistics.difference(a, b, paired_seeds=False)
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(covered) >= 0.91


@pytest.mark.parametrize(("one", "other"), [(1, 1), (2, 2), (5, 2), (1, 4)])
def test_with_fewer_than_three_seeds_a_difference_is_of_the_trained_models(one: int, other: int) -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        tasks = 3 * rng.normal(size=(1, 40))
        left, right = rng.normal(size=(one, 1)), rng.normal(size=(other, 1))
        a, b = (tasks + m + crossed(rng, len(m), 40, (0.0, 0.5, 1.0)) for m in (left, right))
        found = statistics.difference(a, b, paired_seeds=one == other)
        covered.append(found.low <= left.mean() - right.mean() <= found.high)
    assert np.mean(covered) >= 0.92


def test_the_intervals_of_median_and_iqm_cover_at_five_seeds() -> None:
    rng = np.random.default_rng(2)
    median, iqm, *_ = zip(
        *(statistics.median_and_iqm(crossed(rng, 5, 30, (0.5, 1.0, 0.5))) for _ in range(100)), strict=True
    )
    for found in (median, iqm):
        assert np.mean([i.low <= 0 <= i.high for i in found]) >= 0.9


def test_interquartile_mean_and_probability_of_improvement_are_those_of_rliable() -> None:
    from rliable import metrics

    rng = np.random.default_rng(5)
    a, b = rng.normal(0.3, 1, size=(3, 40)), rng.normal(size=(4, 40))
    assert statistics.median_and_iqm(a).iqm.value == pytest.approx(metrics.aggregate_iqm(a))
    assert statistics.improvement(a, b, "higher").value == pytest.approx(metrics.probability_of_improvement(a, b))


def test_differences_are_told_where_single_means_are_not() -> None:
    rng = np.random.default_rng(3)
    tasks = 5 * rng.normal(size=(1, 100))
    a = tasks + 0.1 * rng.normal(size=(3, 100))
    b = a + 0.2 + 0.1 * rng.normal(size=(3, 100))
    assert statistics.interval(a).high > statistics.interval(b).low
    assert statistics.difference(a, b).high < 0


def test_a_score_that_is_not_finite_leaves_the_median_and_no_interval_of_the_mean() -> None:
    scores = np.array([[1.0, 2.0, 3.0, math.inf, 1.0]])
    assert statistics.interval(scores).value == math.inf
    assert math.isnan(statistics.interval(scores).low)
    median = statistics.median_and_iqm(scores).median
    assert median.value == 2.0
    assert statistics.heavy_tailed(scores, "lower")


def test_the_fewest_scores_that_spoil_a_mean_are_the_worst_without_which_it_is_none_of_single_tasks() -> None:
    rng = np.random.default_rng(4)
    scores = np.exp(2.5 * rng.normal(size=(3, 40)))
    scores[0, 0], scores[1, 7] = math.inf, 1e9
    found = statistics.spoiling(scores, "lower")
    assert found[0, 0] and found[1, 7]
    assert scores[found].min() >= scores[~found].max()
    assert not statistics.heavy_tailed(scores[~found], "lower")
    one_more = np.append(scores[~found], scores[found].min())
    assert statistics.heavy_tailed(one_more, "lower")
    assert statistics.spoiling(np.array([[1.0, -math.inf, 2.0]]), "higher").tolist() == [[False, True, False]]
    assert statistics.spoiling(np.full((1, 3), math.inf), "lower").all()


def test_the_worst_tenth_is_of_tasks_and_on_the_worse_side() -> None:
    scores = np.stack([np.arange(20.0), np.arange(20.0)[::-1] + 1.0 * (np.arange(20) < 2) * 10])
    # Means over seeds are 9.5, of the first two tasks 14.5: those are the tenth that comes off worst by errors.
    assert statistics.worst_tenth(scores, "lower") == 14.5
    assert statistics.worst_tenth(scores, "higher") == 9.5
    assert statistics.worst_tenth(np.array([[3.0, 1.0]]), "higher") == 1.0


def test_median_and_iqm_are_those_of_the_definition() -> None:
    scores = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 800.0]])
    median, iqm, *_ = statistics.median_and_iqm(scores)
    assert median.value == 4.5
    assert iqm.value == np.mean([3, 4, 5, 6])  # a quarter of eight is cut at each end


def test_the_variance_split_is_that_of_the_anova_table() -> None:
    scores = np.array([[1.0, 2.0, 6.0], [3.0, 6.0, 6.0]])
    # Means of seeds 3 and 5, of tasks 2, 4, 6, of all 4. Sums of squares: seeds 3 (1 + 1) = 6 with 1 degree of freedom,
    # tasks 2 (4 + 0 + 4) = 16 with 2, all 26, so 4 are left with 2: mean squares 6, 8 and 2.
    parts = np.array([(6 - 2) / 3, (8 - 2) / 2, 2])
    assert statistics.variance(scores) == pytest.approx(tuple(parts / parts.sum()))
    assert statistics.variance(scores[:1]) is None


def test_wilcoxon_counts_every_task_once_and_halves_its_ties() -> None:
    a = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    b = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    # |d| = 0 1 2 3 4: ranks 1..5, of which the zero's is halved: T- = 0.5, mean 7.5, variance (5 6 11 / 4 - 1 / 4) / 6
    z = (0.5 - 7.5) / math.sqrt(82.5 / 6)
    assert statistics.wilcoxon(a, b) == pytest.approx(math.erfc(-z / math.sqrt(2)), rel=0.02)
    assert statistics.wilcoxon(a, a) == 1.0


@pytest.mark.parametrize("seeds", [1, 3])
def test_models_that_differ_by_the_margin_are_seldom_called_equivalent(seeds: int) -> None:
    rng, margin, found = np.random.default_rng(0), 1.0, []
    for sign in (1, -1) * 300:  # at the end of what the two tests reject, on either side
        models = 0.3 * rng.normal(size=(seeds, 1)) if seeds > 1 else np.zeros((1, 1))
        a = 5 * rng.normal(size=(1, 60)) + np.zeros((seeds, 1))
        b = a + sign * margin + models + crossed(rng, seeds, 60, (0.0, 1.0, 0.5))
        found.append(statistics.equivalence(a, b, margin) < 0.05)
    assert np.mean(found) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(found))
    assert seeds > 1 or np.mean(found) >= 0.05 - 3 * math.sqrt(0.05 * 0.95 / len(found))  # of tasks alone it is exact


def test_equivalence_agrees_with_the_two_one_sided_tests_of_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    a = rng.normal(size=(1, 40))
    b = a + 0.1 + 0.5 * rng.normal(size=(1, 40))
    above, below = (
        stats.ttest_1samp((a - b)[0], end, alternative=side).pvalue for end, side in ((-0.3, "greater"), (0.3, "less"))
    )
    assert statistics.equivalence(a, b, 0.3) == pytest.approx(max(above, below))
    assert statistics.equivalence(a, a, 0.3) == 0.0
    assert math.isnan(statistics.equivalence(a[:, :1], b[:, :1], 0.3))
    assert math.isnan(statistics.equivalence(a, np.full((1, 40), math.inf), 0.3))


def test_cohens_d_is_of_tasks_and_of_seeds() -> None:
    a, b = np.array([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0], [4.0, 5.0, 9.0]]), np.zeros((3, 3))
    # Tasks' means 2, 3, 7, seeds' 3, 3, 6: mean 4, standard deviations √7 and √3.
    assert statistics.effect(a, b) == pytest.approx((4 / math.sqrt(7), 4 / math.sqrt(3)))
    assert statistics.effect(a, b, paired_seeds=False).seeds == pytest.approx(4 / math.sqrt(3 / 2))
    assert math.isnan(statistics.effect(a[:2], b[:2]).seeds)
    assert statistics.effect(b, b) == (0.0, 0.0)


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    # In order 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and the last is no less than the third.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_the_probability_of_improvement_counts_pairs_of_seeds() -> None:
    a, b = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0], [2.0, 5.0]])
    # task 0: 1 < 2 and 3 > 2, so one half; task 1: ties, one half
    assert statistics.improvement(a, b, "higher").value == 0.5
    always = statistics.improvement(a + 10, b, "higher")
    assert always == pytest.approx((1.0, math.sqrt(0.05), 1.0))  # two tasks are few
    assert statistics.improvement(a + 10, b, "lower").value == 0.0


def test_a_profile_falls_from_all_to_none() -> None:
    scores: NDArray[np.float64] = np.array([[1.0, 2.0, 3.0, 4.0]])
    shares = [i.value for i in statistics.profile(scores, np.array([0.0, 2.5, 9.0]), "higher")]
    assert shares == [1.0, 0.5, 0.0]
