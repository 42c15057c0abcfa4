"""What sweeps found, as reported: the best of the trials so far, in every order."""

import numpy as np
import pytest

from bench.core.records import Component, Trial, Tuning
from reports.figures import looks
from reports.tuning import budget, running_best, summary


def tuning(*scores: float | None, better: str = "lower") -> Tuning:
    part = Component(name="maml", given={}, parameters={}, source="")
    trials = tuple(
        Trial(number=i, parameters={"inner_lr": 0.1 * (i + 1)}, default=i == 0,
              outcome="diverged" if score is None else "finished", score=score, iterations=10, cells=())
        for i, score in enumerate(scores)
    )  # fmt: skip
    return Tuning(
        study="s", suite=part, algorithm=part, space={"inner_lr": (0.01, 1.0, True)}, metric="mse",
        better=better, step=5, iterations=10, seeds=(0,), validation_tasks=200, sampler="tpe", pruner="none",
        seed=0, batch=5, trials=trials, finished="",
    )  # fmt: skip


@pytest.mark.parametrize(("better", "best"), [("lower", 1.0), ("higher", 4.0)])
def test_the_running_best_ends_at_the_best_in_every_order(better: str, best: float) -> None:
    came, orders = running_best(tuning(3.0, None, 4.0, 1.0, better=better))
    worst = np.inf if better == "lower" else -np.inf
    assert came.tolist() == ([3, 3, 3, 1] if better == "lower" else [3, 3, 4, 4])
    assert orders.shape == (2_000, 4)
    assert (orders[:, -1] == best).all()
    # Each trial comes first as often as any other, the diverged one too.
    assert sorted(set(orders[:, 0])) == sorted({3.0, worst, 4.0, 1.0})
    assert np.mean(orders[:, 0] == best) == pytest.approx(1 / 4, abs=0.04)
    # Of two drawn from four, half hold the best.
    assert np.mean(orders[:, 1] == best) == pytest.approx(1 / 2, abs=0.05)


def test_the_summary_counts_every_trial_and_iteration() -> None:
    [row] = summary([tuning(3.0, None, 1.0)]).to_dict("records")
    assert row["chosen"] == "inner_lr=0.3"
    assert (row["mse @5"], row["default's"]) == ("1", "3")
    assert (row["trials"], row["of them"], row["meta-iterations"]) == ("3", "2 finished, 1 diverged", "30")


def test_a_sweep_without_a_usable_trial_is_drawn_and_says_so() -> None:
    [row] = summary([tuning(None, None)]).to_dict("records")
    assert row["chosen"] == "none usable"
    assert len(budget([tuning(None, None)], looks(["maml"])).axes) == 1
