"""Merging run directories loses nothing and hides no contradiction."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import bench
from bench.cells.watch import Silent
from bench.cli import main
from bench.core.errors import BenchError, StoreError
from bench.planning.engines import remembered
from bench.planning.plan import Request
from bench.storage.audit import audit
from bench.storage.merge import merge
from bench.storage.store import Store
from bench.tuning.settings import Settings
from bench.tuning.sweep import sweeps, tune
from bench.tuning.tuned import tuned

SMALL: dict[str, Any] = {"preset": "smoke", "iterations": 2, "threads": 1, "engine": "eager"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    bench.run("sinusoid", "maml[meta_batch=2]", out=root / "maml", **SMALL)
    bench.run("sinusoid", "fomaml[meta_batch=2]", out=root / "fomaml", **SMALL)
    return root


@pytest.fixture
def stores(finished: Path, tmp_path: Path) -> tuple[Store, Store]:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Store.open(tmp_path / "maml"), Store.open(tmp_path / "fomaml")


def only(store: Store) -> Any:
    [record] = store.records()
    return record


def whats(sources: list[Path], into: Path) -> list[str]:
    return [merged.what for merged in merge(sources, into)]


def another_result(store: Store, digest: str = "f" * 64, **changes: Any) -> None:
    """Makes the store's record that of a machine which computed otherwise."""
    record = only(store)
    path = store.folder(record.cell) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"digest": digest} | changes))


def test_a_merge_holds_the_cells_of_both_and_can_be_repeated(stores: tuple[Store, Store], tmp_path: Path) -> None:
    roots = [store.root for store in stores]
    assert whats(roots, tmp_path / "both") == ["copied", "copied"]
    assert whats(roots, tmp_path / "both") == ["equal", "equal"]
    both = bench.load(tmp_path / "both")
    assert len(both) == sum(len(bench.load(root)) for root in roots)
    assert both.model(both["cell"].iloc[0])


def test_the_first_is_the_target_unless_another_is_named(stores: tuple[Store, Store]) -> None:
    one, two = stores
    done = CliRunner().invoke(main, ["merge", str(one.root), str(two.root)])
    assert (done.exit_code, done.output) == (0, f"1 copied, in {one.root}\n")
    assert [len(list(store.records())) for store in stores] == [2, 1]


def test_results_that_differ_are_both_kept_and_told_of(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, _ = stores
    other = Store.open(shutil.copytree(one.root, tmp_path / "other"))
    another_result(other)
    done = CliRunner().invoke(main, ["merge", str(one.root), str(other.root)])
    assert done.exit_code == 0
    assert "both are kept" in done.output and "1 DIFFER" in done.output
    cell = only(one).cell
    [rival] = one.rivals(cell)
    assert (rival.digest, only(one).digest != rival.digest) == ("f" * 64, True)
    assert (one.folder(cell) / f"scores-{'f' * 16}.parquet").exists()
    assert [finding.what for finding in audit(one).findings if finding.severity == "fault"] == ["digests differ"]
    assert CliRunner().invoke(main, ["audit", str(one.root)]).exit_code == 1
    assert whats([one.root, other.root], one.root) == ["differs"]
    assert len(one.rivals(cell)) == 1
    assert whats([one.root], tmp_path / "third") == ["copied"]
    assert len(Store.open(tmp_path / "third").rivals(cell)) == 1


def test_a_result_replaces_a_failure_and_never_the_other_way_round(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, _ = stores
    failed = Store.open(shutil.copytree(one.root, tmp_path / "failed"))
    another_result(failed, "", outcome="failed", files={})
    assert whats([failed.root], one.root) == ["kept"]
    assert only(one).outcome == "finished"
    assert whats([one.root], failed.root) == ["copied"]
    assert only(failed).digest == only(one).digest


def test_an_unfinished_cell_is_taken_with_its_checkpoint(stores: tuple[Store, Store]) -> None:
    one, two = stores
    cell = only(two).cell
    (two.folder(cell) / "record.json").unlink()
    assert whats([two.root], one.root) == ["copied"]
    assert (one.folder(cell) / "checkpoint.safetensors").exists()
    assert one.record(cell) is None


def test_what_cannot_be_merged_is_said_before_anything_is_copied(stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    with pytest.raises(StoreError, match="is no run directory"):
        whats([one.root, tmp_path / "nothing"], tmp_path / "both")
    with pytest.raises(BenchError, match="given twice"):
        whats([one.root, one.root], tmp_path / "both")
    (two.folder(only(two).cell) / "record.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="corrupt"):
        whats([one.root, two.root], tmp_path / "both")
    assert not (tmp_path / "both").exists()
    alone = CliRunner().invoke(main, ["merge", str(one.root)])
    assert alone.exit_code == 2 and "nothing to merge" in alone.output
    (two.root / "store.json").write_text('{"format": 1}')
    with pytest.raises(StoreError, match="Use the version of bench that wrote it"):
        whats([two.root], one.root)


def test_a_swapped_table_is_noticed_though_its_shape_is_right(stores: tuple[Store, Store]) -> None:
    one, two = stores
    scores = (two.folder(only(two).cell) / "scores.parquet").read_bytes()
    (one.folder(only(one).cell) / "scores.parquet").write_bytes(scores)
    with pytest.raises(StoreError, match=r"scores\.parquet .*its SHA-256 is .* as in the record"):
        bench.load(one.root)


class Fresh(Silent):
    """Counts the cells that were run and not found done."""

    count = 0

    def ends(self, cell: Any, record: Any, fresh: bool) -> None:
        self.count += fresh


def test_trials_and_sweeps_come_along(tmp_path: Path) -> None:
    request = Request(suites="sinusoid", algos="scratch", preset="smoke", threads=1, engine="eager")
    found = sweeps(request, Settings(trials=3))
    [(tuning, _)] = tune(found, tmp_path / "a", Silent())
    bench.run("sinusoid", "scratch", out=tmp_path / "b", **SMALL)
    assert set(whats([tmp_path / "a", tmp_path / "b"], tmp_path / "both")) == {"copied"}
    assert (tmp_path / "both" / "tuning" / tuning.study / "sweep.json").exists()
    assert [cell.tuning for cell in tuned(request, tmp_path / "both", (), remembered)] == [tuning]
    [(again, _)] = tune(found, tmp_path / "both", watch := Fresh())
    assert (watch.count, again.model_dump() | {"finished": ""}) == (0, tuning.model_dump() | {"finished": ""})


@pytest.mark.parametrize("into", [".", "maml/../maml", "linked", "maml", "maml/within", ".."])
def test_a_run_directory_is_not_merged_into_itself_nor_into_what_is_within(
    stores: tuple[Store, Store], tmp_path: Path, into: str
) -> None:
    root = stores[0].root
    (tmp_path / "linked").symlink_to(root)
    target = {".": root / ".", "..": root / ".."}.get(into, tmp_path / into)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(main, ["merge", str(root), "--into", str(target)])
    assert done.exit_code == 2, done.output
    assert "into itself. Name another" in done.output or "within the other" in done.output
    assert sorted(tmp_path.rglob("*")) == before
    assert CliRunner().invoke(main, ["merge", str(root), str(stores[1].root), "--into", str(root)]).exit_code == 0
