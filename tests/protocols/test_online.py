"""Tasks and points come one after the other, and where a run was cut changes nothing of what is learned from them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import bench.protocols.online as online
from algorithms.ftml import FTML
from bench.api import results
from bench.cells.cell import Deadline, run_cell
from bench.cells.execute import run_cells
from bench.cells.watch import Silent
from bench.certificate.process import hash_there
from bench.core.discovery import Catalogue, parse
from bench.core.errors import BenchError
from bench.core.records import Record
from bench.core.trees import tree_map
from bench.learning.evaluate import manifest
from bench.learning.train import Diverged
from bench.learning.training import Training
from bench.places.execution import Execution
from bench.planning.plan import Cell, Request, plan, planned
from bench.protocols.online import Online, Pace
from bench.reporting.costing import cost
from bench.storage.audit import audit
from bench.storage.store import Store
from bench.tuning.settings import Settings
from bench.tuning.sweep import sweeps
from reports import figures
from reports.views import comparisons
from suites.sinusoid_stream import SinusoidStream
from tests.conftest import ROOT, StopAt

SUITE = "sinusoid_stream[points=20,unseen=5,shots=3]"  # of 4 rounds of 2 meta-iterations, after 1, where there are 9
TINY = SinusoidStream(points=20, unseen=5, shots=3)


def cells_of(algos: str, suite: str = SUITE, **options: Any) -> list[Cell]:
    small = {"preset": "smoke", "threads": 1, "engine": "eager", "iterations": 9}
    return plan(Request(suites=suite, algos=algos, **{**small, **options}))


def run(root: Path, algos: str, **options: Any) -> list[Record]:
    return run_cells(cells_of(algos, **options), Store.create(root), Silent(), None, ())


def protocol(algos: str, **options: Any) -> Online:
    [cell] = cells_of(algos, **options)
    return Online(cell.spec, cell.suite, cell.algorithm)


@pytest.mark.forms(1)
@pytest.mark.parametrize("algorithm", ["ftml", "from_scratch"])
def test_a_stream_that_was_cut_ends_with_the_digest_of_one_that_was_not(tmp_path: Path, algorithm: str) -> None:
    [whole] = run(tmp_path / "whole", algorithm)
    [cell] = cells_of(algorithm)
    store = Store.create(tmp_path / "cut")
    cuts = (1, 4, 5, 9)  # where a round begins, within one, where the next begins, at the end
    for cut in cuts:
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, store, StopAt(cut), Deadline(), Catalogue())
    record = run_cell(cell, store, Silent(), Deadline(), Catalogue())
    assert record is not None
    assert (record.digest, record.pieces) == (whole.digest, 1 + len(cuts))


@pytest.mark.parametrize("iterations", [8, 9, 60, 1000])
def test_a_look_comes_before_any_point_that_it_is_not_given(iterations: int) -> None:
    pace = Pace(TINY, 4, iterations)
    looks = pace.looks()
    assert [(look.round, look.amount) for look in looks] == [(r, a) for r in range(4) for a in (0, 5, 10, 20)]
    assert [look.iteration for look in looks] == sorted(look.iteration for look in looks)
    assert looks[-1].iteration == iterations
    for look in looks:
        met = [given for i in range(look.iteration) for number, given in [pace.present(i)] if number == 1 + look.round]
        assert max(met, default=0) <= look.amount
    shown = [pace.present(i) for i in range(iterations)]
    assert shown == sorted(shown)  # tasks and points only ever come
    assert {number for number, _ in shown} == set(range(5))


def test_what_has_not_come_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def looks(algorithm: str) -> tuple[list[Any], int]:
        followed = protocol(algorithm)
        state = followed.begin(None)
        try:
            for _ in followed.advance(state):
                pass
        except Diverged:
            pass
        return state.looks, state.iteration

    usual = online.stream

    def spoilt(*arguments: Any) -> Any:
        tasks, order, found = usual(*arguments)
        later = torch.arange(5) >= 3  # the third and fourth round's
        nan = tree_map(lambda x: torch.where(later.view(-1, 1, 1), torch.nan, x), tasks.tasks)
        return tasks._replace(tasks=nan), order, found

    whole = {name: looks(name)[0] for name in ("ftml", "toe", "ftl", "from_scratch")}
    monkeypatch.setattr(online, "stream", spoilt)
    for name, expected in whole.items():
        found, iteration = looks(name)
        assert found[:8] == expected[:8]
        assert iteration == (7 if name == "ftl" else 5)  # where the third round's task is first learned from


def test_each_follows_the_tasks_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[set[int]] = []
    state = Training(meta={}, iteration=7)  # the first of the last round, whose task is the fifth
    everything = {0, 1, 2, 3, 4}
    follows = {"ftml": everything, "toe": everything, "ftl": everything - {4}, "from_scratch": {4}}
    for name, expected in follows.items():
        monkeypatch.undo()
        followed = protocol(f"{name}[meta_batch=100]")
        monkeypatch.setattr(online, "part", lambda tree, some: met.append(set(some.tolist())) or tree)
        monkeypatch.setattr(online, "points", lambda *_: None)
        next(followed._batches(state))
        assert met[-1] == expected


def test_rounds_are_scored_as_their_looks_say(tmp_path: Path) -> None:
    [record] = run(tmp_path, "ftml")
    scores = Store.open(tmp_path).read_table(record.cell, "scores.parquet")
    table = scores.pivot_table(index="task", columns=["metric", "step"], values="value")
    assert set(table["mse"].columns) == {0, 5, 10, 20}
    assert set(scores["metric"]) == {"mse", "needed", "reached", "regret", "forgetting"}
    assert table["forgetting", 20].iloc[-1] == 0  # nothing came after it
    assert [metric.name for metric in record.judgement.metrics[1:5]] == ["needed", "reached", "regret", "forgetting"]
    followed = protocol("ftml")
    learned, looks = ((0, 10), (0, 20), (2, 0)), [(r, a) for r in range(4) for a in (0, 5, 10, 20)]
    made = [(*look, {"mse": 0.1 if look in learned else 4.0}) for look in looks]
    state = followed.begin(None)
    state.looks, state.iteration = made, 9
    found = followed.score(state).table.pivot_table(index="task", columns="metric", values="value")
    assert found["needed"].tolist() == [10, 20, 0, 20]
    assert found["reached"].tolist() == [100, 0, 100, 0]


def test_seeds_meet_the_same_tasks_in_other_orders_and_may_be_compared(tmp_path: Path) -> None:
    records = run(tmp_path, "toe,from_scratch", seeds=(0, 1))
    assert len({record.spec.order for record in records}) == 2
    assert len({str(record.spec.manifests) for record in records}) == 1
    assert audit(Store.open(tmp_path)).sound
    assert len({record.spec.arm for record in records}) == 2

    frame = results(Store.open(tmp_path), records)
    whole, parts = comparisons(frame, records)
    assert whole.notes[0].startswith("mse after @k points, mean")
    assert {"mse @10", "mse @20", "needed points", "reached %", "regret", "forgetting @20"} < set(whole.columns)
    assert parts.title == f"{SUITE}: as tasks come"
    which = ("tasks 1 to 2", "task 3", "task 4")
    columns = ("algorithm", *(f"{what}, {part}" for what in ("needed points", "mse @10") for part in which))
    assert parts.columns == columns
    needed = frame[(frame["metric"] == "needed") & (frame["algorithm"] == "toe") & (frame["task"] < 2)]["value"]
    [row] = [row for row in parts.rows if row[0].text == "toe"]
    assert row[1].order == needed.mean()

    shown = frame[frame["metric"].isin(["mse", "needed"])]
    drawn = figures.rounds(shown, figures.looks(["toe", "from_scratch"]), "mse", (10, 20), "lower")
    titles = [ax.get_title(loc="left") for ax in drawn.axes]
    assert titles == ["mse after 10 points", "mse after 20 points", "points needed"]
    assert [len(ax.lines) for ax in drawn.axes] == [2, 2, 2]


def test_a_longer_run_along_a_stream_is_another() -> None:
    [short], [long] = cells_of("toe"), cells_of("toe", iterations=12)
    assert short.spec.trajectory != long.spec.trajectory
    [short], [long] = cells_of("maml", "sinusoid"), cells_of("maml", "sinusoid", iterations=12)
    assert short.spec.trajectory == long.spec.trajectory


@pytest.mark.parametrize(
    ("suite", "algorithm", "said"),
    [
        (
            SUITE,
            "maml",
            r"learns from tasks that are drawn\. Write ftml\[learner=maml\]\..*from_scratch, ftl, ftml, toe",
        ),
        ("sinusoid", "ftml", r"Suites that ftml can meet: .*sinusoid_stream, stream"),
        (SUITE, "ftml[learner=toe]", r"toe can't be led along a stream"),
        (SUITE, "ftml[learner=scratch]", r"scratch can't be led along a stream"),
        (SUITE, "ftml[learner=protonet]", r"is for classification, and .* is regression"),
        ("stream[of=navigation2d]", "ftml", r"navigation2d is no suite whose tasks can come as a stream"),
        ("stream[of=sinusoid_stream]", "ftml", r"sinusoid_stream is no suite whose tasks can come as a stream"),
        ("sinusoid_stream[points=19]", "ftml", r"points=19 are fewer than the 20 .*: give shots=9 or less"),
        ("sinusoid_stream[known=199]", "ftml", r"has 200 tasks, .* Give known=196 or less"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(suite: str, algorithm: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        cells_of(algorithm, suite)


def test_fewer_iterations_than_rounds_are_refused() -> None:
    with pytest.raises(BenchError, match="4 meta-iterations are too few for the 4 rounds"):
        cells_of("ftml", iterations=4)


def test_an_inner_step_may_follow_the_sum_of_all_points() -> None:
    summed = dataclasses.replace(TINY, inner_loss="sum")
    data = TINY.look_up(TINY.sample(1, "test", torch.Generator()), "support")
    losses = torch.arange(12.0)
    assert TINY.mean(losses, data) == losses.mean()
    assert summed.mean(losses, data) == losses.sum() / 3  # 4 times the mean of 3 points


def test_a_task_gives_each_of_its_points_once() -> None:
    tasks = TINY.sample(2, "test", torch.Generator().manual_seed(0))
    shown = TINY.show(tasks, torch.arange(25).expand(2, -1))
    assert shown.x.shape == (2, 25, 1)
    assert all(len(task.unique()) == 25 for task in shown.x)
    later = TINY.show(tasks, torch.tensor([[3], [7]]))
    assert torch.equal(later.x[:, 0], torch.stack([shown.x[0, 3], shown.x[1, 7]]))


def test_any_learner_is_led_with_what_its_own_brackets_say() -> None:
    learners = {"anil": 5, "maml[steps=3,gradient=mixed]": 3, "metasgd": 1, "reptile[steps=7]": 7}  # and its steps
    for learner, steps in learners.items():
        [cell] = cells_of(f"ftml[learner={learner},meta_batch=2]")
        assert cell.algorithm.steps == steps
        assert parse(cell.spec.algorithm.label) == parse(f"ftml[learner={learner},meta_batch=2]")


def test_what_a_driver_is_given_its_learner_has() -> None:
    for given in ("reptile,steps=3,outer_lr=0.5", "reptile[steps=3,outer_lr=0.5]", "reptile[steps=3],outer_lr=0.5"):
        [cell] = cells_of(f"ftml[learner={given}]")
        assert isinstance(cell.algorithm, FTML)
        assert (cell.algorithm.led.steps, cell.algorithm.led.outer_lr) == (3, 0.5)
        assert (cell.algorithm.steps, cell.algorithm.outer_lr) == (3, 0.5)
        assert planned(cell.spec, Catalogue()).algorithm == cell.algorithm
    with pytest.raises(BenchError, match=r"steps=2 is not the steps=3 of learner=maml\[steps=3\]\. Give it once"):
        cells_of("ftml[learner=maml[steps=3],steps=2]")


@pytest.mark.slow
def test_somebodys_own_learner_is_led_and_somebodys_own_suite_comes_as_a_stream(tmp_path: Path) -> None:
    plugins = (ROOT / "examples" / "signmaml.py", ROOT / "examples" / "polynomial.py")
    cells = cells_of("ftml[learner=signmaml],ftml", "stream[of=polynomial,unseen=5,points=20]", plugins=plugins)
    records = run_cells(cells, Store.create(tmp_path), Silent(), None, plugins, Execution(workers=2))
    assert [record.outcome for record in records] == ["finished"] * 2
    assert cells[0].spec.algorithm.source != cells[1].spec.algorithm.source


def test_a_stream_of_somebodys_own_is_met(tmp_path: Path) -> None:
    probe = ROOT / "tests" / "probes" / "lines.py"
    cells = cells_of("ftml,toe", "lines", plugins=(probe,))
    records = run_cells(cells, Store.create(tmp_path), Silent(), None, (probe,))
    assert [(record.outcome, record.spec.protocol) for record in records] == [("finished", "online")] * 2


def test_what_a_drivers_learner_lacks_or_fixes_is_refused_and_not_searched() -> None:
    [cell] = cells_of("ftml[learner=cnp]")
    assert isinstance(cell.algorithm, FTML)
    assert (cell.algorithm.inner_lr, cell.algorithm.steps) == (None, 1)
    assert planned(cell.spec, Catalogue()).algorithm == cell.algorithm
    with pytest.raises(BenchError, match=r"inner_lr=0\.1 means nothing to learner=cnp, which has none\. Leave it out"):
        cells_of("ftml[learner=cnp,inner_lr=0.1]")
    with pytest.raises(BenchError, match="steps=3 means nothing to learner=cnp, which always has 1"):
        cells_of("ftml[learner=cnp,steps=3]")
    searched = {
        "cnp": {"outer_lr"},
        "maml[inner_lr=0.3]": {"outer_lr", "steps"},
        "maml": {"outer_lr", "steps", "inner_lr"},
    }
    for learner, names in searched.items():
        [sweep] = sweeps(Request(suites=SUITE, algos=f"ftml[learner={learner}]", preset="smoke", threads=1), Settings())
        assert set(sweep.space) == names


def test_a_sweep_on_a_stream_gives_each_trial_enough_meta_iterations() -> None:
    request = Request(suites=SUITE, algos="ftml", preset="smoke", threads=1, engine="eager")
    [sweep] = sweeps(request, Settings())
    rounds = sweep.cell.spec.validation_tasks
    assert sweep.request.iterations == 2 * rounds  # a tenth of the preset's would be fewer
    with pytest.raises(BenchError, match=rf"for the {rounds} rounds of .* --trial-iterations {2 * rounds} or more"):
        sweeps(dataclasses.replace(request, iterations=2 * rounds - 1), Settings())
    with pytest.raises(BenchError, match="a pruned trial would be another run"):
        sweeps(request, Settings(pruner="median"))


def test_the_cost_of_adapting_on_a_stream_is_that_of_the_learners_own_steps() -> None:
    found = cost(SUITE, "ftml,toe,ftml[learner=cnp],ftml[learner=maml[steps=2]]", steps=(1,), tasks=(2,), threads=1)
    assert dict(zip(found["algorithm"], found["test_steps"], strict=True)) == {
        "ftml": 5, "toe": 5, "ftml[learner=cnp]": 1, "ftml[learner=maml[steps=2]]": 2,
    }  # fmt: skip


def test_the_suite_that_comes_as_a_stream_has_brackets_of_its_own() -> None:
    [cell] = cells_of("ftml", "stream[of=glyphs[ways=3],points=20,unseen=5,shots=3]")
    assert cell.suite.outputs == 3
    assert cell.suite.head == {"head.weight", "head.bias"}
    with pytest.raises(BenchError, match=r"of=glyphs\[shots=2\] says shots, which points=20 and unseen=5"):
        cells_of("ftml", "stream[of=glyphs[shots=2],points=20,unseen=5,shots=3]")


def test_a_stream_of_somebodys_own_suite_is_certified() -> None:
    example = ROOT / "examples" / "polynomial.py"
    name = "stream[of=polynomial,unseen=5,points=20]"
    [cell] = cells_of("ftml", name, plugins=(example,))
    assert hash_there(cell.suite, "stream", "test") == manifest(cell.suite, "stream", "test")[1]
