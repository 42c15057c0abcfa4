"""`bench report` on real and on odd run directories: a clear page or a short error, and the way back to the cells."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import bench
from bench.cli import main
from bench.core.discovery import Catalogue
from bench.core.records import Component, Record
from bench.planning.plan import Request, plan
from bench.reporting import report
from bench.storage.store import Store
from reports import comparison, figures
from reports.views import comparisons

OPTIONS: dict[str, Any] = {"preset": "smoke", "iterations": 20, "threads": 1, "engine": "eager"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report") / "runs"
    bench.run("sinusoid", ["maml", "fomaml", "scratch"], seeds=2, out=root, validate_every=10, **OPTIONS)
    return root


def called(*words: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, words)])


def changed(root: Path, folder: Path, **changes: Any) -> Path:
    """A store of the first cell's record with changes, as if it had been run so."""
    record = next(iter(Store.open(root).records()))
    spec = record.spec.model_copy(update=changes.pop("spec", {}))
    made = Record.model_validate(record.model_dump() | {"cell": spec.id, "spec": spec.model_dump()} | changes)
    store = Store.create(folder)
    store.write(spec.id, "record.json", made.model_dump_json().encode())
    if made.outcome == "finished":
        for name in ("scores.parquet", "curve.parquet"):
            shutil.copy(root / "cells" / record.cell / name, store.folder(spec.id))
    return folder


@pytest.mark.slow
def test_a_report_has_page_figures_tables_and_numbers_and_every_link_leads_to_a_file(runs: Path) -> None:
    done = called(runs)
    assert done.exit_code == 0, done.output
    assert "maml" in done.output
    folder = runs / "report"
    assert str(folder / "index.html") in done.output
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"adaptation-sinusoid", "learning-sinusoid", "regression-sinusoid", "profile-sinusoid"} <= names
    assert {"tasks-sinusoid", "cost-and-score", "second-order"} <= names
    links = re.findall(r'<a href="([^"#]+)"', (folder / "index.html").read_text())
    assert len(links) > 12
    assert [link for link in links if not (folder / link).exists()] == []
    scores = pd.read_parquet(folder / "data" / "scores.parquet")
    assert set(scores["algorithm"]) == {"maml", "fomaml", "scratch"}
    cells = pd.read_csv(folder / "data" / "cells.csv")
    assert json.loads(cells["parameters"].iloc[0])["meta_batch"] == 25
    compared = pd.read_csv(folder / "data" / "comparison.csv")
    loaded = bench.load(runs)
    own = loaded[(loaded["algorithm"] == "maml") & (loaded["setting"] == "K=5") & (loaded["step"] == 10)]
    shown = compared[(compared["algorithm"] == "maml") & (compared["setting"] == "K=5") & (compared["step"] == 10)]
    assert shown["mean"].item() == pytest.approx(own["value"].mean())


@pytest.mark.slow
def test_the_printed_commands_plan_the_same_cells(runs: Path) -> None:
    records = list(Store.open(runs).records())
    lines, notes = report.reproduce(records, Catalogue(()), runs)
    assert notes == []
    planned = set()
    for line in lines[:-1]:
        words = shlex.split(line)
        given = {name.removeprefix("--"): value for name, value in zip(words[2::2], words[3::2], strict=True)}
        request = Request(
            suites=given["suite"],
            algos=given["algos"],
            seeds=tuple(int(seed) for seed in given["seeds"].split(",") if seed),
            preset=given["preset"],
            iterations=int(given["iterations"]) if "iterations" in given else None,
            validate_every=int(given["validate-every"]),
            engine=given["engine"],  # type: ignore[arg-type]
            threads=int(given["threads"]),
        )
        planned |= {cell.id for cell in plan(request)}
    assert planned == {record.cell for record in records}


def test_predictions_are_those_of_the_stored_scores(runs: Path) -> None:
    from bench.cells.restore import tested
    from bench.learning.evaluate import manifest, trace

    store = Store.open(runs)
    record = next(r for r in store.records() if r.spec.algorithm.name == "maml")
    first, algorithm, meta, _ = tested(store, record, Catalogue(()))
    tasks, _ = manifest(first, "sinusoid", "test")
    again = trace(first, algorithm, meta, tasks, 10)["mse"][:20].double().numpy().ravel()
    scores = store.read_table(record.cell, "scores.parquet")
    assert again == pytest.approx(scores.loc[scores["setting"] == first.setting, "value"].to_numpy(), rel=1e-4)


@pytest.mark.slow
def test_confusions_count_every_test_image_as_the_stored_accuracy_does(tmp_path: Path) -> None:
    scores = bench.run("glyphs", ["maml", "scratch"], out=tmp_path, **OPTIONS | {"iterations": 2})
    contents = report.read(tmp_path, tmp_path / "report", Catalogue(()))
    found = contents.confusions
    headline = scores[(scores["norm"] == "transductive") & (scores["metric"] == "accuracy") & (scores["step"] == 3)]
    means = headline.groupby("algorithm")["value"].mean()
    assert set(found["algorithm"]) == {means.idxmax()}
    assert found["count"].sum() == 5 * headline["task"].nunique()
    assert 100 * found.loc[found["answer"] == "", "count"].sum() / found["count"].sum() == pytest.approx(means.max())
    assert set(found["truth"]) <= {"Georgian", "Arabic", "Armenian", "Lao", "Nko", "Tifinagh"}
    assert "right" in figures.confusion(found).axes[0].get_title(loc="left")


def test_costs_within_a_decade_have_numbers_beside_them(tmp_path: Path) -> None:
    bench.run("sinusoid", ["maml", "fomaml"], out=tmp_path, **OPTIONS | {"iterations": 2})
    contents = report.read(tmp_path, tmp_path / "report", Catalogue(()))
    cells = contents.cells.assign(train_seconds=[203.0, 401.0])
    compared = comparison.compare(comparison.cubes(contents.scores, cells))
    figure = figures.cost_and_score(compared, cells, figures.looks(cells["algorithm"]))
    figure.draw_without_rendering()
    axis = figure.axes[0].xaxis
    low, high = axis.get_view_interval()
    shown = [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert sum(bool(text) for text in shown) >= 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_directory_against_itself_changed_is_paired_by_task(runs: Path, tmp_path: Path) -> None:
    other = changed(runs, tmp_path / "other")
    made = called("--compare", runs, other, "--out", tmp_path / "page")
    assert made.exit_code == 0, made.output
    pairs = pd.read_csv(tmp_path / "page" / "data" / "differences.csv")
    names = {name.partition(" (")[0] for name in pd.concat([pairs["a"], pairs["b"]])}
    assert len(names) == 1
    assert pairs["tasks"].eq(20).all()
    verdict = (tmp_path / "page" / "index.html").read_text().partition('id="audit"')[2].partition("</div>")[0]
    assert "caution" in verdict and f"({runs.name})" in verdict and "(other)" in verdict  # of few seeds
    assert called("--compare", runs, runs).exit_code == 2


def test_two_directories_that_share_nothing_are_refused(runs: Path, tmp_path: Path) -> None:
    foreign = Component(name="else", given={}, parameters={}, source="")
    other = changed(runs, tmp_path / "other", spec={"suite": foreign})
    said = called("--compare", runs, other)
    assert said.exit_code == 2
    assert "nothing to pair" in said.output


def test_an_empty_run_directory_is_a_short_error(tmp_path: Path) -> None:
    Store.create(tmp_path / "runs")
    said = called(tmp_path / "runs")
    assert said.exit_code == 2
    assert "holds no finished cell" in said.output
    assert called(tmp_path / "none").exit_code == 2
    assert called().exit_code == 2


def test_a_directory_whose_cells_all_diverged_has_a_page_that_says_so(runs: Path, tmp_path: Path) -> None:
    root = changed(runs, tmp_path / "runs", outcome="diverged", message="the loss is <b>nan</b>")
    page = report.report(root).read_text()
    assert "1 of 1 cells diverged" in page
    assert "the loss is &lt;b&gt;nan&lt;/b&gt;" in page
    assert "<b>nan</b>" not in page


@pytest.mark.slow
def test_names_with_markup_stay_text_and_one_seed_speaks_of_tasks_alone(runs: Path, tmp_path: Path) -> None:
    evil = Component(name="<img src=x onerror=alert(1)>", given={"a": "$x_1$"}, parameters={}, source="")
    page = report.report(changed(runs, tmp_path / "runs", spec={"algorithm": evil})).read_text()
    assert "over tasks (fewer than three seeds: what another seed would reach is not in it)" in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "Add --plugin FILE for &lt;img" in page


@pytest.mark.slow
def test_two_versions_of_an_algorithm_are_told_apart_and_the_audit_says_so(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    record = next(iter(Store.open(runs).records()))
    changed(runs, root)
    edited = record.spec.algorithm.model_copy(update={"source": "edited"})
    changed(runs, root, spec={"algorithm": edited})
    page = report.report(root)
    compared = pd.read_csv(page.parent / "data" / "comparison.csv")
    assert compared["algorithm"].nunique() == 2
    assert 'class="verdict fault"' in page.read_text()


def test_who_says_how_sure_it_is_has_a_column_for_it_and_the_others_a_dash(tmp_path: Path) -> None:
    scores = bench.run("sinusoid", ["ensemble", "scratch"], out=tmp_path, **OPTIONS | {"iterations": 2})
    [view] = comparisons(scores, list(scores.store.records()))
    shown = view.frame().set_index("algorithm")["nll nats @10"]
    assert (shown["scratch"] == "–").all()
    assert shown["ensemble"].str.contains(r"\d|∞").all()


@pytest.mark.parametrize("strangers", [["index.html"], ["tables/thesis.tex"], ["figures/mine.svg", "data/x.csv"]])
@pytest.mark.parametrize("command", ["report", "report --compare", "cost"])
def test_a_folder_with_files_of_other_people_is_refused_and_left_as_it_is(
    runs: Path, tmp_path: Path, command: str, strangers: list[str]
) -> None:
    folder = tmp_path / "thesis"
    for name in strangers:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work")
    words = {
        "report": ["report", str(runs)],
        "report --compare": ["report", "--compare", str(runs), str(tmp_path / "other")],
        "cost": ["cost", "--suite", "sinusoid", "--algos", "maml"],
    }[command]
    done = CliRunner().invoke(main, [*words, "--out", str(folder)])
    assert done.exit_code == 2 and "is not empty and is no" in done.output and "another folder" in done.output
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == dict.fromkeys(strangers, "years of work")


@pytest.mark.slow
def test_a_report_is_not_written_among_the_cells_and_only_over_a_report(runs: Path, tmp_path: Path) -> None:
    assert called(runs, "--out", str(runs)).exit_code == 2
    assert not (runs / "index.html").exists()
    for within in ("cells/report", "tuning", "tuning/report", "report/../tuning"):
        said = called(runs, "--out", runs / within)
        assert said.exit_code == 2 and "would lie among the" in said.output
        assert not (runs / within).exists()
    folder = tmp_path / "report"
    folder.mkdir()
    for _ in range(2):  # an empty folder, then our own
        assert called(runs, "--out", str(folder)).exit_code == 0
        (folder / "notes.txt").write_text("mine")
    assert (folder / "notes.txt").read_text() == "mine"
