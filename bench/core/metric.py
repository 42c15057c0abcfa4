"""What a score is called, which is better and between what it lies; for suites, records and reports alike."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One way to score a prediction."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    low: float = -math.inf  # no score is below; no interval of its mean either
    high: float = math.inf


NLL = Metric("nll", "nats", "lower")  # of predictions that are distributions; the default of `Suite.of_distributions`
GAP = Metric("gap", "nats", "lower")  # nll above that of Bayes' predictor; where `Suite.bayes` knows it
