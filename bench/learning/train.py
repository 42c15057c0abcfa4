"""Meta-training: sample tasks, take the meta-gradient, follow the outer rule; every iteration can be resumed from.

What happens in an iteration depends on its number, the seed and the parameters alone, never on where a run was cut or
how long it will be.
"""

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_map, tree_unflatten

from bench.core import seeds
from bench.core.types import Episode, Interactive, Learner, Meta, Suite, Supervised
from bench.learning.evaluate import to
from bench.learning.rollouts import episode

BLOCK = 64  # iterations whose tasks are drawn at once
CACHE = 2**20  # bytes of data that are looked up at once
INTERVAL = 50  # iterations that share a row of the curve
MetaGradient = Callable[[Meta, Episode], tuple[Tensor, Meta]]
Outer = Callable[[Meta, Meta, Episode], tuple[Meta, dict[str, float]]]  # meta, its gradient -> the next, what to note


class Diverged(Exception):
    """The loss is no longer a number."""


@dataclass
class Training:
    """All that meta-training has come to: what a checkpoint holds."""

    meta: Meta
    moments: list[tuple[Tensor, Tensor]]  # Adam's, one pair per leaf of meta
    iteration: int = 0
    best: Meta = None
    best_score: float | None = None
    curve: list[tuple[int, float, float | None]] = field(default_factory=list)  # iteration, loss, validation
    losses: list[float] = field(default_factory=list)  # since the last row
    notes: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # of interactive suites: iteration, columns
    counts: dict[str, float] = field(default_factory=dict)  # so far: environment_steps, unstable
    pace: list[float] = field(default_factory=list)  # median seconds per iteration, of each row
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    pieces: int = 1
    whole: bool = True  # False while an iteration is applied: not to be saved

    @classmethod
    def begin(cls, meta: Meta) -> "Training":
        """Before the first iteration."""
        leaves, _ = tree_flatten(meta)
        return cls(meta, [(torch.zeros_like(leaf), torch.zeros_like(leaf)) for leaf in leaves])

    def save(self) -> bytes:
        """The checkpoint, as a safetensors file."""
        from safetensors.torch import save

        tensors = {f"meta{name}": leaf for name, leaf in named_leaves(self.meta)}
        if self.best is not None:
            tensors |= {f"best{name}": leaf for name, leaf in named_leaves(self.best)}
        for i, (first, second) in enumerate(self.moments):
            tensors |= {f"adam/{i}/first": first, f"adam/{i}/second": second}
        plain = (
            *("iteration", "best_score", "curve", "losses", "notes", "counts"),
            *("pace", "train_seconds", "compile_seconds", "pieces"),
        )
        state = {name: getattr(self, name) for name in plain}
        return save({k: v.contiguous().cpu() for k, v in tensors.items()}, {"state": json.dumps(state)})

    @classmethod
    def load(cls, content: bytes, like: Meta, device: str = "cpu") -> "Training":
        """The state in a checkpoint whose meta has the structure of `like`."""
        from safetensors.torch import load

        tensors = load(content)
        for name, leaf in named_leaves(like):
            if tensors[f"meta{name}"].shape != leaf.shape:
                raise ValueError(f"{name} has shape {tuple(tensors[f'meta{name}'].shape)}, not {tuple(leaf.shape)}")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        state: dict[str, Any] = json.loads(header["__metadata__"]["state"])
        names, spec = [name for name, _ in named_leaves(like)], tree_flatten(like)[1]

        def pick(prefix: str) -> Meta:
            return to(tree_unflatten([tensors[f"{prefix}{name}"] for name in names], spec), device)

        moments = [
            (to(tensors[f"adam/{i}/first"], device), to(tensors[f"adam/{i}/second"], device)) for i in range(len(names))
        ]
        best = pick("best") if state["best_score"] is not None else None
        curve = [(int(i), float(loss), score) for i, loss, score in state.pop("curve")]
        notes = [(int(i), columns) for i, columns in state.pop("notes", [])]
        return cls(meta=pick("meta"), moments=moments, best=best, curve=curve, notes=notes, **state)


def named_leaves(tree: Any) -> list[tuple[str, Tensor]]:
    """Path -> tensor of a pytree, in its order."""
    return [("/" + "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path), leaf)
            for path, leaf in tree_flatten_with_path(tree)[0]]  # fmt: skip


def episodes(
    suite: Suite, algorithm: Learner, meta: Callable[[], Meta], seed: int, start: int, device: str = "cpu"
) -> Iterator[Episode]:
    """The meta-batches of iteration `start` and those that follow, leaves [T, ...]."""
    count = algorithm.meta_batch
    for first in itertools.count(start - start % BLOCK, BLOCK):
        tasks = suite.sample(count * BLOCK, "train", seeds.generator(seed, "train", first // BLOCK))
        noise = algorithm.noise(meta(), count * BLOCK, seeds.generator(seed, "noise", first // BLOCK))
        begin = max(start, first)
        due = _part((tasks, noise), slice((begin - first) * count, None))
        if isinstance(suite, Supervised) and type(suite).collect is Supervised.collect:
            yield from _looked_up(suite, algorithm, due, device)
            continue
        for iteration, (some, its_noise) in enumerate(_cut(due, count), begin):
            its_noise = to(its_noise, device)
            generator = seeds.generator(seed, "collect", iteration)
            if isinstance(suite, Interactive):
                yield episode(suite, algorithm, meta(), some, its_noise, generator, device)
                continue
            support = suite.collect(some, meta(), "support", 0, generator) if algorithm.steps else ()
            query = suite.collect(some, meta(), "query", algorithm.steps, generator)
            yield Episode((to(support, device),) * algorithm.steps, to(query, device), its_noise)


def _looked_up(suite: Supervised, algorithm: Learner, due: tuple[Any, Any], device: str) -> Iterator[Episode]:
    # Small nets are trained in less time than it takes to look up a batch, so as many batches as a cache holds go
    # together; what a task shows depends on nothing but the task.
    one = _part(due[0], slice(1))
    shown = suite.look_up(one, "support"), suite.look_up(one, "query")
    size = algorithm.meta_batch * sum(leaf.nbytes for leaf in tree_flatten(shown)[0])
    for tasks, noise in _cut(due, algorithm.meta_batch * max(1, CACHE // max(1, size))):
        support = suite.look_up(tasks, "support") if algorithm.steps else ()
        together = to((support, suite.look_up(tasks, "query"), noise), device)
        for its_support, query, its_noise in _cut(together, algorithm.meta_batch):
            yield Episode((its_support,) * algorithm.steps, query, its_noise)


def _part(tree: Any, some: slice) -> Any:
    return tree_map(lambda leaf: leaf[some], tree)


def _cut(tree: Any, size: int) -> Iterator[Any]:
    leaves, spec = tree_flatten(tree)
    for piece in zip(*(leaf.split(size) for leaf in leaves), strict=True):
        yield tree_unflatten(list(piece), spec)


def train(
    state: Training,
    batches: Iterator[Episode],
    meta_gradient: MetaGradient,
    outer_lr: float,
    until: int,
    validate: Callable[[Meta], float | None] | None,
    validate_every: int,
    better: Callable[[float, float], bool],
    clip: float | None = None,
    suite: Suite | None = None,
    outer: Outer | None = None,
) -> Iterator[Training]:
    """Trains up to iteration `until`, yielding the same, updated state after every iteration.

    `outer` is the outer rule, Adam if None. Of an interactive `suite`, every row of the curve has its notes.

    Raises:
        Diverged: the loss is NaN or infinite; `state.iteration` is where.
    """
    leaves, spec = tree_flatten(state.meta)
    adam = torch.optim.Adam(leaves, outer_lr, fused=True)
    for leaf, (first, second) in zip(leaves, state.moments, strict=True):
        adam.state[leaf] = {
            "step": torch.tensor(float(state.iteration), device=leaf.device),
            "exp_avg": first,
            "exp_avg_sq": second,
        }
    recent: list[float] = []
    warm = False
    interactive = suite if isinstance(suite, Interactive) else None
    interval = interactive.curve_every if interactive else INTERVAL
    while state.iteration < until:
        began = time.perf_counter()
        batch = next(batches)
        loss, gradient = meta_gradient(tree_unflatten(leaves, spec), batch)
        state.whole = False
        noted: dict[str, float] = {}
        if outer is None:
            for leaf, g in zip(leaves, tree_flatten(gradient)[0], strict=True):
                leaf.grad = g if clip is None else g.clamp(-clip, clip)
            adam.step()
        else:
            moved, noted = outer(tree_unflatten(leaves, spec), gradient, batch)
            for leaf, new in zip(leaves, tree_flatten(moved)[0], strict=True):
                leaf.copy_(new)
        value = loss.item()
        seconds = time.perf_counter() - began
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value} in meta-iteration {state.iteration + 1}")
        state.iteration += 1
        state.losses.append(value)
        if warm:
            state.train_seconds += seconds
            recent.append(seconds)
        else:  # the first iteration of a piece compiles
            state.compile_seconds += seconds
            warm = True
        if interactive:
            noted = _counted(interactive, batch, state.counts) | noted
        if state.iteration % interval == 0 or state.iteration % validate_every == 0:
            score = validate(state.meta) if validate and state.iteration % validate_every == 0 else None
            state.curve.append((state.iteration, math.fsum(state.losses) / len(state.losses), score))
            state.losses.clear()
            if interactive:
                state.notes.append((state.iteration, noted))
            if recent:
                state.pace.append(statistics.median(recent))
                recent.clear()
            if score is not None and (state.best_score is None or better(score, state.best_score)):
                state.best, state.best_score = tree_map(lambda x: x.detach().clone(), state.meta), score
        if state.iteration == until and recent:
            state.pace.append(statistics.median(recent))
        state.whole = True
        yield state


def _counted(suite: Interactive, batch: Episode, counts: dict[str, float]) -> dict[str, float]:
    """The columns of a batch: what adds up so far, and the returns before and after adaptation."""
    tallies = [suite.tally(data) for data in (*batch.support, batch.query)]
    first, last = tallies[0].pop("return"), tallies[-1].get("return", 0.0)
    for tally in tallies:
        tally.pop("return", None)
        for name, value in tally.items():
            counts[name] = counts.get(name, 0.0) + value
    return {**counts, "return_before": first, "return_after": last if len(tallies) > 1 else first}
