"""A cell's result is its specification's: whatever was cut, resumed or extended on the way."""

import contextlib
import dataclasses
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import bench
from algorithms.maml import MAML
from bench.cells.cell import Deadline, run_cell
from bench.cells.execute import run_cells
from bench.cells.watch import Silent
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError, StoreError
from bench.core.records import Record, Spec
from bench.core.trees import named_leaves
from bench.learning.training import Training
from bench.planning.plan import Request, plan
from bench.storage.audit import audit
from bench.storage.store import Store
from reports.views import comparisons
from tests.conftest import StopAt

SMALL: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager"}


def cells_of(suite: str, algos: str, known: Iterable[Spec] = (), **options: Any) -> list[Any]:
    return plan(Request(suites=suite, algos=algos, **{**SMALL, **options}), known)


def run(root: Path, suite: str, algos: str, **options: Any) -> list[Record]:
    store = Store.create(root)
    return run_cells(cells_of(suite, algos, store.specs(), **options), store, Silent(), None, ())


@pytest.mark.forms(3)
@pytest.mark.parametrize(("engine", "cut"), [("eager", 64), ("learn2learn", 49), ("eager", 65), ("eager", 1)])
def test_an_interrupted_run_ends_with_the_digest_of_an_uninterrupted_one(tmp_path: Path, engine: str, cut: int) -> None:
    options: dict[str, Any] = {"iterations": 70, "engine": engine}
    [whole] = run(tmp_path / "whole", "sinusoid", "metasgd[meta_batch=2]", **options)
    [cell] = cells_of("sinusoid", "metasgd[meta_batch=2]", **options)
    store = Store.create(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, store, StopAt(cut), Deadline(), Catalogue())
    assert store.record(cell.id) is None
    record = run_cell(cell, store, Silent(), Deadline(), Catalogue())
    assert record is not None
    assert (record.digest, record.pieces) == (whole.digest, 2)


def test_more_iterations_go_on_from_the_shorter_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"selection": "best", "validate_every": 20}
    run(tmp_path / "a", "sinusoid", "maml", iterations=30, **options)
    [longer] = run(tmp_path / "a", "sinusoid", "maml", iterations=70, **options)
    [whole] = run(tmp_path / "b", "sinusoid", "maml", iterations=70, **options)
    assert longer.pieces == 2
    assert longer.digest == whole.digest


def test_a_finished_cell_is_not_run_again(tmp_path: Path) -> None:
    [first] = run(tmp_path, "sinusoid", "maml", iterations=5)
    [again] = run(tmp_path, "sinusoid", "maml", iterations=5)
    assert again == first


def test_a_finished_cell_says_what_adapting_to_a_test_task_took(tmp_path: Path) -> None:
    records = run(tmp_path, "sinusoid,bandit", "maml[meta_batch=2]", iterations=2)
    took = {record.spec.suite.name: record.test_seconds for record in records}
    assert list(took["sinusoid"]) == ["K=5", "K=10", "K=20"]
    [record] = [record for record in records if record.spec.suite.name == "sinusoid"]
    assert 0 < sum(took["sinusoid"].values()) < record.evaluate_seconds / record.spec.test_tasks
    assert took["bandit"] == {}  # the environment's time is not the learner's


def test_other_seeds_and_parameters_are_other_cells_with_other_results(tmp_path: Path) -> None:
    records = run(tmp_path, "sinusoid", "maml,maml[inner_lr=0.02],maml[steps=1]", seeds=(0, 1), iterations=5)
    assert len({record.digest for record in records}) == len(records) == 4  # steps=1 is the protocol's own


def test_all_algorithms_and_seeds_meet_the_same_test_tasks() -> None:
    cells = cells_of("sinusoid", "maml,finetune,oracle", seeds=(0, 1))
    assert len({tuple(cell.spec.manifests.items()) for cell in cells}) == 1


def test_a_diverged_cell_is_recorded_with_its_step_and_the_others_go_on(tmp_path: Path) -> None:
    diverged, finished = run(tmp_path, "sinusoid", "maml[inner_lr=1e30],maml", iterations=5)
    assert (diverged.outcome, finished.outcome) == ("diverged", "finished")
    assert "meta-iteration" in diverged.message


def test_a_failed_cell_is_recorded_with_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(learner: MAML, iteration: int) -> MAML:
        if iteration == 3:
            raise RuntimeError("boom")
        return learner

    with monkeypatch.context() as patched:
        patched.setattr(MAML, "at", at)
        [training] = run(tmp_path / "training", "sinusoid", "maml", iterations=5)
    assert (training.outcome, training.stopped_at) == ("failed", 3)
    assert training.message == "RuntimeError: boom (in meta-iteration 4 of 5)"
    monkeypatch.setattr("bench.protocols.episodic.Episodic.score", lambda *_: 1 / 0)
    [scoring] = run(tmp_path / "scoring", "sinusoid", "maml", iterations=5)
    assert (scoring.outcome, scoring.stopped_at) == ("failed", 5)
    assert scoring.message.endswith("(while the test tasks were scored)")


def test_editing_a_plug_in_makes_its_cells_run_again(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    source = (Path(__file__).parents[2] / "examples" / "signmaml.py").read_text().replace("SignMAML", "Mine")
    plugin.write_text(source)
    [before] = cells_of("sinusoid", "mine", plugins=(plugin,))
    plugin.write_text(source + "\n# edited\n")
    [after] = cells_of("sinusoid", "mine", plugins=(plugin,))
    assert before.id != after.id


def test_no_test_task_is_touched_before_meta_training_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench.protocols.episodic

    seen: list[str] = []
    original = bench.protocols.episodic.manifest

    def spy(suite: Any, name: str, split: Any) -> Any:
        seen.append(split)
        return original(suite, name, split)

    monkeypatch.setattr(bench.protocols.episodic, "manifest", spy)
    run(tmp_path, "sinusoid", "finetune", iterations=60, selection="best", validate_every=30)
    first_test = seen.index("test")
    assert "validation" in seen[:first_test]
    assert set(seen[first_test:]) == {"test"}


def test_a_rate_is_selected_on_the_validation_tasks_and_recorded(tmp_path: Path) -> None:
    [record] = run(tmp_path, "sinusoid", "scratch")
    assert set(record.selected) == {"inner_lr"}
    assert record.spec.iterations == 0


def test_the_store_gives_back_a_tidy_frame_and_the_trained_module(tmp_path: Path) -> None:
    frame = bench.run("sinusoid", ["maml", "metasgd"], out=tmp_path, iterations=5, **SMALL)
    loaded = bench.load(tmp_path)
    keys = ["algorithm", "setting", "task", "step"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(frame).sort_values(keys, ignore_index=True),
        pd.DataFrame(loaded).sort_values(keys, ignore_index=True),
    )
    assert set(loaded["step"]) == set(range(11))
    assert loaded.groupby(["algorithm", "setting"])["task"].nunique().unique().tolist() == [20]
    cell = loaded.loc[loaded["algorithm"] == "metasgd", "cell"].iloc[0]
    module = loaded.model(cell)
    assert module(torch.zeros(3, 1)).shape == (3, 1)
    with pytest.raises(BenchError, match="no finished cell"):
        loaded.model("0000")


def test_one_trained_cell_is_scored_with_both_normalisations(tmp_path: Path) -> None:
    [record] = run(tmp_path, "glyphs", "fomaml[meta_batch=2]", iterations=2)
    scores = Store.open(tmp_path).read_table(record.cell, "scores.parquet")
    assert set(scores["norm"]) == {"transductive", "inductive"}
    wide = scores[scores["metric"] == "loss"].pivot(index=["task", "step"], columns="norm", values="value")
    assert (wide["transductive"] != wide["inductive"]).any()


def test_training_states_survive_a_round_trip() -> None:
    meta = {"params": {"a.b": torch.randn(2, 3)}, "rates": {"a.b": torch.rand(2, 3)}}
    state = Training(meta, [{"exp_avg": torch.rand(2, 3)}, {"exp_avg": torch.rand(2, 3), "step": torch.tensor(7.0)}])
    state.kept = {"norms.0.mean": torch.rand(3)}
    state.iteration, state.losses, state.curve = 7, [0.1, 1 / 3], [(50, 0.5, None), (100, 0.25, 1 / 7)]
    loaded = Training.load(state.save("t"), meta, "t")
    bare = {"meta": None, "memory": [], "kept": {}}
    assert dataclasses.replace(loaded, **bare) == dataclasses.replace(state, **bare)
    before, after = (dict(named_leaves((s.meta, s.memory, s.kept))) for s in (state, loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


KEPT = {"iterations": 5}
FOREIGN: dict[str, dict[str, Any]] = {
    "another seed": {"seeds": (1,)},
    "another algorithm": {"algos": "fomaml"},
    "other parameters": {"algos": "maml[inner_lr=0.02]"},
    "another suite": {"suites": "sinusoid[shots=5]"},
    "another engine": {"engine": "learn2learn"},
    "other threads": {"threads": 2},
    "another selection": {"selection": "best"},
    "another source of the algorithm": {"edit": ("algorithm", "source", "0" * 64)},
    "another source of the suite": {"edit": ("suite", "source", "0" * 64)},
    "another version of the suite": {"edit": ("suite_version", 99)},
    "other frozen tasks": {"edit": ("manifests", {})},
    "a longer run": {"iterations": 9},
}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cell, and the folder of its store in which it has a checkpoint and no record."""
    root = tmp_path_factory.mktemp("unfinished")
    [record] = run(root, "sinusoid", "maml", **KEPT)
    (Store.open(root).folder(record.cell) / "record.json").unlink()
    return next(iter(cells_of("sinusoid", "maml", **KEPT))), root


def refused(cell: Any, store: Store, content: bytes) -> str:
    """Why a cell does not go on from a checkpoint."""
    path = store.folder(cell.id) / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        StoreError, match=r"checkpoint\.safetensors is corrupt or foreign .*Remove it and run again"
    ) as e:
        run_cell(cell, store, Silent(), Deadline(), Catalogue())
    assert store.record(cell.id) is None
    assert path.read_bytes() == content
    return str(e.value)


@pytest.mark.forms(4)
@pytest.mark.slow
@pytest.mark.parametrize("what", FOREIGN)
def test_a_checkpoint_of_another_cell_is_refused(tmp_path: Path, unfinished: Any, what: str) -> None:
    cell, _ = unfinished
    options = {"suites": "sinusoid", "algos": "maml", **KEPT, **FOREIGN[what]}
    suite, algos, edit = options.pop("suites"), options.pop("algos"), options.pop("edit", ())
    [other] = cells_of(suite, algos, **options)
    if edit:
        name, *path, value = edit
        before = getattr(other.spec, name)
        new = before.model_copy(update={path[0]: value}) if path else value
        other = dataclasses.replace(other, spec=other.spec.model_copy(update={name: new}))
    assert other.id != cell.id
    store = Store.create(tmp_path)
    with contextlib.suppress(StoreError):  # frozen tasks that are not there: it has trained by then
        run_cell(other, store, Silent(), Deadline(), Catalogue())
    content = (store.folder(other.id) / "checkpoint.safetensors").read_bytes()
    store.folder(cell.id).mkdir()
    assert ("of a longer run" if what == "a longer run" else "of another run") in refused(cell, store, content)


@pytest.mark.slow
def test_a_checkpoint_with_any_one_bit_turned_is_refused(tmp_path: Path, unfinished: Any) -> None:
    cell, root = unfinished
    store = Store.open(shutil.copytree(root, tmp_path / "store"))
    whole = (store.folder(cell.id) / "checkpoint.safetensors").read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    some = random.Random(0)
    for byte in (0, 8, header - 1, header, len(whole) - 1, *(some.randrange(n) for n in [header, len(whole)] * 5)):
        turned = bytearray(whole)
        turned[byte] ^= 1 << some.randrange(8)
        refused(cell, store, bytes(turned))


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 1, 8, 100, -1, -1000])
def test_a_checkpoint_cut_short_or_grown_is_refused(tmp_path: Path, unfinished: Any, cut: int) -> None:
    cell, root = unfinished
    store = Store.open(shutil.copytree(root, tmp_path / "store"))
    whole = (store.folder(cell.id) / "checkpoint.safetensors").read_bytes()
    refused(cell, store, whole[:cut])
    refused(cell, store, whole + whole[:cut] + b"x")


def test_a_checkpoint_written_anew_by_hand_is_refused(tmp_path: Path, unfinished: Any) -> None:
    import json

    from safetensors.torch import load, save

    cell, root = unfinished
    store = Store.open(shutil.copytree(root, tmp_path / "store"))
    whole = (store.folder(cell.id) / "checkpoint.safetensors").read_bytes()
    about = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    state = json.loads(about["state"])
    ahead = about | {"state": json.dumps(state | {"iteration": 4})}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load(whole).items()}
    without = {name: value for name, value in about.items() if name != "sha256"}
    for content in (save(load(whole), ahead), save(zeros, about), save(load(whole), without)):
        assert "SHA-256" in refused(cell, store, content)
    (store.folder(cell.id) / "checkpoint.safetensors").write_bytes(whole)
    assert run_cell(cell, store, Silent(), Deadline(), Catalogue())


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("damage", ["edited", "of another seed", "missing"])
def test_a_module_is_not_given_from_a_checkpoint_that_is_not_the_cell_s(tmp_path: Path, damage: str) -> None:
    frame = bench.run("sinusoid", "maml", out=tmp_path, iterations=2, seeds=2, **SMALL)
    first, second = (frame.store.folder(cell) / "checkpoint.safetensors" for cell in frame["cell"].unique())
    if damage == "missing":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes() + (b"x" if damage == "edited" else b""))
    expected = "missing" if damage == "missing" else "corrupt or foreign"
    with pytest.raises(StoreError, match=rf"checkpoint\.safetensors is {expected} .*Move .* away and run again"):
        frame.model(first.parent.name)


def test_a_method_that_learn2learn_does_not_have_is_refused_by_its_engine(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from algorithms.maml import MAML\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(MAML):\n"
        "    def start(self, meta, noise):\n"
        "        return {name: 2 * p for name, p in meta.items()}\n"
    )
    with pytest.raises(BenchError, match="learn2learn has no mine"):
        cells_of("sinusoid", "mine", engine="learn2learn", plugins=(plugin,))
    for name in ("maml", "metasgd"):
        with pytest.raises(BenchError, match=f"learn2learn's {name} does not clip inner gradients"):
            cells_of("sinusoid", f"{name}[inner_clip=10]", engine="learn2learn")
    assert cells_of("sinusoid", "fomaml", engine="learn2learn")[0].spec.engine == "learn2learn"


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml", "fomaml", "metasgd", "finetune"])
def test_inner_gradients_are_clipped_where_that_is_asked_for_and_changes_nothing_else(
    tmp_path: Path, name: str
) -> None:
    asked = (name, f"{name}[inner_clip=1e9]", f"{name}[inner_clip=0.01]")
    none, wide, tight = (run(tmp_path, "sinusoid", algorithm, iterations=3)[0] for algorithm in asked)
    assert none.digest == wide.digest != tight.digest


@pytest.mark.slow
def test_a_chunk_that_was_asked_for_is_kept_and_changes_no_digit_that_counts(tmp_path: Path) -> None:
    whole, parts = (bench.run("sinusoid", "maml", out=tmp_path / str(n), chunk_tasks=n, **SMALL) for n in (None, 10))
    (record,) = parts.store.records()
    assert record.chunk_tasks == record.spec.chunk_tasks == 10
    assert record.cell != next(whole.store.records()).cell
    assert parts["value"].to_numpy() == pytest.approx(whole["value"].to_numpy(), rel=1e-3)


DETACHED = """
from dataclasses import dataclass
from torch import nn
from suites.sinusoid import Sinusoid

class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.frozen = nn.Linear(1, 4), nn.Linear(4, 1), nn.Linear(1, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.last(self.first(x).tanh().detach()) + self.frozen(x)

@dataclass(frozen=True, kw_only=True)
class Detached(Sinusoid):
    def module(self):
        return Cut()
"""


def doubted(root: Path, suite: str, algos: str, **options: Any) -> dict[str, str]:
    """What the one cell's record, its table and the audit of it say alike."""
    frame = bench.run(suite, algos, out=root, **SMALL | options)
    [found] = frame.store.records()
    said = [finding for finding in audit(frame.store).findings if finding.what in found.cautions]
    assert len(said) == len(found.cautions) and all(finding.severity == "caution" for finding in said)
    [view] = comparisons(frame, [found])
    for what, message in found.cautions.items():
        assert any(note.startswith("caution: ") and what in note and message in note for note in view.notes)
    return found.cautions


@pytest.mark.slow
def test_a_step_that_is_always_rejected_is_a_caution(tmp_path: Path) -> None:
    said = doubted(tmp_path / "s", "navigation2d[kl=1e-30,trajectories=2]", "maml[meta_batch=2]", iterations=2)
    assert said["steps were rejected"] == "2 of 2 steps were not taken"
    assert "7 of 7 tensors" in said["parameters never moved"]


@pytest.mark.slow
def test_rejected_steps_are_counted_across_a_cut(tmp_path: Path) -> None:
    root, suite = tmp_path / "s", "navigation2d[kl=1e-30,trajectories=2]"
    doubted(root, suite, "maml[meta_batch=2]", iterations=2)
    bench.run(suite, "maml[meta_batch=2]", out=root, iterations=4, **SMALL)
    longer = next(record for record in bench.load(root).store.records() if record.spec.iterations == 4)
    assert longer.cautions["steps were rejected"] == "4 of 4 steps were not taken"


@pytest.mark.parametrize(
    ("suite", "algorithm", "said"),
    [
        ("sinusoid", "maml", "6 of 6 tensors are as they were drawn: layers.0.weight"),
        ("sinusoid", "cnp", "14 of 14 tensors"),
        pytest.param("glyphs[ways=2]", "protonet", "14 of 14 tensors", marks=pytest.mark.slow),
    ],
)
def test_a_rate_that_moves_nothing_is_a_caution(tmp_path: Path, suite: str, algorithm: str, said: str) -> None:
    cautions = doubted(tmp_path / "s", suite, f"{algorithm}[outer_lr=1e-30,meta_batch=2]", iterations=3)
    assert said in cautions["parameters never moved"]


def test_what_no_gradient_reaches_is_a_caution_and_what_is_frozen_is_none(tmp_path: Path) -> None:
    (tmp_path / "detached.py").write_text(DETACHED)
    plugins = [tmp_path / "detached.py"]
    said = doubted(tmp_path / "s", "detached", "maml[meta_batch=2]", iterations=3, plugins=plugins)
    assert said == {"parameters never moved": "2 of 4 tensors are as they were drawn: first.weight, first.bias"}


def test_a_validation_that_never_improves_is_a_caution(tmp_path: Path) -> None:
    options = {"iterations": 4, "validate_every": 1}
    said = doubted(tmp_path / "s", "sinusoid", "maml[outer_lr=1e-30,meta_batch=2]", **options)
    assert said["validation never improved"] == "the first of 4 looks at the validation tasks was the best"
    assert "validation never improved" not in doubted(tmp_path / "t", "sinusoid", "maml[meta_batch=2]", **options)


@pytest.mark.forms(2)
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "metasgd", "finetune", "scratch"])
@pytest.mark.parametrize("suite", ["sinusoid", "glyphs[ways=2]"])
def test_sound_training_has_no_caution(tmp_path: Path, suite: str, algorithm: str) -> None:
    assert doubted(tmp_path / "s", suite, algorithm, iterations=3) == {}
