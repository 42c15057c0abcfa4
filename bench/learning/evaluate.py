"""Scores at every inner step of every task of a frozen manifest.

Letters: T tasks, K inner steps.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bench.core import seeds
from bench.core.errors import ManifestError
from bench.core.stream import Stream
from bench.core.task import SuiteTask
from bench.core.trees import of_tensors, part, raw, shapes_of, to, tree_leaves
from bench.core.types import Data, Interactive, Learner, Meta, Params, Split, State, Suite, Tasks
from bench.learning.batches import noise_is_large
from bench.learning.engines.vectorised import over_tasks
from bench.learning.rollouts import adapted

STEPS = 10  # every task is scored at inner steps 0..10, or further where a suite reports more
FROZEN = {"test": 600, "validation": 200}
CHUNK = 50  # tasks in memory at once, unless their queries are large
LARGE = 8 * 2**20  # bytes of queries: of photographs, what a network makes of them is hundreds of times as much


def frozen(suite: Suite, split: Split) -> int:
    """How many tasks of a split are frozen: those of a stream are as many as it has."""
    return suite.length if isinstance(suite, Stream) else FROZEN[split]


def manifest(suite: Suite, name: str, split: Split) -> tuple[Tasks, str]:
    """The frozen tasks of a suite's split, and their SHA-256; the same for every algorithm and seed.

    Raises:
        ManifestError: the tasks are not the ones that this version of the suite was published with.
    """
    tasks = suite.sample(
        frozen(suite, split), split, seeds.generator("manifest", name, suite.version, suite.setting, split)
    )
    digest = hashlib.sha256()
    for leaf in tree_leaves(of_tensors(tasks, f"what sample of {name} gives")):
        digest.update(f"{tuple(leaf.shape)}{leaf.dtype}".encode())
        digest.update(raw(leaf))
    found = digest.hexdigest()
    own = vars(type(suite)).get("manifests", {})  # a subclass goes by another name, so its tasks are others
    expected = own.get(f"{suite.setting}/{split}", found)
    if expected != found:
        raise ManifestError(
            f"the {split} tasks of {name} version {suite.version}, {suite.setting}, have SHA-256 {found[:16]}..., not "
            f"{expected[:16]}...: scores on them would not compare. Reinstall bench with its pinned torch."
        )
    return tasks, found


def steps_of(suite: Suite, algorithm: Learner) -> int:
    """How many inner steps are taken at test; no more than are reported where each costs environment steps."""
    if isinstance(suite, Interactive):
        return max(algorithm.steps, *suite.report_steps)
    return max(STEPS, algorithm.steps, *suite.report_steps)


def quoted_step(suite: Suite, algorithm: Learner) -> int:
    """The inner steps after which a learner is judged: the suite's last report step, or as many as it looks once in.

    Of a stream, whose report steps are numbers of points: its own, or the protocol's where it takes none in training.
    """
    if isinstance(suite, Stream):
        return int(algorithm.steps or suite.protocol["steps"].value)
    once = algorithm.steps and "steps" not in {field.name for field in fields(algorithm)}
    return algorithm.steps if once else suite.report_steps[-1]


@dataclass
class Clock:
    """Seconds of adapting to an inner step and of one prediction there: no other step's, and neither data nor scores.

    Tasks go together as they are scored, so that it is their time divided by their number.
    """

    until: int  # the inner step
    device: str = "cpu"
    seconds: float = 0.0
    tasks: int = 0

    @contextlib.contextmanager
    def counting(self, counts: bool) -> Iterator[None]:
        """Takes the time of what is done meanwhile, if it counts."""
        began = self._now() if counts else 0.0
        yield
        self.seconds += self._now() - began if counts else 0.0

    @property
    def per_task(self) -> float | None:
        """Seconds; None before any task."""
        return self.seconds / self.tasks if self.tasks else None

    def _now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def trace(
    suite: Suite,
    algorithm: Learner,
    meta: Meta,
    tasks: Tasks,
    steps: int,
    device: str = "cpu",
    kept: Params | None = None,
    *,
    by_task: bool = False,
) -> dict[str, Tensor]:
    """Metric -> [T, K + 1]: the scores before and after each of `steps` inner steps."""
    return traces((suite,), algorithm, meta, tasks, steps, device, kept, by_task=by_task)[0]


def traces(
    variants: Sequence[Suite],
    algorithm: Learner,
    meta: Meta,
    tasks: Tasks,
    steps: int,
    device: str = "cpu",
    kept: Params | None = None,
    *,
    by_task: bool = False,
    clock: Clock | None = None,
    domain: Sequence[Suite] = (),
) -> list[dict[str, Tensor]]:
    """Likewise for variants of one setting, which differ in the query alone: adapted once, scored as each of them.

    With a `domain`, a variant for each of `variants`, the tasks, their data and the scores are its own, and `variants`
    only predict. Where normalisation must not see the query, it goes by the running statistics in `kept`, if there are
    any; what vmap cannot take goes `by_task`. The `clock` takes the time of adapting and of predicting for the first of
    them; nothing of suites that are acted in, whose environments would be most of it.
    """
    shown = domain or variants
    acted_in = [variant for variant in shown if isinstance(variant, Interactive)]
    if acted_in:
        return [_rolled_out(variant, algorithm, meta, tasks, steps, device) for variant in acted_in]
    task = SuiteTask(variants[0])
    views = [SuiteTask.tested(variant, kept or {}) for variant in variants]
    judges = [SuiteTask(variant) for variant in shown]
    generator = seeds.generator("evaluate", shown[0].setting)
    clock = clock or Clock(-1)

    # The clock is read while vmap runs this, once for all tasks at a time.
    def one(support: Data, queries: tuple[Data, ...], noise: Data) -> list[dict[str, Tensor]]:
        with clock.counting(clock.until >= 0):
            state = algorithm.start(meta, noise)
        scores = []
        for k in range(steps + 1):
            with clock.counting(k == clock.until):
                seen = [algorithm.predict(meta, state, views[0], queries[0])]
            seen += [algorithm.predict(meta, state, v, q) for v, q in zip(views[1:], queries[1:], strict=True)]
            scores.append([j.score(p, query) for j, p, query in zip(judges, seen, queries, strict=True)])
            if k < steps:
                with clock.counting(k < clock.until):
                    state = algorithm.step(meta, state, task, support, k)
        return [_stacked([at_step[i] for at_step in scores]) for i in range(len(queries))]

    parts = []
    count = len(tree_leaves(tasks)[0])
    with torch.no_grad():
        size, shapes = chunk(shown[0]), shapes_of(meta)
        large = noise_is_large(algorithm, shapes, count)
        noise = () if large else to(algorithm.noise(shapes, count, generator), device)
        for i in range(0, count, size):
            some, its_noise = part((tasks, noise), slice(i, i + size))
            if large:
                alone = seeds.generator("evaluate", shown[0].setting, "noise", i)
                its_noise = to(algorithm.noise(shapes, len(tree_leaves(some)[0]), alone), device)
            support = to(shown[0].collect(some, meta, "support", 0, generator), device)
            queries = tuple(to(v.collect(some, meta, "query", steps, generator), device) for v in shown)
            parts.append(over_tasks(one, by_task=by_task)(support, queries, its_noise))
            clock.tasks += len(tree_leaves(some)[0])
    return [
        {name: torch.cat([part[i][name] for part in parts]).cpu() for name in parts[0][i]} for i in range(len(variants))
    ]


def chunk(suite: Suite) -> int:
    """How many of a suite's tasks are scored at once."""
    one: int = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(suite.example("query")))
    return max(1, min(CHUNK, LARGE // max(1, one)))


def _stacked(scores: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Metric -> [K + 1]; NaN at steps where there is no such score, as before a learner is sure of anything."""
    names = dict.fromkeys(name for at_step in scores for name in at_step)
    none = torch.full_like(next(iter(scores[0].values())), torch.nan)
    return {name: torch.stack([at_step.get(name, none) for at_step in scores]) for name in names}


def _rolled_out(
    suite: Interactive, algorithm: Learner, meta: Meta, tasks: Tasks, steps: int, device: str
) -> dict[str, Tensor]:
    """Scores of the very episodes from which the next inner step learns: none is collected for the score alone."""
    generator = seeds.generator("evaluate", suite.setting)
    parts = []
    count = len(tree_leaves(tasks)[0])
    noise = to(algorithm.noise(shapes_of(meta), count, generator), device)
    for i in range(0, count, CHUNK):
        some, its_noise = part((tasks, noise), slice(i, i + CHUNK))
        stages = adapted(suite, algorithm, meta, some, its_noise, steps, generator, device)
        with torch.no_grad():
            scores = [over_tasks(_acted(suite, algorithm, meta))(stage.state, stage.data) for stage in stages]
        parts.append({name: torch.stack([s[name] for s in scores], 1) for name in scores[0]})
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def _acted(suite: Suite, algorithm: Learner, meta: Meta) -> Callable[[State, Data], dict[str, Tensor]]:
    task = SuiteTask(suite)
    return lambda state, data: task.score(algorithm.predict(meta, state, task, data), data)
