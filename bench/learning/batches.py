"""The meta-batches of every iteration, drawn from the seed and the iteration's number alone."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.core import seeds
from bench.core.call import Keyed
from bench.core.stream import Stream
from bench.core.trees import cut, of_tensors, part, shapes_of, to, tree_leaves, tree_map
from bench.core.types import Data, Episode, Interactive, Learner, Meta, Suite, Supervised, Tasks
from bench.learning.rollouts import episode

BLOCK = 64  # iterations whose tasks are drawn at once
CACHE = 2**20  # bytes of data that are looked up at once
NOISE = 2**28  # bytes of noise that are drawn at once


def episodes(
    suite: Suite, algorithm: Learner, meta: Callable[[], Meta], seed: int, start: int, device: str = "cpu"
) -> Iterator[Episode]:
    """The meta-batches of iteration `start` and those that follow, leaves [T, ...]."""
    count, shapes = algorithm.meta_batch, shapes_of(meta())
    large = noise_is_large(algorithm, shapes, count * BLOCK)

    def drawn_alone(iteration: int, drawn: Data) -> Data:
        if not large:
            return drawn
        return to(algorithm.noise(shapes, count, seeds.generator(seed, "noise of one", iteration)), device)

    for first in itertools.count(start - start % BLOCK, BLOCK):
        tasks = suite.sample(count * BLOCK, "train", seeds.generator(seed, "train", first // BLOCK))
        block = seeds.generator(seed, "noise", first // BLOCK)
        noise = () if large else algorithm.noise(shapes, count * BLOCK, block)
        draws = seeds.generator(seed, "dropout", first // BLOCK)
        keys = torch.randint(2**62, (count * BLOCK, 2), generator=draws) if suite.draws else ()
        numbers = torch.arange(first, first + BLOCK).repeat_interleave(count)
        begin = max(start, first)
        due = part((tasks, (noise, numbers, keys)), slice((begin - first) * count, None))
        if isinstance(suite, Supervised) and type(suite).collect is Supervised.collect:
            for iteration, batch in enumerate(_looked_up(suite, algorithm, due, begin, device), begin):
                yield batch._replace(noise=drawn_alone(iteration, batch.noise))
            continue
        for iteration, (some, drawn) in enumerate(cut(due, count), begin):
            now, (its_noise, number, key) = algorithm.at(iteration), to(drawn, device)
            its_noise = drawn_alone(iteration, its_noise)
            generator = seeds.generator(seed, "collect", iteration)
            if isinstance(suite, Interactive):
                acted = episode(suite, now, meta(), some, its_noise, generator, device)
                yield acted._replace(iteration=number)
                continue
            support = suite.collect(some, meta(), "support", 0, generator) if now.steps else ()
            query = suite.collect(some, meta(), "query", now.steps, generator)
            support, query = to((support, query), device)
            yield _episode(now.steps, support, query, its_noise, number, key)


def noise_is_large(algorithm: Learner, shapes: Meta, count: int) -> bool:
    """Whether the noise of so many tasks had better not be drawn at once."""
    one = algorithm.noise(shapes, 1, seeds.generator("size of noise"))
    leaves = tree_leaves(of_tensors(one, f"what noise of {type(algorithm).__name__} gives"))
    size: int = count * sum(leaf.nbytes for leaf in leaves)
    return size > NOISE


def points(
    suite: Stream, learner: Learner, meta: Meta, tasks: Tasks, places: Tensor, draws: tuple[int | str, ...], device: str
) -> Episode:
    """The meta-batch of a stream's points at `places` [T, 2 shots]: half to adapt to, half to be judged on.

    All of them are judged where a learner takes no inner step. What is random depends on `draws` alone.
    """
    count = len(places)
    noise = learner.noise(shapes_of(meta), count, seeds.generator(*draws, "noise"))
    generator = seeds.generator(*draws, "dropout")
    key = torch.randint(2**62, (count, 2), generator=generator) if suite.draws else ()
    shown = suite.show(tasks, places)
    half = suite.shots if learner.steps else 0
    support, query = tree_map(lambda x: x[:, :half], shown), tree_map(lambda x: x[:, half:], shown)
    number = torch.full((count,), int(draws[-1]))
    return _episode(learner.steps, *to((support, query, noise, number, key), device))


def _looked_up(
    suite: Supervised, algorithm: Learner, due: tuple[Any, Any], begin: int, device: str
) -> Iterator[Episode]:
    # Small nets are trained in less time than it takes to look up a batch, so as many batches as a cache holds go
    # together; what a task shows depends on nothing but the task.
    some = part(due[0], slice(2))
    shown = suite.look_up(some, "support"), suite.look_up(some, "query")
    tasks_shown, tasks_asked = len(tree_leaves(shown[1])[0]), len(tree_leaves(some)[0])
    size = algorithm.meta_batch * sum(leaf.nbytes for leaf in tree_leaves(shown)) // tasks_asked
    # A suite may make one task of a batch, as pretraining does; then no two batches may be looked up together.
    batches = max(1, CACHE // max(1, size)) if tasks_shown == tasks_asked else 1
    iteration = itertools.count(begin)
    for tasks, drawn in cut(due, algorithm.meta_batch * batches):
        support = suite.look_up(tasks, "support") if algorithm.steps else ()
        query = suite.look_up(tasks, "query")
        together = to((support, query, *part(drawn, slice(len(tree_leaves(query)[0])))), device)
        for batch in cut(together, algorithm.meta_batch):
            yield _episode(algorithm.at(next(iteration)).steps, *batch)


def _episode(steps: int, support: Any, query: Any, noise: Any, number: Any, key: Any) -> Episode:
    """The same support at each inner step; with a key of its own where the module draws."""
    if isinstance(key, tuple):
        return Episode((support,) * steps, query, noise, number)
    shown = tuple(Keyed(support, key[:, 0] + k) for k in range(steps))
    return Episode(shown, Keyed(query, key[:, 1]), noise, number)
