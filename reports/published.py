"""Published values beside measured ones; the two never share a column.

The rows of published.csv were read in the source of whoever measured ("primary"), or in a page that quotes it
("secondary"); `origin` says whether that was the method's own authors. `ci95` is there only where the source gives a
95 % interval, or the data to compute it from. `run_suite`, `run_algorithm`, `preset` and `seeds` are the command that
makes the value here, `differs` what is known to differ all the same.
"""

import json
import re
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from bench.core.labels import shown
from reports.statistics import Interval

WAYS = ("ways", "shots", "norm")  # of a suite's parameters, those that a setting's name says


def values() -> pd.DataFrame:
    """All published values that bench has something to hold against, one per row."""
    with files("reports").joinpath("published.csv").open() as file:
        return pd.read_csv(file, dtype={"step": "Int64", "iterations": "Int64"}, keep_default_na=True)


def beside(comparison: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The measured rows for which there is a published value, with it, its source and what differs in the protocol.

    `verdict` is "inside" or "outside" the published value ± its 95 % interval, and empty where there is none: a
    standard deviation over seeds is no such interval.
    """
    known = values()
    arms = cells.drop_duplicates("arm").set_index("arm")
    rows: list[dict[str, Any]] = []
    for measured in comparison.to_dict("records"):
        arm = arms.loc[measured["arm"]]
        last = int(arm["report_steps"][-1])
        found = known[(known["suite"] == arm["suite_name"]) & (known["algorithm"] == arm["algorithm_name"])]
        found = found[(found["setting"] == setting_of(measured["setting"])) | found["setting"].isna()]
        found = found[found["step"].fillna(last) == measured["step"]]
        headline = measured["norm"] == arm["norm"] and (measured["setting"] == arm["setting"])
        found = found[(found["norm"] == measured["norm"]) | (found["norm"].isna() & (measured["norm"] == arm["norm"]))]
        found = found[found["setting"].notna() | headline]
        given = json.loads(arm["suite_given"])
        found = found[[asked(row).items() <= given.items() for row in found.to_dict("records")]]
        for reference in found.to_dict("records"):
            value, half = float(reference["value"]), float(reference["ci95"])
            inside = abs(measured["mean"] - value) <= half
            rows.append(
                {
                    **{name: measured[name] for name in ("suite", "setting", "norm", "algorithm", "step")},
                    **{f"measured_{name}": measured[name] for name in ("mean", "low", "high")},
                    "published": value,
                    "published_ci95": half,
                    "verdict": "" if np.isnan(half) else "inside" if inside else "outside",
                    "source": reference["source"],
                    "grade": reference["grade"],
                    "protocol": "; ".join(_differences(arm, reference)),
                }
            )
    return pd.DataFrame(rows)


def setting_of(setting: str) -> str:
    """A setting as papers name it, who don't say how many queries they have."""
    return re.sub(r", \d+ queries$", "", setting)


def verdict(measured: Interval, value: float, half: float) -> tuple[str, float]:
    """Whether inside or outside, and the signed gap: inside is where either interval holds the other's value.

    Args:
        measured: here.
        value: published.
        half: of its interval; NaN where there is none.
    """
    gap = measured.value - value
    return ("inside" if abs(gap) <= half or measured.low <= value <= measured.high else "outside"), gap


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """What the command of a row of published.csv asks of its suite beyond what the setting says."""
    pairs = (part.split("=") for part in str(row["run_suite"]).partition("[")[2].rstrip("]").split(",") if part)
    said = WAYS if "-way" in str(row["setting"]) else ()
    return {name: int(text) if text.isdecimal() else text for name, text in pairs if name not in said}


def _differences(arm: "pd.Series[Any]", reference: dict[str, Any]) -> list[str]:
    """What is known to differ between the two protocols, and what the source says of its own."""
    said = []
    if not pd.isna(reference["iterations"]) and arm["iterations"] != reference["iterations"]:
        said.append(f"trained for {arm['iterations']:,} meta-iterations, published {reference['iterations']:,}")
    changed = {k: v for k, v in json.loads(arm["suite_given"]).items() if k not in WAYS}
    parameters = str(arm["algorithm"]).removeprefix(str(arm["algorithm_name"]))
    changed = {k: v for k, v in changed.items() if k not in asked(reference)}
    said += [f"suite with {k}={shown(v)}" for k, v in changed.items()]
    said += [f"algorithm with {parameters.strip('[]')}"] if parameters.startswith("[") else []
    if pd.isna(reference["step"]):
        said.append("inner steps at test not stated by the source")
    if pd.isna(reference["norm"]) and arm["norm"] != "none":
        said.append("normalisation not stated by the source")
    said += [] if pd.isna(reference["differs"]) else [reference["differs"]]
    return said + ([] if pd.isna(reference["notes"]) else [f"published: {reference['notes']}"])
