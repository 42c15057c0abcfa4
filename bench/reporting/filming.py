"""Films of trained learners: one test task's episodes before and after adaptation."""

import os
import sys
from pathlib import Path

import torch

from bench.cells.restore import finished, tested
from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.environment import variable
from bench.core.errors import BenchError, foreign
from bench.core.records import Record
from bench.core.trees import named_leaves, shapes_of, tree_map
from bench.core.types import Interactive, Learner, Meta, Suite
from bench.learning.evaluate import manifest
from bench.learning.rollouts import adapted
from bench.storage.store import Store


def film(root: Path, algo: str | None, suite: str | None, task: int, path: Path, plugins: tuple[Path, ...] = ()) -> str:
    """Writes a film of a run directory's finished cell of an algorithm; what is to be seen on it.

    Raises:
        BenchError: there is no such cell, or its suite cannot be filmed.
    """
    if sys.platform != "linux":
        return _film(root, algo, suite, task, path, plugins)
    with variable("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl")):  # no screen needed; mujoco reads it at its import
        return _film(root, algo, suite, task, path, plugins)


def _film(root: Path, algo: str | None, suite: str | None, task: int, path: Path, plugins: tuple[Path, ...]) -> str:
    store = Store.open(root)
    record = finished(store, suite, algo)
    catalogue = Catalogue(plugins)
    with foreign(f"{record.spec.suite.label} with {record.spec.algorithm.label} can't be filmed"):
        return _filmed(record, *tested(store, record, catalogue)[:3], catalogue, task, path)


def _filmed(
    record: Record, seen: Suite, chosen: Learner, meta: Meta, catalogue: Catalogue, task: int, path: Path
) -> str:
    if not isinstance(seen, Interactive) or not hasattr(seen, "film"):
        able = ", ".join(catalogue.having("film")) or "none"
        raise BenchError(f"{record.spec.suite.name} cannot be filmed. Suites that can be: {able}.")
    tasks, _ = manifest(seen, record.spec.suite.name, "test")
    if task >= record.spec.test_tasks:
        raise BenchError(
            f"there is no test task {task}. The cell was scored on tasks 0 to {record.spec.test_tasks - 1}."
        )
    one = tree_map(lambda x: x[task : task + 1], tasks)
    generator = seeds.generator("film", task)
    noise = chosen.noise(shapes_of(meta), 1, generator)
    stages = adapted(seen, chosen, meta, one, noise, max(seen.report_steps[:2]), generator)
    episodes = []
    with torch.no_grad():
        for stage in stages:
            length = int(stage.data.mask[0, 0].sum())
            earned = stage.data.rewards[0, 0].sum().item()
            updates = f"after {stage.step} update{'' if stage.step == 1 else 's'}" if stage.step else "before adapting"
            episodes.append((f"{updates}: return {earned:.1f}", stage.data.observations[0, :1, :length]))
    seen.film(episodes, path)
    goal = ", ".join(f"{name.strip('/.')} {value.flatten()[0].item():.3g}".strip() for name, value in named_leaves(one))
    return f"{record.spec.algorithm.label}, seed {record.spec.seed}, test task {task} ({goal})"
