"""What is trained on one suite is scored on another: its own rows, its own tasks, and nothing recorded is touched."""

import hashlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.api import results, run, score
from bench.cells import restore
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError
from bench.core.records import Record
from bench.core.trees import part
from bench.learning.elsewhere import familiar, misfit
from bench.learning.evaluate import manifest, steps_of, trace
from bench.reporting.report import report
from bench.storage.audit import audit
from bench.storage.store import Store
from reports.comparison import compare, cubes
from reports.frame import cells
from reports.views import domains
from suites.cifar_fs import CifarFS
from suites.glyphs import Glyphs
from suites.omniglot import Omniglot
from suites.sinusoid import Sinusoid
from suites.sinusoid_freq import SinusoidFreq
from suites.sinusoid_stream import SinusoidStream
from tests.conftest import bench

SMALL: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager", "iterations": 5}


def files(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def test_scores_elsewhere_are_of_the_learner_that_was_trained_and_of_the_tasks_there(tmp_path: Path) -> None:
    both = run("sinusoid", "maml,fomaml", out=tmp_path / "both", score_on="sinusoid_freq", **SMALL)
    store = Store.open(tmp_path / "both")
    away: Record = next(r for r in store.records() if r.spec.domain and r.spec.algorithm.name == "maml")
    home = store.record(away.spec.home.id)
    assert home is not None
    seen = restore.tested(store, home, Catalogue())
    domain = SinusoidFreq().evaluations[0]
    tasks = part(manifest(domain, "sinusoid_freq", "test")[0], slice(away.spec.test_tasks))
    found = trace(domain, seen.learner, seen.meta, tasks, steps_of(seen.suite, seen.learner))["mse"]
    rows = both[(both["cell"] == away.cell) & (both["setting"] == f"on sinusoid_freq: {domain.setting}")]
    mine = rows[rows["metric"] == "mse"].sort_values(["task", "step"])["value"].tolist()
    assert torch.allclose(torch.tensor(mine).view_as(found), found)
    assert set(both["domain"]) == {"", "sinusoid_freq"}

    before = files(store.root)
    alone = run("sinusoid", "maml,fomaml", out=tmp_path / "alone", **SMALL)
    later = score(tmp_path / "alone", "sinusoid_freq")
    assert len(later) > len(alone)
    ours, others = (sorted((r.cell, r.digest) for r in Store.open(tmp_path / n).records()) for n in ("both", "alone"))
    assert ours == others  # whether asked for at once or later
    run("sinusoid", "maml,fomaml", out=tmp_path / "both", score_on="sinusoid_freq", **SMALL)
    assert files(store.root) == before


@pytest.mark.slow  # it draws a report
def test_every_view_has_own_rows_for_a_domain(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    arguments = ("--suite", "glyphs", "--algos", "maml,fomaml", "--preset", "smoke", "--threads", "1", "--engine",
                 "eager", "--iterations", "2", "--out", str(root))  # fmt: skip
    bench("run", *arguments)
    said = bench("score", str(root), "--on", "glyphs[shots=2]").output
    assert "on glyphs[shots=2]: 5-way 2-shot" in said
    assert "glyphs: in its own domain and in others" in said
    found = audit(Store.open(root))
    assert found.sound
    compared = {c.suite: set(c.algorithms) for c in found.comparisons}
    assert compared == {key: {"maml", "fomaml"} for key in ("glyphs", "glyphs on glyphs[shots=2]")}
    page = report(root).read_text()
    assert "in its own domain and in others" in page
    assert "--score-on" in page


def test_ranks_stand_side_by_side_whatever_else_an_algorithm_was_trained_for(tmp_path: Path) -> None:
    run("sinusoid", "maml,fomaml", out=tmp_path, score_on="sinusoid_freq", **SMALL)
    frame = run("sinusoid", "maml", out=tmp_path, score_on="sinusoid_freq", **{**SMALL, "iterations": 7})
    assert len(frame)
    store = Store.open(tmp_path)
    records = list(store.records())
    known = cells(records)
    view = domains("sinusoid", compare(cubes(results(store, records), known)), known)
    names = [row[view.columns.index("algorithm")].text for row in view.rows]
    assert sorted(names) == ["fomaml", "maml, iterations 5", "maml, iterations 7"]
    assert sum("on sinusoid_freq" in column for column in view.columns) == 1
    ranks = [{row[i].text.rpartition("(")[2] for row in view.rows} for i in range(1, len(view.columns))]
    assert ranks == [{"1)", "2)", "3)"}] * 2


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Sinusoid(), "its tasks are regression, not classification"),
        (CifarFS(), r"its inputs are float32 \[3, 32, 32\], not float32 \[1, 28, 28\]"),
        (Glyphs(ways=7), "its tasks have 7 classes, not 5"),
        (Glyphs(shots=3, net="fc"), "^$"),
    ],
)
def test_what_shows_other_inputs_is_refused_in_words(other: Any, why: str) -> None:
    assert re.search(why, misfit(Glyphs(), other))


def test_a_stream_is_scored_by_its_rounds_alone() -> None:
    for one, other in itertools.permutations([Sinusoid(), SinusoidStream()]):
        assert "rounds" in misfit(one, other)
    assert "rounds" in misfit(SinusoidStream(), SinusoidStream(points=60))


def test_refusals_name_what_is_wrong_and_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="can't be scored on glyphs: its tasks are classification, not regression"):
        run("sinusoid", "maml", out=tmp_path / "a", score_on="glyphs", **SMALL)
    with pytest.raises(BenchError, match="its scores are there without"):
        run("sinusoid", "maml", out=tmp_path / "a", score_on="sinusoid", **SMALL)
    with pytest.raises(BenchError, match=r"own rounds. Name a suite that is no stream"):
        run("sinusoid", "maml", out=tmp_path / "a", score_on="sinusoid_stream", **SMALL)
    assert not (tmp_path / "a").exists()
    run("sinusoid", "maml", out=tmp_path / "b", **SMALL)
    [record] = Store.open(tmp_path / "b").records()
    (tmp_path / "b" / "cells" / record.cell / "checkpoint.safetensors").unlink()
    with pytest.raises(BenchError, match="is missing, so that maml on sinusoid, seed 0 can't be scored"):
        score(tmp_path / "b", "sinusoid_freq")


def test_classes_that_were_trained_on_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(1)
    monkeypatch.setattr(Omniglot, "pixels", pixels)
    assert familiar(Omniglot(), Omniglot(shots=5)) == ""
    assert familiar(Omniglot(), Omniglot(split="alphabet")).endswith(" of the 659 test classes there were trained on")
    assert familiar(Omniglot(), Glyphs()) == ""
