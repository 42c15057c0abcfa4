"""What ANIL saves over MAML: seconds of a meta-iteration and of adapting at test, one after the other, A B A B.

Run by hand: `python tests/benchmarks/head_only.py glyphs compiled`. Raghu et al. 2019 (arXiv:1909.09157) report 1.7 and
4.1 times for 5-way 1-shot miniImagenet on their machine. Letters: T tasks.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.func import vmap

from algorithms.anil import ANIL
from algorithms.maml import MAML
from bench.core import seeds
from bench.core.discovery import Catalogue, parse
from bench.core.task import SuiteTask
from bench.core.types import Episode
from bench.learning.engines.vectorised import meta_gradient
from bench.planning.plan import suite_of

TASKS, STEPS, ROUNDS = 4, 5, 9


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main(text: str, engine: str) -> None:
    """Prints medians and the median ratio."""
    torch.set_num_threads(1)
    suite = suite_of(Catalogue(), parse(text)[0]).stand_in()
    task, generator = SuiteTask(suite), seeds.generator("head only")
    params = task.new_params(generator)
    tasks = suite.sample(TASKS, "train", generator)
    support, query = (suite.collect(tasks, {}, role, 0, generator) for role in ("support", "query"))
    many = Episode((support,) * STEPS, query, (), torch.zeros(TASKS, dtype=torch.int64))
    learners = [kind(inner_lr=0.1, steps=STEPS, outer_lr=0.001, meta_batch=TASKS) for kind in (MAML, ANIL)]
    trains = [meta_gradient(suite, learner, compiled=engine == "compiled") for learner in learners]

    def adapts(learner: MAML) -> Callable[[], object]:
        def of(data: object) -> object:
            episode = Episode((data,) * STEPS, data)
            return learner.params(params, learner.adapted(params, task, episode))

        wrapped = torch.compile(vmap(of)) if engine == "compiled" else vmap(of)

        def call() -> object:
            with torch.no_grad():
                return wrapped(support)

        return call

    tests = [adapts(learner) for learner in learners]
    for name, calls in (
        ("meta-iteration", [lambda train=train: train(params, many) for train in trains]),
        ("adapting at test", tests),
    ):
        for call in calls:
            call()
        times = [[seconds(call) for call in calls] for _ in range(ROUNDS)]
        maml, anil = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        what = f"{text}, {engine}, {TASKS} tasks, {STEPS} steps, {name}"
        sys.stdout.write(f"{what}: maml {maml:.4f} s, anil {anil:.4f} s, {ratio:.2f}x\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
