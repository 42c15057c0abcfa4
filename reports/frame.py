"""Records -> one tidy DataFrame: a row per suite, setting, algorithm, seed, task, inner step and metric."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from bench.core.records import Record, Tuning

COLUMNS = [
    *("suite", "setting", "norm", "algorithm", "seed", "task", "step", "metric", "value"),
    *("iterations", "selection", "engine", "cell", "arm", "parameters", "domain"),
    *("seconds_per_iteration", "train_seconds", "peak_bytes", "environment_steps"),
]


def tidy(results: Iterable[tuple[Record, pd.DataFrame]]) -> pd.DataFrame:
    """Every task's score at every inner step of all finished cells, with the columns of `COLUMNS`.

    `arm` is the hash of a cell's specification without its seed; `parameters` is JSON of all the algorithm's. Where the
    tasks are of another domain, `domain` names it, and so does `setting`; such rows come last.
    """
    parts = [scores.assign(setting=[_setting(record, name) for name in scores["setting"]],
                           **{name: value for name, value in _about(record).items() if name in COLUMNS
                              and name not in scores})
             for record, scores in sorted(results, key=lambda pair: _away(pair[0]))]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def cells(records: Iterable[Record]) -> pd.DataFrame:
    """One row per cell, whatever became of it: what was run, what it cost and how its scores are to be read.

    `algorithm` is the label of one training alone, wherever it is scored; `base` is the same without what tells it from
    others. Cells that are scored on another domain come last.
    """
    records = sorted(records, key=_away)
    if not records:
        return pd.DataFrame()
    made = pd.DataFrame([_about(record) for record in records])
    tuned = {record.spec.arm: f"{record.tuning.algorithm.label} (tuned)" for record in records if record.tuning}
    base = [tuned.get(arm, name) for arm, name in zip(made["arm"], made["algorithm"], strict=True)]
    return _told_apart(made.assign(algorithm=base, base=base))  # the chosen values have a column


def _about(record: Record) -> dict[str, Any]:
    spec, judged = record.spec, record.judgement
    tuning = record.tuning  # the sweep that chose the parameters, where one did
    tuned = tuning.best.parameters if tuning and tuning.best else {}
    return {
        "suite": spec.suite.label,
        "algorithm": spec.algorithm.label,
        "seed": spec.seed,
        "iterations": spec.iterations,
        "selection": spec.selection,
        "engine": spec.engine,
        "cell": record.cell,
        "arm": spec.arm,
        "parameters": json.dumps(spec.algorithm.parameters, sort_keys=True),
        "seconds_per_iteration": _number(record.seconds_per_iteration),
        "train_seconds": record.train_seconds,
        "peak_bytes": _number(record.peak_bytes),
        "environment_steps": _number(record.environment_steps),  # where interaction is counted
        "domain": spec.domain.suite.label if spec.domain else "",
        "home": spec.home.arm,
        "trials": len(tuning.trials) if tuning else 0,
        "tuning_iterations": tuning.spent if tuning else 0,
        # what follows is not repeated in every row of scores
        "suite_name": spec.suite.name,
        "suite_given": json.dumps(spec.suite.given, sort_keys=True),
        "algorithm_name": spec.algorithm.name,
        "setting": _setting(record, next(iter((spec.domain or spec).manifests), "/").rpartition("/")[0]),
        "norm": spec.norm,
        "device": spec.device,
        "threads": spec.threads,
        "test_tasks": spec.test_tasks,
        "outcome": record.outcome,
        "message": record.message,
        "stopped_at": record.stopped_at,
        "cautions": json.dumps(record.cautions),
        "selected": json.dumps({**tuned, **record.selected}, sort_keys=True, default=str),
        "compile_seconds": record.compile_seconds,
        "evaluate_seconds": record.evaluate_seconds,
        "test_seconds": json.dumps({_setting(record, name): value for name, value in record.test_seconds.items()}),
        "finished": record.finished,
        "digest": record.digest,
        "metric": judged.headline.name,
        "unit": judged.headline.unit,
        "better": judged.headline.better,
        "metrics": judged.metrics,
        "report_steps": judged.report_steps,
        "after": judged.after,
        "floor": judged.floor,
        "caveat": judged.caveat,
    }


def _setting(record: Record, setting: str) -> str:
    """A setting of the domain that a cell is scored on says which."""
    domain = record.spec.domain
    return f"on {domain.suite.label}: {setting}" if domain else setting


def _away(record: Record) -> bool:
    return record.spec.domain is not None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


PROGRESS = [
    *("suite", "algorithm", "arm", "seed", "iteration", "seconds", "environment_steps", "score", "metric", "better"),
]


def progress(results: Iterable[tuple[Record, pd.DataFrame]]) -> pd.DataFrame:
    """Validation scores of cells against what had been spent on them by then, with the columns of `PROGRESS`."""
    parts = []
    for record, curve in results:
        rows, about = curve.dropna(subset="validation"), _about(record)
        share = rows["iteration"] / max(record.stopped_at, 1)
        unit = f" {about['unit']}" if about["unit"] else ""
        parts.append(
            pd.DataFrame(
                {
                    **{name: about[name] for name in ("suite", "algorithm", "arm", "seed", "better")},
                    "iteration": rows["iteration"],
                    "seconds": record.compile_seconds + share * record.train_seconds,
                    "environment_steps": share * about["environment_steps"],
                    "score": rows["validation"],
                    "metric": f"{about['metric']}{unit}",
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[PROGRESS] if parts else pd.DataFrame(columns=PROGRESS)


def trials(records: Iterable[Record]) -> pd.DataFrame:
    """The trials of the sweeps that chose the records' parameters: what each reached and what was spent by then."""
    chosen = {record.tuning.study: (record.spec, record.tuning) for record in records if record.tuning}
    sweeps = ((spec.suite.label, spec.algorithm.label, spec.arm, tuning) for spec, tuning in chosen.values())
    return pd.DataFrame([row for sweep in sweeps for row in _trials(*sweep)])


def trials_of(tunings: Iterable[Tuning]) -> pd.DataFrame:
    """Likewise of sweeps, whether or not anything was run with what they chose."""
    sweeps = ((tuning.suite.label, tuning.algorithm.label, tuning.study, tuning) for tuning in tunings)
    return pd.DataFrame([row for sweep in sweeps for row in _trials(*sweep)])


def _trials(suite: str, algorithm: str, arm: str, sweep: Tuning) -> Iterator[dict[str, Any]]:
    spent, best = 0, float("nan")
    for trial in sweep.trials:
        spent += trial.iterations
        score = _number(trial.score)
        best = min(best, score) if sweep.better == "lower" else max(best, score)
        best = score if best != best else best
        yield {
            **{"suite": suite, "algorithm": algorithm, "arm": arm},
            **{"trial": trial.number, "outcome": trial.outcome, "spent": spent, "score": score, "best": best},
            **{"metric": sweep.metric, "better": sweep.better, "parameters": json.dumps(trial.parameters)},
        }


def _told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with as much added to an algorithm's label as it takes to be that of one arm's training."""
    arms = frame.drop_duplicates(["suite", "home"])
    names = arms["algorithm"]
    for column in ("iterations", "selection", "engine", "home"):  # in a store that has grown, several may differ
        group = [arms["suite"], names]
        shared = arms.groupby(group)["home"].transform("nunique") > 1
        differs = arms.groupby(group)[column].transform("nunique") > 1
        what = "arm" if column == "home" else column
        names = names.where(~(shared & differs), names + f", {what} " + arms[column].astype(str))
    apart = dict(zip(zip(arms["suite"], arms["home"], strict=True), names, strict=True))
    return frame.assign(algorithm=[apart[key] for key in zip(frame["suite"], frame["home"], strict=True)])
