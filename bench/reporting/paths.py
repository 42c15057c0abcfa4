"""Where a trained policy walks before and after each inner step, as NumPy arrays for the reports to draw."""

from pathlib import Path

from bench.cells.restore import finished, tested
from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, foreign
from bench.core.records import Record
from bench.core.trees import shapes_of, tree_map
from bench.core.types import Interactive, Learner, Meta, Suite
from bench.learning.evaluate import manifest, steps_of
from bench.learning.rollouts import adapted
from bench.storage.store import Store
from reports.paths import Walk


def walks(
    root: Path, suite: str | None, algorithm: str | None, plugins: tuple[Path, ...] = (), count: int = 3
) -> tuple[str, list[Walk]]:
    """A title, and the walks of the first test tasks by a finished cell's learner, task by task and step by step.

    Raises:
        BenchError: there is no such cell, or its suite has no paths.
    """
    store = Store.open(root)
    record = finished(store, suite, algorithm)
    catalogue = Catalogue(plugins)
    with foreign(f"{record.spec.suite.label} with {record.spec.algorithm.label} can't be drawn"):
        return _walks(record, *tested(store, record, catalogue)[:3], catalogue, count)


def _walks(
    record: Record, plane: Suite, learner: Learner, meta: Meta, catalogue: Catalogue, count: int
) -> tuple[str, list[Walk]]:
    if not isinstance(plane, Interactive) or not hasattr(plane, "paths"):
        able = ", ".join(catalogue.having("paths")) or "none"
        raise BenchError(f"{record.spec.suite.label} has no paths to draw. Suites that have: {able}.")
    tasks = tree_map(lambda x: x[:count], manifest(plane, record.spec.suite.name, "test")[0])
    noise = learner.noise(shapes_of(meta), count, seeds.generator("paths"))
    found = []
    for stage in adapted(plane, learner, meta, tasks, noise, steps_of(plane, learner), seeds.generator("paths")):
        goals, positions = plane.paths(tasks, stage.data)
        found += [
            Walk(
                task=t,
                step=stage.step,
                goal=goal.numpy(),
                paths=[path[taken].numpy() for path, taken in zip(positions[t], stage.data.mask[t], strict=True)],
                score=float(stage.data.rewards[t].sum(-1).mean()),
            )
            for t, goal in enumerate(goals)
        ]
    return f"{record.spec.suite.label}, {record.spec.algorithm.label}, seed {record.spec.seed}", found
