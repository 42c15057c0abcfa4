"""Where a trained policy walks before and after each inner step, as NumPy arrays for the reports to draw."""

from pathlib import Path

from bench.cells.restore import finished, tested
from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError
from bench.core.trees import shapes_of, tree_leaves, tree_map
from bench.core.types import Interactive
from bench.learning.evaluate import manifest, steps_of
from bench.learning.rollouts import adapted
from bench.storage.store import Store
from reports.paths import Walk
from suites.navigation2d import Places


def walks(root: Path, suite: str | None, algorithm: str | None, tasks: int = 3) -> tuple[str, list[Walk]]:
    """A title, and the walks of the first test tasks by a finished cell's learner, task by task and step by step.

    Raises:
        BenchError: there is no such cell, or its suite is not in the plane.
    """
    store = Store.open(root)
    record = finished(store, suite, algorithm)
    plane, learner, meta = tested(store, record, Catalogue())
    if not isinstance(plane, Interactive) or not isinstance(plane.sample(1, "test", seeds.generator(0)), Places):
        raise BenchError(f"{record.spec.suite.label} has no paths to draw: give a run of navigation2d.")
    places = tree_map(lambda x: x[:tasks], manifest(plane, record.spec.suite.name, "test")[0])
    noise = learner.noise(shapes_of(meta), tasks, seeds.generator("paths"))
    found = [
        Walk(
            task=t,
            step=stage.step,
            goal=places.goal[t].numpy(),
            paths=[
                positions[taken].numpy()
                for positions, taken in zip(stage.data.observations[t, ..., :2], stage.data.mask[t], strict=True)
            ],
            score=float(stage.data.rewards[t].sum(-1).mean()),
        )
        for stage in adapted(plane, learner, meta, places, noise, steps_of(plane, learner), seeds.generator("paths"))
        for t in range(len(tree_leaves(places)[0]))
    ]
    return f"{record.spec.suite.label}, {record.spec.algorithm.label}, seed {record.spec.seed}", found
