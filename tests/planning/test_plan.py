"""What is planned says all that a result depends on; what can't be done together is refused before anything trains."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bench
from bench.cells.execute import run_cells
from bench.cells.watch import Silent
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError
from bench.core.records import Record
from bench.learning.training import Training
from bench.places.execution import cores
from bench.planning.forecast import predict
from bench.planning.plan import Cell, Request, check_device, plan
from bench.protocols.episodic import Episodic
from bench.storage.store import Store
from bench.tuning.settings import Settings
from bench.tuning.sweep import sweeps
from tests.conftest import ROOT

PROBES, SIGNS = ROOT / "tests" / "probes", ROOT / "examples" / "signmaml.py"
SMALL: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager"}
UNDECLARED = """from suites.sinusoid import Sinusoid
from bench.core.types import Supervised
from dataclasses import dataclass
@dataclass(frozen=True, kw_only=True)
class Waves(Sinusoid):
    kind = Supervised.kind
"""


def message(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    with pytest.raises(BenchError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def planned(suite: str, algos: str, *plugins: Path, **options: Any) -> list[Cell]:
    return plan(Request(suites=suite, algos=algos, plugins=plugins, **SMALL | options))


def run(root: Path, iterations: int, *plugins: Path) -> Record:
    store = Store.create(root)
    asked = Request(suites="sinusoid", algos=plugins[0].stem, iterations=iterations, plugins=plugins, **SMALL)
    [record] = run_cells(plan(asked, store.specs()), store, Silent(), None, plugins)
    return record


@pytest.mark.parametrize(
    ("suite", "probe", "kinds", "suites", "algorithms"),
    [
        ("sinusoid", "prototypes", ("classification", "regression"), {"glyphs", "omniglot"}, {"maml", "oracle"}),
        ("glyphs", "cnp", ("regression", "classification"), {"sinusoid"}, {"maml", "prototypes"}),
        ("bandit", "bmaml", ("classification and regression", "control"), {"glyphs", "sinusoid"}, {"maml"}),
    ],
)
def test_a_method_and_a_suite_of_other_kinds_are_refused_with_whom_each_can_meet(
    suite: str, probe: str, kinds: tuple[str, str], suites: set[str], algorithms: set[str]
) -> None:
    plugins = tuple(file for file in (PROBES / f"{probe}.py", PROBES / "prototypes.py") if file.exists())
    told = message(planned, suite, probe, *plugins)
    assert told.startswith(f"{probe} is for {kinds[0]}, and {suite} is {kinds[1]}. ")
    can, could = told.split("Suites that ")[1].split(". Algorithms that ")
    assert suites <= _names(can) and suite not in _names(can)
    assert algorithms <= _names(could) and probe not in _names(could)
    assert ("oracle" in _names(could)) == (suite != "glyphs")  # which can't tell a task's parameters


def _names(listing: str) -> set[str]:
    return set(listing.split(": ")[1].rstrip(".").split(", "))


def test_who_meets_whom_is_said_where_a_suite_can_not_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Catalogue.load

    def missing(self: Catalogue, kind: Any, name: str) -> type[Any]:
        if name == "omniglot":
            raise BenchError("its extra is missing")
        return load(self, kind, name)

    monkeypatch.setattr(Catalogue, "load", missing)
    told = message(planned, "sinusoid", "prototypes", PROBES / "prototypes.py")
    assert "glyphs" in told and "omniglot" not in told


def test_the_kind_of_a_suite_that_declares_none_is_seen_in_its_data(tmp_path: Path) -> None:
    (waves := tmp_path / "waves.py").write_text(UNDECLARED)
    assert "waves is regression" in message(planned, "waves", "prototypes", waves, PROBES / "prototypes.py")
    assert "meet: gp, polynomials, sinusoid, sinusoid_freq, waves." in message(planned, "glyphs", "cnp", waves)
    assert planned("waves", "cnp", waves)


def test_costs_are_not_measured_of_what_can_not_meet() -> None:
    told = message(bench.cost, "sinusoid", "prototypes", plugins=[PROBES / "prototypes.py"])
    assert "prototypes is for classification" in told


def test_how_meta_moves_is_in_the_specification() -> None:
    adam, rates, told, reptile = planned("sinusoid", "maml,maml[outer_lr=0.5],scratch,reptile", iterations=7)
    assert adam.spec.outer == repr(adam.algorithm.outer)
    assert "rate=0.5" in rates.spec.outer
    assert told.spec.outer == ""
    assert "schedule='linear', until=7" in reptile.spec.outer
    [trpo, descent] = planned("bandit,bandit[outer=adam]", "maml")
    assert trpo.spec.outer.startswith("TRPO(iterations=10, damping=1e-05")
    assert descent.spec.outer == repr(descent.algorithm.outer)


def test_what_is_pretrained_is_moved_by_the_rule_of_what_it_is_pretrained_on() -> None:
    [cell] = planned("sinusoid", "finetune")
    assert cell.spec.outer == repr(cell.algorithm.outer)


@pytest.mark.slow
def test_a_longer_run_whose_rate_falls_until_its_end_does_not_go_on_from_a_shorter_one(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.py"
    fixed.write_text(SIGNS.read_text().replace('schedule="cosine"', 'schedule="cosine", until=6'))
    for plugin, pieces in ((SIGNS, 1), (fixed, 2)):
        run(tmp_path / f"cut{pieces}", 3, plugin)
        longer, whole = run(tmp_path / f"cut{pieces}", 6, plugin), run(tmp_path / f"whole{pieces}", 6, plugin)
        assert (longer.pieces, longer.digest) == (pieces, whole.digest)


def test_a_rate_that_falls_until_the_end_is_not_pruned() -> None:
    asked = Request(suites="sinusoid", algos="reptile", iterations=9, **SMALL)
    told = message(sweeps, asked, Settings(trials=2, pruner="median"))
    assert "the outer rate of reptile falls until a run's end" in told and "--pruner none" in told
    assert sweeps(asked, Settings(trials=2))


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_threads_left_open_are_those_that_the_store_began_with(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked = Request(suites="sinusoid", algos="maml,fomaml", preset="smoke", iterations=50, engine=engine)
    begun = [cell.spec for cell in plan(replace(asked, algos="maml", engine="eager", threads=77, iterations=20))]

    def choice(cases: list[Any]) -> list[Any]:
        return [("eager", "") for _ in cases]

    caplog.set_level("INFO", "bench")
    for default in (replace(asked, share=1), replace(asked, share=3), asked):
        maml, fomaml = plan(default, begun, choice)
        assert maml.spec.threads == 77
        assert maml.goes_on_from == (begun[0].id,)
        assert fomaml.spec.threads == (default.share or cores())
    assert "1 of these cells is in the store with 77 threads, which goes on; --threads begins anew" in caplog.text
    caplog.clear()
    maml, _ = plan(replace(asked, threads=2), begun, choice)
    assert maml.spec.threads == 2
    assert "does not count for 2 threads: another number changes digits. --threads 77 goes on with that" in caplog.text
    caplog.clear()
    both = [*begun, *(cell.spec for cell in plan(replace(asked, algos="maml", engine="eager", threads=2)))]
    assert plan(replace(asked, share=2), both, choice)[0].spec.threads == 2  # its own is there
    longer = [spec.model_copy(update={"iterations": 60}) for spec in begun]
    assert plan(replace(asked, share=2), longer, choice)[0].spec.threads == 2  # from which it cannot go on
    assert caplog.text == ""


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "CUDA", "gpu"])
@pytest.mark.parametrize(
    ("version", "hidden", "words"),
    [
        (None, None, ["is a CPU build", "pytorch.org/get-started", "--device cpu"]),
        ("12.8", None, ["built for CUDA 12.8", "finds no GPU", "nvidia-smi"]),
        ("12.8", "", ["CUDA_VISIBLE_DEVICES is ''", "--device cpu"]),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_said_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, device: str, version: str | None, hidden: str | None, words: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(BenchError) as refused:
        check_device(device)
    assert [word for word in words if word not in str(refused.value)] == []
    assert "Did you mean" not in str(refused.value)


def test_the_words_of_torch_about_a_driver_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def old() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(BenchError, match="driver on your system is too old"):
        check_device("cuda")


def test_a_gpu_too_many_and_a_device_of_another_kind_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda:2", "mps", "gpu"):
        with pytest.raises(BenchError, match="Allowed: cpu, cuda, cuda:0, cuda:1"):
            check_device(device)
    check_device("cuda:1")


def test_a_forecast_counts_what_is_collected_where_tasks_are_acted_in(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    advance = Episodic.advance

    def counted(protocol: Episodic, state: Training) -> Iterator[None]:
        for step in advance(protocol, state):
            done.append(state.iteration)
            yield step

    monkeypatch.setattr(Episodic, "advance", counted)
    [found] = predict(planned("bandit", "maml[meta_batch=2]"), Path("nowhere"))
    assert found.seconds and done == list(range(done[0], done[0] + len(done))) and len(done) > 1
