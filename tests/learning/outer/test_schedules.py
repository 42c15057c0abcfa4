"""Outer rates fall as they are told to."""

import pytest

from bench.core.errors import BenchError
from bench.core.outer import Adam


def test_an_exponential_leaves_its_share_at_the_end_and_its_root_halfway() -> None:
    outer = Adam(0.1, schedule="exponential", least=0.04).over(100)
    assert [outer.rate_at(i) for i in (0, 50, 100, 1000)] == pytest.approx([0.1, 0.02, 0.004, 0.004])


@pytest.mark.parametrize("least", [0.0, 1.5])
def test_an_exponential_that_leaves_no_share_is_refused(least: float) -> None:
    with pytest.raises(BenchError, match="leaves a share of it"):
        Adam(0.1, schedule="exponential", least=least)
