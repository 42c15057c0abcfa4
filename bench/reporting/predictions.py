"""What stored models predict, for figures: curves before and after adaptation, which classes are confused."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch

from bench.cells.restore import tested
from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.records import Record
from bench.core.task import SuiteTask
from bench.core.trees import shapes_of, tree_map
from bench.core.types import Data, Episode, Normal, Prediction
from bench.learning.engines.vectorised import over_tasks
from bench.learning.evaluate import manifest
from bench.storage.store import Store

TASKS = 2  # of the manifest's
CONFUSED_TASKS = 300  # of the test tasks at most: all 600 would be a third of a report's time
CHUNK, CELLS_AT_ONCE = 10, 2  # tasks in memory for each cell whose images are named
STEPS = (0, 1, 10)  # of Finn et al. 2017, figure 2
COLUMNS = ["suite", "algorithm", "arm", "task", "kind", "step", "x", "y"]
CONFUSED = ["suite", "algorithm", "arm", "truth", "answer", "count"]
UNREADABLE = (Exception, SystemExit)  # of somebody's own code: no figure is lost but what it spoils


def regression_curves(store: Store, records: Sequence[Record], catalogue: Catalogue) -> pd.DataFrame:
    """Truth, support points and predictions of every arm's first seed on the first test tasks.

    For suites with a method `grid`, which gives tasks whose query covers the inputs' range; other suites, and cells
    that can no longer be rebuilt (their code has changed, a plug-in is not at hand), have no rows. Columns: COLUMNS;
    kind is truth, support or prediction.
    """
    first: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.spec.seed):
        first.setdefault(record.spec.arm, record)
    parts = []
    for record in (record for record in records if first[record.spec.arm] is record):
        try:
            parts += _curves(store, record, catalogue)
        except UNREADABLE:
            continue
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


def confusions(store: Store, records: Sequence[Record], catalogue: Catalogue) -> pd.DataFrame:
    """Which kinds of classes the given cells take for which after the last report step, on the first test tasks.

    For suites with a property `kinds`, which names what each class is one of (an alphabet, say); others, and cells
    that can no longer be rebuilt, have no rows. Columns: CONFUSED; `count` images of kind `truth` were taken for
    another class of their task, of kind `answer`, or, without an answer, named right.
    """

    def rows(record: Record) -> list[tuple[object, ...]]:
        try:
            found = _confused(store, record, catalogue)
        except UNREADABLE:
            return []
        about = (record.spec.suite.label, record.spec.algorithm.label, record.spec.arm)
        return [(*about, *kinds, count) for kinds, count in found.items()]

    with ThreadPoolExecutor(CELLS_AT_ONCE) as pool:  # the convolutions of many tasks keep no more than a core busy
        return pd.DataFrame([row for found in pool.map(rows, records) for row in found], columns=CONFUSED)


def _confused(store: Store, record: Record, catalogue: Catalogue) -> Counter[tuple[str, str]]:
    if not hasattr(catalogue.load("suite", record.spec.suite.name), "kinds"):
        return Counter()
    seen = tested(store, record, catalogue)
    suite, algorithm, meta, _ = seen
    tasks, _ = manifest(suite, record.spec.suite.name, "test")
    tasks = tree_map(lambda leaf: leaf[: min(CONFUSED_TASKS, record.spec.test_tasks)], tasks)
    adapts, task, generator, steps = SuiteTask(suite), seen.task, seeds.generator("predictions"), suite.report_steps[-1]
    noise = algorithm.noise(shapes_of(meta), len(tasks.classes), generator)

    def answers(support: Data, query: Data, own: Data) -> torch.Tensor:
        state = algorithm.adapted(meta, adapts, Episode((support,) * steps, query, own))
        return _values(algorithm.predict(meta, state, task, query)).argmax(-1)

    kinds: Sequence[str] = suite.kinds  # type: ignore[attr-defined]
    found: Counter[tuple[str, str]] = Counter()
    for i in range(0, len(tasks.classes), CHUNK):
        some, own = tree_map(lambda leaf, i=i: leaf[i : i + CHUNK], (tasks, noise))
        support, query = (suite.collect(some, meta, role, steps, generator) for role in ("support", "query"))
        with torch.no_grad():
            answered = over_tasks(answers, by_task=record.spec.by_task)(support, query, own)
        for classes, labels, named in zip(some.classes.tolist(), query.labels.tolist(), answered.tolist(), strict=True):
            for right, answer in zip(labels, named, strict=True):
                found[kinds[classes[right]], "" if answer == right else kinds[classes[answer]]] += 1
    return found


def _curves(store: Store, record: Record, catalogue: Catalogue) -> list[list[tuple[object, ...]]]:
    if not hasattr(catalogue.load("suite", record.spec.suite.name), "grid"):
        return []
    seen = tested(store, record, catalogue)
    suite, algorithm, meta, _ = seen
    tasks = tree_map(lambda leaf: leaf[:TASKS], manifest(suite, record.spec.suite.name, "test")[0])
    adapts, view, generator = SuiteTask(suite), seen.task, seeds.generator("predictions")
    support = suite.collect(tasks, meta, "support", 0, generator)
    noise = algorithm.noise(shapes_of(meta), TASKS, generator)
    query = suite.collect(suite.grid(tasks), meta, "query", 0, generator)  # type: ignore[attr-defined]
    parts = []
    for task in range(TASKS):
        shown, grid, own = (tree_map(lambda leaf, i=task: leaf[i], data) for data in (support, query, noise))

        def rows(kind: str, step: int, x: torch.Tensor, y: torch.Tensor, i: int = task) -> list[tuple[object, ...]]:
            about = (record.spec.suite.label, record.spec.algorithm.label, record.spec.arm, i, kind, step)
            return [(*about, a, b) for a, b in zip(x[:, 0].tolist(), y[:, 0].tolist(), strict=True)]

        there = suite.mask(shown)
        x, y = (shown.x, shown.y) if there is None else (shown.x[there], shown.y[there])
        parts += [rows("truth", 0, grid.x, grid.y), rows("support", 0, x, y)]
        state = algorithm.start(meta, own)
        with torch.no_grad():
            for step in range(max(STEPS) + 1):
                if step in STEPS:
                    predicted = _values(algorithm.predict(meta, state, view, grid))
                    parts.append(rows("prediction", step, grid.x, predicted))
                if step < max(STEPS):
                    state = algorithm.step(meta, state, adapts, shown, step)
    return parts


def _values(prediction: Prediction) -> torch.Tensor:
    return prediction.mean if isinstance(prediction, Normal) else prediction
