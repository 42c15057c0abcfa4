"""Tables: what a task shows, what is never seen twice, and what is said of files that are no such tables."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.core import seeds
from bench.core.errors import DataError, MissingExtraError
from bench.core.task import SuiteTask
from bench.testing import check_suite
from suites.parts import tables
from suites.tabular import Tabular
from tests.conftest import bench

SKLEARN = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None and not os.environ.get("CI"), reason="needs the extra tabular"
)


def csv(path: Path, tasks: int = 12, rows: int = 20, goal: str = "classification") -> Path:
    """Tasks of 2 or 3 features, of 2 classes or of a target that is the first feature, doubled."""
    draws = np.random.default_rng(0)
    lines = ["site,length,width,mass,kind"]
    for task in range(tasks):
        for row in range(rows):
            x = draws.normal(size=3).round(3)
            mass = "" if task % 2 else str(x[2])
            kind = ("oak" if row % 2 else "elm") if goal == "classification" else str(2 * x[0] + 5)
            lines.append(f"s{task},{x[0]},{x[1]},{mass},{kind}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("goal", ["classification", "regression"])
def test_random_functions_have_features_as_they_say_and_targets_of_variance_one(goal: Any) -> None:
    suite = Tabular(goal=goal, ways=3, columns=6)
    tasks = suite.sample(500, "test", seeds.generator(0))
    number = tasks.present.sum(1)
    assert number.unique().tolist() == [1, 2, 3, 4, 5, 6]
    assert ((tasks.support != 0).any(1) == tasks.present.bool()).all()
    both = torch.cat([tasks.support, tasks.query], 1)
    assert all(len(rows.unique(dim=0)) == len(rows) for rows in both[:50])
    if goal == "regression":
        y = torch.cat([tasks.support_y, tasks.query_y], 1)
        assert y.square().mean().item() == pytest.approx(1, abs=0.05)
    else:
        assert tasks.support_y[0].tolist() == [0] * 5 + [1] * 5 + [2] * 5
        firsts = [task.support[:, 0].argsort().tolist() for task in (tasks._replace(support=tasks.support[:1]),)]
        assert firsts


def test_classes_of_functions_are_parts_of_their_values_named_at_random() -> None:
    suite = Tabular(columns=1, shots=30, queries=30)
    tasks = suite.sample(200, "test", seeds.generator(0))
    # Of one feature, the rows of a class lie together: a near neighbour is of one's own class.
    x, y = tasks.query[..., 0], tasks.query_y
    order = x.argsort(1)
    same = y.gather(1, order)
    assert (same[:, 1:] == same[:, :-1]).float().mean() > 0.8
    low = torch.where(y == 0, x, torch.nan).nanmean(1) < torch.where(y == 1, x, torch.nan).nanmean(1)
    assert 60 < low.sum() < 140


@pytest.mark.parametrize("goal", ["classification", "regression"])
def test_a_csv_gives_tasks_whose_columns_stay_where_they_are(tmp_path: Path, goal: Any) -> None:
    path = csv(tmp_path / "trees.csv", goal=goal)
    suite = Tabular(data=str(path), task="site", target="kind", goal=goal, shots=3, queries=5, columns=4)
    tasks = suite.sample(60, "train", seeds.generator(0))
    assert {tuple(row) for row in tasks.present.tolist()} == {(1, 1, 1, 0), (1, 1, 0, 0)}
    if goal == "regression":  # kind is 2 length + 5, of which nothing is left but the length's own place
        assert torch.allclose(tasks.support_y[..., 0], tasks.support[..., 0], atol=1e-5)
    names = [{table.name for table in suite._pools[split]} for split in ("train", "validation", "test")]
    assert [len(own) for own in names] == [8, 2, 2]
    assert len(set.union(*names)) == 12
    assert "trees.csv" in suite.setting
    assert not [check for check in check_suite(suite) if check.verdict == "FAULT"]


def test_tasks_with_few_rows_are_masked_and_those_without_a_class_left_out(tmp_path: Path) -> None:
    path = csv(tmp_path / "few.csv", rows=6, goal="regression")
    suite = Tabular(data=str(path), task="site", target="kind", goal="regression", shots=5, queries=5, columns=3)
    data = suite.look_up(suite.sample(4, "test", seeds.generator(0)), "support")
    assert data.mask[0].tolist() == [True, True, True, False, False]
    assert (data.x[:, 3:] == 0).all()
    assert SuiteTask(suite).mask(suite.example("query")) is not None
    lines = csv(tmp_path / "one.csv").read_text().splitlines()
    lines = [line.replace("oak", "elm") if line.startswith("s3,") else line for line in lines]
    (tmp_path / "one.csv").write_text("\n".join(lines))
    own = Tabular(data=str(tmp_path / "one.csv"), task="site", target="kind", shots=2, queries=3, columns=3)
    assert own.use()[1] == {"s3": "no feature that differs, or fewer rows than a task needs: 5 of each of 2 classes"}
    assert "1 of 12 tables left out, with too few rows (s3)" in own.caveat


@SKLEARN
@pytest.mark.parametrize("goal", ["classification", "regression"])
def test_the_tables_of_scikit_learn_are_split_whole(goal: Any) -> None:
    suite = Tabular(data="sklearn", goal=goal)
    names = [[table.name for table in suite._pools[split]] for split in ("train", "validation", "test")]
    tests = ["iris"] if goal == "classification" else ["iris", "diabetes"]
    assert names == [["digits", "breast_cancer"], ["wine"], tests]
    for table in tables.shipped():
        assert np.allclose(table.columns[:, table.there].mean(0), 0)
        assert np.allclose(table.columns[:, table.there].std(0), 1)
    check_suite(suite)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    tables.shipped.cache_clear()
    with pytest.raises(MissingExtraError, match=r"meta-bench\[tabular\]"):
        Tabular(data="sklearn").sample(1, "train", seeds.generator(0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no CSV in UTF-8"),
        (b"\xff\xfe\x00 binary", "is no CSV in UTF-8"),
        (b"1,2,3\n4,5,6\n", r"has no column 'task'; its first line is '1,2,3'. Write a header above the rows, or"),
        (b"task,x,target\n", "has no row with a 'task' and a 'target'"),
        (b"task,x,target\n" + b"a,1,\n" * 40, "has no row with a 'task' and a 'target'"),
        (b"task,x,target\na,1,0,7\na,2,1,7\n", "a row has more values than the header"),
        (b"task,x,target\n" + b"a,1,0\nb,inf,1\n" * 40, "column 'x' of .* holds 'inf', which is no number"),
        (b"task,x,target\na,1,0\na,red,1\n", "column 'x' of .* holds 'red', which is no number"),
        (b"task,x,target\na,1,0\nb,2,1\n", r"2 tasks \(a, b\).*A task needs rows: 20 of each of 2 classes"),
        (b"PK\x03\x04 a zip", "is no CSV in UTF-8|has no column 'task'"),
        (b"task,x,target\n" + b"a,,0\nb,,1\n" * 40, "none for train"),
        (b"task,target\n" + b"a,0\n" * 3, "has no column of features"),
        (b"task," + b",".join(b"x%d" % i for i in range(20)) + b",target\na" + b",1" * 21, "Give columns=20"),
    ],
)
def test_bad_tables_get_a_short_message(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        Tabular(data=str(tmp_path / "bad.csv")).check()


def test_a_file_that_is_not_there_is_told_by_the_command(tmp_path: Path) -> None:
    message = bench("run", "--suite", f"tabular[data={tmp_path}/no.csv]", "--algos", "maml", code=2).output
    assert "no.csv is no file. Give a CSV with a header" in message
    path = csv(tmp_path / "t.csv")
    said = bench("data", "check", f"tabular[data={path},task=site,target=kind,shots=2,queries=3]").output
    assert "fewest features" in said
