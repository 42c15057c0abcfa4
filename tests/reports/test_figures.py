"""What pictures say of made-up scores."""

import numpy as np
import pandas as pd

from reports.figures import critical_difference, looks

NOISE = np.random.default_rng(0).normal(size=(30, 4))
SUITES = [f"suite {i}" for i in range(30)]


def joined(errors: list[float], better: str = "lower") -> list[list[str]]:
    """Which of four algorithms with these mean errors on thirty suites each bar joins."""
    names = ["a", "b", "c", "d"]
    sign = 1 if better == "lower" else -1
    scores = pd.DataFrame(sign * (np.array(errors) + NOISE), columns=names, index=pd.Index(SUITES, name="suite"))
    figure = critical_difference(scores, dict.fromkeys(SUITES, better), looks(names))
    figure.draw_without_rendering()
    words = [word for text in figure.axes[0].texts for word in text.get_text().split()]
    ranks = dict(zip(words[::2], words[1::2], strict=True))  # on the left the name comes first, on the right last
    ranks = {k: v for pair in ranks.items() for k, v in [pair if pair[0] in names else pair[::-1]]}
    assert sorted(ranks) == names
    ends = [line.get_xdata() for line in figure.axes[0].get_lines() if line.get_gid() == "level"]
    return [sorted(name for name, rank in ranks.items() if end[0] <= float(rank) <= end[1]) for end in ends]  # type: ignore[index,operator]


def test_bars_join_neighbours_that_cannot_be_told_apart_and_no_others() -> None:
    assert joined([0.0, 9.0, 0.0, 9.0]) == [["a", "c"], ["b", "d"]]
    assert joined([0.0, 9.0, 18.0, 27.0]) == []
    assert joined([0.0, 0.0, 0.0, 0.0]) == [["a", "b", "c", "d"]]


def test_ranks_follow_what_a_suite_calls_better() -> None:
    assert joined([0.0, 0.0, 0.0, 9.0], "higher") == [["a", "b", "c"]]
