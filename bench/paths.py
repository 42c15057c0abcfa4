"""Where a trained policy walks before and after each inner step, as NumPy arrays for the reports to draw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.core.errors import BenchError, unknown
from bench.core.records import Component, Record
from bench.core.types import Interactive, Learner, Meta
from bench.evaluate import manifest, steps_of
from bench.plan import algorithm_of, suite_of, view
from bench.rollouts import adapted
from bench.store import Store
from bench.train import Training
from reports.frame import label
from reports.paths import Walk
from suites.navigation2d import Places


def walks(root: Path, algorithm: str | None, tasks: int = 3) -> tuple[str, list[Walk]]:
    """A title, and the walks of the first test tasks by a finished cell's learner, task by task and step by step.

    Raises:
        BenchError: there is no such cell, or its suite is not in the plane.
    """
    store = Store.open(root)
    record = _found(store, algorithm)
    suite, learner, meta = _trained(store, record)
    if not isinstance(suite, Interactive) or not isinstance(suite.sample(1, "test", seeds.generator(0)), Places):
        raise BenchError(f"{label(record.spec.suite)} has no paths to draw: give a run of navigation2d.")
    places = tree_map(lambda x: x[:tasks], manifest(suite, record.spec.suite.name, "test")[0])
    noise = learner.noise(meta, tasks, seeds.generator("paths"))
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
        for stage in adapted(suite, learner, meta, places, noise, steps_of(suite, learner), seeds.generator("paths"))
        for t in range(len(tree_leaves(places)[0]))
    ]
    return f"{label(record.spec.suite)}, {label(record.spec.algorithm)}, seed {record.spec.seed}", found


def _found(store: Store, algorithm: str | None) -> Record:
    done = [record for record in store.records() if record.outcome == "finished"]
    if not done:
        raise BenchError(f"{store.root} holds no finished cell. `bench run --out {store.root} ...` makes some.")
    known = {label(record.spec.algorithm): record for record in reversed(done)}
    if algorithm is None and len(known) > 1:
        raise BenchError(f"{store.root} holds several algorithms. Name one with --algo: {', '.join(known)}.")
    name = algorithm or next(iter(known))
    if name not in known:
        raise unknown("algorithm in this run directory", name, known)
    return known[name]


def _trained(store: Store, record: Record) -> tuple[Any, Learner, Meta]:
    """The suite as it is tested on, the learner as it was selected, and what it was trained to."""
    spec, catalogue = record.spec, Catalogue()
    asked = suite_of(catalogue, _named(spec.suite))
    algorithm = algorithm_of(catalogue, _named(spec.algorithm), asked)
    trained, tested = (
        view(asked, v, spec.algorithm.name, catalogue) for v in (algorithm.train_view, algorithm.test_view)
    )
    meta = algorithm.init(trained.new_params, seeds.generator(spec.seed, "init"))
    if algorithm.trains:
        state = Training.load((store.folder(record.cell) / "checkpoint.safetensors").read_bytes(), meta)
        meta = state.best if spec.selection == "best" and state.best is not None else state.meta
    with torch.no_grad():
        return tested.evaluations[0], replace(algorithm, **record.selected), meta


def _named(component: Component) -> Named:
    return Named(component.name, {name: value for name, value in component.parameters.items() if value is not None})
