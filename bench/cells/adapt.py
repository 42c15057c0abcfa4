"""A stored learner, adapted to data of one's own, predicts.

Letters: N examples, D target dimensions, W classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cells.restore import Restored, finished_cell, label, tested
from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, foreign
from bench.core.task import SuiteTask
from bench.core.trees import part, shapes_of, to, tree_flatten, tree_map, tree_unflatten
from bench.core.types import Data, Episode, Interactive, Prediction, Role, State, Suite
from bench.learning.evaluate import quoted_step
from bench.storage.store import Store


@dataclass(frozen=True)
class Trained:
    """A meta-trained learner as its cell was tested: what the validation tasks chose, not yet adapted."""

    seen: Restored
    label: str  # the cell's
    device: str

    @property
    def suite(self) -> Suite:
        """What its data look like."""
        return self.seen.suite

    def adapt(self, support: Any, steps: int | None = None) -> "Adapted":
        """The learner after inner steps on a support of one's own, ready to predict.

        Args:
            support: one task's data as the suite has them (without a task axis), or a pair (x [N, ...], y [N, D], or
                whole numbers [N] for classes) of tensors, arrays or lists.
            steps: inner steps; by default as many as its cell was judged after.

        Raises:
            BenchError: the data are not of the suite's shape, or the number of steps is none.
        """
        steps = quoted_step(self.suite, self.seen.learner) if steps is None else steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise BenchError(f"steps={steps!r} is no number of inner steps. Give 0 or more, such as 10.")
        _, learner, meta, _ = self.seen
        with foreign(f"{self.label} can't be adapted to this support"), torch.no_grad():
            data = _given(self.suite, "support", support)
            noise = part(learner.noise(shapes_of(meta), 1, seeds.generator("adapt")), 0)
            own, noise = to((data, noise), self.device)
            state = learner.adapted(meta, SuiteTask(self.suite), Episode((own,) * steps, (), noise))
        return Adapted(self, data, state)


@dataclass(frozen=True)
class Adapted:
    """A learner that has seen a support: call it with a query."""

    trained: Trained
    support: Data
    state: State

    def __call__(self, query: Any) -> Prediction:
        """The prediction for one task's query.

        Args:
            query: as the suite has them, or the inputs alone, x [N, ...], or a pair (x, y), whose y is not looked at.

        Returns:
            Values [N, D], a `Normal` of them, or log-probabilities of classes [N, W].

        Raises:
            BenchError: the query is not of the suite's shape.
        """
        trained = self.trained
        _, learner, meta, _ = trained.seen
        with foreign(f"{trained.label} can't predict for this query"), torch.no_grad():
            data = to(_given(trained.suite, "query", query, self.support), trained.device)
            prediction: Prediction = tree_map(Tensor.cpu, learner.predict(meta, self.state, trained.seen.task, data))
        return prediction


def learner(store: Store, cell: str, catalogue: Catalogue) -> Trained:
    """The learner of a finished cell.

    Raises:
        BenchError: there is no such cell, it acts instead of predicting, or its suite or algorithm is not at hand.
        StoreError: its checkpoint is missing, corrupt or of another cell.
    """
    record = finished_cell(store, cell)
    seen = tested(store, record, catalogue)
    if isinstance(seen.suite, Interactive):
        raise BenchError(
            f"{record.spec.suite.label} is a control suite: its learners adapt by acting in the suite's own tasks, not "
            f"to a support set. `bench draw {store.root} --algo {record.spec.algorithm.name}` shows what they do."
        )
    return Trained(seen, label(record.spec), record.spec.device)


def _given(suite: Suite, role: Role, given: Any, support: Data = None) -> Data:
    """One task's data: as the suite has them, or made of a pair (a query: of inputs alone)."""
    example = suite.example(role)
    two = type(given) in (tuple, list) and len(given) == 2
    if type(given) is type(example) and not two:
        data = tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) else torch.from_numpy(np.array(leaf)), given)
        x, y = (_like(read(data), read(example), f"{role} {read.__name__}") for read in (suite.inputs, suite.targets))
        _check(suite, x, y, role)
        return data
    if role == "query":  # a list of two inputs is no pair
        paired = two and np.ndim(given[0]) == suite.inputs(example).ndim
        return _made(suite, role, given[0] if paired else given, None, support)
    if not two:
        raise BenchError(
            f"a support of type {type(given).__name__} is neither {type(example).__name__}, which {_name(suite)} has, "
            "nor a pair (x, y). Give adapt((x, y)) one task's inputs and targets."
        )
    return _made(suite, role, given[0], given[1], support)


def _made(suite: Suite, role: Role, x: Any, y: Any, support: Data) -> Data:
    example = suite.example(role)
    leaves, spec = tree_flatten(example)
    inputs, targets, mask = suite.inputs(example), suite.targets(example), suite.mask(example)
    ahead = len(leaves[0]) - len(inputs)  # the support's inputs, where a query is normalised by them
    rest = [mask] if mask is not None else []
    pair = len(leaves) == 2 + len(rest) and torch.equal(leaves[0][ahead:], inputs) and torch.equal(leaves[1], targets)
    if not pair:
        raise BenchError(
            f"the data of {_name(suite)} are no pairs of inputs and targets. Give one task's {type(example).__name__}."
        )
    new_x = _like(x, inputs, f"{role} inputs")
    new_y = targets.new_zeros(len(new_x), *targets.shape[1:])  # of a query, which nobody looks at
    if role == "support":
        new_y = _like(y, targets, f"{role} targets")
        _check(suite, new_x, new_y, role)
        if suite.kind == "classification" and (absent := sorted(set(range(suite.outputs)) - set(new_y.tolist()))):
            raise BenchError(
                f"the support has no example of {', '.join(f'class {c}' for c in absent)}: a task of {_name(suite)} "
                f"has {suite.outputs} classes. Give each at least one, numbered from 0."
            )
    whole = torch.cat([suite.inputs(support), new_x]) if ahead else new_x
    return tree_unflatten([whole, new_y, *(m.new_ones(len(new_x)) for m in rest)], spec)


def _like(given: Any, example: Tensor, what: str) -> Tensor:
    """A tensor of the example's type and shape, but for how many examples there are."""
    try:
        found = given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    except (TypeError, ValueError) as error:
        raise BenchError(f"the {what} are no array of numbers ({error}). Give {_shape(example)}.") from None
    if found.shape[1:] != example.shape[1:] or not found.ndim or not len(found):
        raise BenchError(f"the {what} have the shape {list(found.shape)}. Give {_shape(example)}.")
    if not found.isfinite().all():
        raise BenchError(f"the {what} are not finite everywhere. Leave such examples out.")
    as_needed = found.to(example.dtype)
    if not example.is_floating_point() and not torch.equal(as_needed.to(found.dtype), found):
        raise BenchError(f"the {what} are no whole numbers. Give {_shape(example)}.")
    return as_needed


def _check(suite: Suite, x: Tensor, y: Tensor, role: Role) -> None:
    if len(x) != len(y):
        raise BenchError(f"the {role} has {len(x)} inputs and {len(y)} targets. Give one of each for every example.")
    if suite.kind == "classification" and not 0 <= int(y.min()) <= int(y.max()) < suite.outputs:
        raise BenchError(
            f"the {role}'s classes go from {int(y.min())} to {int(y.max())}. {_name(suite)} has {suite.outputs}: "
            f"number them from 0 to {suite.outputs - 1}."
        )


def _shape(example: Tensor) -> str:
    inner = "".join(f", {size}" for size in example.shape[1:])
    return f"[N{inner}], {'numbers' if example.is_floating_point() else 'whole numbers'}"


def _name(suite: Suite) -> str:
    return type(suite).__name__
