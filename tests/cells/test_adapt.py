"""A stored learner adapts to a stranger's support, by every learner's own `predict`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench.cells.adapt import Trained
from bench.core.errors import BenchError, StoreError
from bench.core.trees import tree_map
from bench.core.types import Normal
from bench.learning.evaluate import manifest
from bench.storage.store import Store
from tests.conftest import ROOT

PROBES = ROOT / "tests" / "probes"
SMALL: dict[str, Any] = {"preset": "smoke", "iterations": 2, "engine": "eager", "threads": 1}
# suite, algorithm, its plug-ins
CELLS = {
    "sinusoid, its own network": ("sinusoid", "maml", []),
    "a rate that validation chose": ("sinusoid", "scratch", []),
    "rates beside parameters": ("sinusoid", "metasgd", []),
    "a view of its own": ("sinusoid", "oracle", []),
    "tasks of several sizes": ("sinusoid[shots=1-20]", "maml", []),
    "a plug-in suite": ("polynomial", "maml", [ROOT / "examples" / "polynomial.py"]),
    "an ensemble": ("sinusoid", "ensemble", []),
    "a network of the learner's": ("sinusoid", "cavia", []),
    "images": ("glyphs", "fomaml[meta_batch=2]", []),
    "images, the query not normalised by itself": ("glyphs[norm=inductive]", "fomaml[meta_batch=2]", []),
    "prototypes": ("glyphs", "prototypes[meta_batch=2]", [PROBES / "prototypes.py"]),
    "pretrained": ("glyphs", "finetune[meta_batch=2]", []),
    "batch normalisation that keeps statistics": ("glyphs[net=conv4-64,norm=inductive]", "maml[meta_batch=2]", []),
}
LONG = [name for name in CELLS if "glyphs" in CELLS[name][0]]


def learner_of(out: Path, suite: str, algorithm: str, plugins: list[Path]) -> Trained:
    frame = bench.run(suite, algorithm, out=out, plugins=plugins, **SMALL)
    return bench.load(out).learner(frame["cell"].iloc[0], plugins)


@pytest.fixture(scope="module")
def sinusoid(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return learner_of(tmp_path_factory.mktemp("sinusoid"), "sinusoid", "maml", [])


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return learner_of(tmp_path_factory.mktemp("glyphs"), "glyphs", "fomaml[meta_batch=2]", [])


@pytest.mark.forms(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(c, marks=pytest.mark.slow if c in LONG else ()) for c in CELLS])
def test_what_it_predicts_of_a_test_task_is_what_its_cell_was_scored_by(name: str, tmp_path: Path) -> None:
    suite_name, algorithm, plugins = CELLS[name]
    trained = learner_of(tmp_path, suite_name, algorithm, plugins)
    store, suite = Store.open(tmp_path), trained.suite
    [record] = store.records()
    tasks, _ = manifest(suite, record.spec.suite.name, "test")
    first = tree_map(lambda leaf: leaf[:1], tasks)
    generator = torch.Generator()
    support, query = (
        tree_map(lambda leaf: leaf[0], suite.collect(first, trained.seen.meta, role, 0, generator))
        for role in ("support", "query")
    )
    scores = store.read_table(record.cell, "scores.parquet")
    metric, steps = suite.metrics[0].name, suite.report_steps[-1]
    here = (scores["task"] == 0) & (scores["setting"] == suite.setting) & (scores["norm"] == suite.normalisation)
    for k in (0, steps):
        [stored] = scores.loc[here & (scores["metric"] == metric) & (scores["step"] == k), "value"]
        adapted = trained.adapt(support, k)
        predicted = adapted(query)
        assert trained.seen.task.score(predicted, query)[metric].item() == pytest.approx(stored, rel=1e-3, abs=1e-6)
        if suite.mask(support) is None:
            as_arrays = [np.asarray(part(support)) for part in (suite.inputs, suite.targets)]
            again = trained.adapt(as_arrays, k)(suite.inputs(query).numpy())
            for one, other in zip(*((p if isinstance(p, Normal) else [p]) for p in (predicted, again)), strict=True):
                torch.testing.assert_close(one, other)
    default = trained.adapt(support)(query)
    torch.testing.assert_close(default, predicted)


def test_lists_arrays_tensors_and_the_suite_s_own_type_give_one_prediction(sinusoid: Trained) -> None:
    x, y, query = [[0.0], [1.5]], [[0.0], [2.0]], [[0.5], [1.0]]
    expected = sinusoid.adapt((x, y))(query)
    assert expected.shape == (2, 1) and not expected.requires_grad
    points = type(sinusoid.suite.example("support"))
    for make in (torch.tensor, np.array, lambda values: torch.tensor(values, dtype=torch.float64)):
        torch.testing.assert_close(sinusoid.adapt((make(x), make(y)))(make(query)), expected)
    own = sinusoid.adapt(points(torch.tensor(x), torch.tensor(y)))
    torch.testing.assert_close(own(points(torch.tensor(query), torch.zeros(2, 1))), expected)
    torch.testing.assert_close(own((query, [[9.0], [9.0]])), expected)  # a query's targets are not looked at
    assert not torch.equal(sinusoid.adapt((x, y), steps=0)(query), expected)


@pytest.mark.slow
def test_a_support_need_not_be_of_the_suite_s_size_or_balanced(glyphs: Trained) -> None:
    images = torch.rand(8, 1, 28, 28)
    adapted = glyphs.adapt((images, [0, 0, 0, 1, 2, 3, 4, 4]))
    probabilities = adapted(torch.rand(3, 1, 28, 28)).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))


@pytest.mark.parametrize(
    ("support", "message"),
    [
        (([0.0, 1.0], [[0.0], [1.0]]), r"support inputs have the shape \[2\]. Give \[N, 1\], numbers"),
        (([[0.0, 1.0]], [[0.0]]), r"support inputs have the shape \[1, 2\]"),
        (([[0.0]], [0.0]), r"support targets have the shape \[1\]"),
        (([[0.0]], [[0.0], [1.0]]), "1 inputs and 2 targets"),
        ((np.zeros((0, 1)), np.zeros((0, 1))), r"shape \[0, 1\]"),
        (([[0.0], [0.0, 1.0]], [[0.0]]), "no array of numbers"),
        (([["a"]], [[0.0]]), "no array of numbers"),
        (([[float("nan")]], [[0.0]]), "not finite"),
        (np.zeros((2, 1)), "ndarray is neither Points, which Sinusoid has, nor a pair"),
        ("points", "str is neither"),
    ],
)  # fmt: skip
def test_a_support_of_another_shape_is_refused(sinusoid: Trained, support: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        sinusoid.adapt(support)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3, 5], "classes go from 0 to 5. Glyphs has 5: number them from 0 to 4"),
        ([-1, 1, 2, 3, 4], "classes go from -1"),
        ([0.5, 1, 2, 3, 4], "no whole numbers"),
        ([0, 1, 2, 3, 3], "no example of class 4"),
        ([[0], [1], [2], [3], [4]], r"shape \[5, 1\]. Give \[N\], whole numbers"),
    ],
)
def test_classes_that_are_none_are_refused(glyphs: Trained, labels: list[Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        glyphs.adapt((torch.rand(5, 1, 28, 28), labels))


def test_a_query_of_another_shape_and_a_number_of_steps_that_is_none_are_refused(sinusoid: Trained) -> None:
    for steps in (-1, 1.5, True):
        with pytest.raises(BenchError, match="is no number of inner steps"):
            sinusoid.adapt(([[0.0]], [[0.0]]), steps=steps)  # type: ignore[arg-type]
    adapted = sinusoid.adapt(([[0.0]], [[0.0]]))
    for query in ([0.0], [[0.0, 1.0]], np.zeros((2, 3, 1)), 3.0):
        with pytest.raises(BenchError, match="query inputs have the shape"):
            adapted(query)


@pytest.mark.slow
def test_a_cell_without_a_checkpoint_or_of_a_control_suite_is_refused(tmp_path: Path) -> None:
    frame = bench.run("sinusoid", "maml", out=tmp_path / "a", **SMALL)
    cell = frame["cell"].iloc[0]
    with pytest.raises(BenchError, match=rf"no finished cell 'x' in .*Finished are: {cell} \(maml on sinusoid, seed 0"):
        frame.learner("x")
    (frame.store.folder(cell) / "checkpoint.safetensors").unlink()
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors is missing"):
        frame.learner(cell)
    control = bench.run("navigation2d", "maml[meta_batch=2]", out=tmp_path / "b", **{**SMALL, "iterations": 1})
    with pytest.raises(BenchError, match=r"navigation2d is a control suite.*bench draw"):
        control.learner(control["cell"].iloc[0])
