"""Sweeps: equal budgets, validation tasks alone, and the same proposals wherever a sweep was cut."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from bench.cells.watch import Silent
from bench.core.records import Record, Tuning
from bench.places.execution import Execution
from bench.planning.plan import Cell, Request
from bench.storage.store import Store
from bench.tuning.settings import Settings
from bench.tuning.sweep import Sweep, propose, sweeps, tune
from suites.sinusoid import Sinusoid
from tests.conftest import PostgreSQL, bench

TUNE = ("tune", "--suite", "sinusoid", "--preset", "smoke", "--threads", "1", "--out", "store")
RUN = ("run", "--suite", "sinusoid", "--preset", "smoke", "--threads", "1", "--engine", "eager", "--out", "store")
SMALL = Request(suites="sinusoid", algos="maml[meta_batch=2]", preset="smoke", iterations=2, threads=1, engine="eager")
PLUGIN = """
from dataclasses import dataclass
from algorithms.maml import MAML

@dataclass(frozen=True, kw_only=True)
class Mine(MAML):
    def meta_loss(self, meta, loss, episode):
        if self.steps == 3:
            raise RuntimeError("three steps")
        value = super().meta_loss(meta, loss, episode)
        return value * float("nan") if self.steps == 1 else value
"""


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stored() -> dict[str, Tuning]:
    found = [Tuning.model_validate_json(path.read_bytes()) for path in Path("store/tuning").glob("*/sweep.json")]
    return {tuning.algorithm.name: tuning for tuning in found}


def swept(algos: str, trials: int, seeds: tuple[int, ...] = (0,), plugins: tuple[Path, ...] = ()) -> dict[str, Tuning]:
    asked_for = replace(SMALL, algos=algos, iterations=1, seeds=seeds, plugins=plugins)
    done = tune(sweeps(asked_for, Settings(trials=trials)), Path("store"), Silent())
    return {tuning.algorithm.name: tuning for tuning, _ in done}


def one(**settings: Any) -> Sweep:
    [sweep] = sweeps(SMALL, Settings(**settings))
    return sweep


def score(trial: FrozenTrial) -> float:
    """A made-up landscape, with a crater of divergence."""
    numbers = [float(x) for x in trial.params.values() if not isinstance(x, str)]
    value = sum((x - 0.003 * i) ** 2 for i, x in enumerate(numbers))
    return float("inf") if trial.number == 3 else value


def asked(sweep: Sweep, trials: int, cuts: dict[int, int] | None = None) -> list[FrozenTrial]:
    """The trials of a sweep whose runs do nothing; `cuts`: of a round, how many had been told when it was killed."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    batch = sweep.settings.batch
    for first in range(0, trials, batch):
        numbers = range(first, min(first + batch, trials))
        for piece in (cuts or {}).get(first, 0), len(numbers):
            for _ in range(len(study.trials), numbers[-1] + 1 if piece else numbers[0] + 1):
                study.add_trial(propose(study.trials, sweep))
            for number in numbers[:piece]:
                if study.trials[number].state == TrialState.RUNNING:
                    study.tell(number, score(study.trials[number]))
    return study.trials


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "grid"])
def test_proposals_do_not_depend_on_where_a_sweep_was_cut(sampler: str) -> None:
    sweep = one(sampler=sampler, trials=18, batch=4)
    whole = [trial.params for trial in asked(sweep, 18)]
    assert [trial.params for trial in asked(sweep, 18, {0: 2, 8: 0, 12: 3, 16: 1})] == whole
    assert len({str(params) for params in whole}) == 18
    assert [trial.params for trial in asked(one(sampler=sampler, trials=18, batch=4, seed=1), 4)] != whole[:4]


def test_more_trials_go_on_from_fewer() -> None:
    few, many = one(trials=13, batch=4), one(trials=16, batch=4)
    assert few.name == many.name
    first = asked(few, 13)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    study.add_trials(first)  # of which the last was told before its round was whole
    assert propose(study.trials, many).params == asked(many, 16)[13].params


def test_what_was_told_moves_the_proposals_of_later_rounds() -> None:
    sweep = one(trials=20, batch=5)
    trials = asked(sweep, 15)
    turned = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    for trial in trials:
        turned.add_trial(optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, system_attrs=trial.system_attrs,
            value=-(trial.value or 0.0),
        ))  # fmt: skip
    assert propose(turned.trials, sweep).params != propose(trials, sweep).params


def test_the_first_trial_is_the_protocol_and_what_is_given_is_not_searched() -> None:
    [maml, finetune, scratch] = sweeps(
        Request(suites="sinusoid", algos="maml[steps=3],finetune,scratch", preset="smoke", engine="eager"), Settings()
    )
    assert propose([], maml).params == {"outer_lr": 0.001, "inner_lr": 0.01}
    assert set(finetune.space) == {"outer_lr", "inner_lr"}
    assert set(scratch.space) == {"inner_lr"}  # it has no outer loop
    [cell] = finetune.cells(propose([], finetune), 10)
    assert cell.algorithm.candidates() == (cell.algorithm,)  # no grid of rates


def test_ranges_are_centred_on_the_suites_protocol() -> None:
    for suite, centre in (("sinusoid", 0.01), ("glyphs", 2.0)):
        [sweep] = sweeps(Request(suites=suite, algos="fomaml", preset="smoke", engine="eager"), Settings())
        low, high, log = sweep.ranges["inner_lr"]
        assert log
        assert (low * high) ** 0.5 == pytest.approx(centre)


def test_every_algorithm_gets_the_same_budget_and_run_takes_what_was_chosen() -> None:
    pair = "maml[meta_batch=2],fomaml[meta_batch=2]"
    found = swept("maml[meta_batch=2],scratch", trials=2, seeds=(0, 1))
    assert len({json.dumps(tuning.budget) for tuning in found.values()}) == 1
    assert {name: tuning.spent for name, tuning in found.items()} == {"maml": 4, "scratch": 0}
    assert [trial.number for trial in found["maml"].trials] == [0, 1]
    assert stored() == found

    missing = bench(*RUN, "--algos", pair, "--tuned", code=2).output
    assert "fomaml[meta_batch=2] was not tuned on sinusoid" in missing
    assert f'bench tune --suite "sinusoid" --algos "{pair}" --out store --trials 2 --trial-iterations 1' in missing
    swept("fomaml[meta_batch=2]", trials=1, seeds=(0, 1))
    assert "unequal budgets" in bench(*RUN, "--algos", pair, "--tuned", code=2).output

    table = bench(*RUN, "--algos", "maml[meta_batch=2]", "--tuned", "--iterations", "1").output
    rows = [line for line in table.splitlines() if line.startswith(" maml[meta_batch=2] (tuned) ")]
    assert len(rows) == 3  # K = 5, 10, 20
    assert all(re.search(r" 2 +4 ", row) for row in rows)  # trials, and the meta-iterations of both seeds
    assert re.search(r"trials +tuning iterations", table)
    [record] = [r for r in Store.open(Path("store")).records() if r.tuning]
    assert record.tuning == found["maml"]
    best = found["maml"].best
    assert best is not None
    assert best.parameters.items() <= record.spec.algorithm.parameters.items()


def test_a_trial_cannot_reach_the_test_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sinusoid.sample

    def guarded(self: Sinusoid, count: int, split: Any, generator: Any) -> Any:
        if split == "test":
            raise AssertionError("a test task was drawn")
        return sample(self, count, split, generator)

    monkeypatch.setattr(Sinusoid, "sample", guarded)
    swept("maml[meta_batch=2],oracle[meta_batch=2],finetune[meta_batch=2]", trials=1)
    records = list(Store.open(Path("store/tuning")).records())
    assert [record.outcome for record in records] == ["finished"] * 3
    assert all(key.endswith("/validation") for record in records for key in record.spec.manifests)
    assert "AssertionError: a test task was drawn" in bench(*RUN, "--algos", "maml[meta_batch=2]", code=2).output


def test_trials_that_diverge_or_fail_are_results_and_the_sweep_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    found = swept("mine[meta_batch=2]", trials=5, plugins=(tmp_path / "mine.py",))
    trials = found["mine"].trials
    wanted = {1: "diverged", 3: "failed"}
    assert [trial.outcome for trial in trials] == [wanted.get(t.parameters["steps"], "finished") for t in trials]
    assert {"diverged", "failed", "finished"} == {trial.outcome for trial in trials}
    assert all((trial.score is None) == (trial.outcome != "finished") for trial in trials)
    journal = Path("store/tuning/journal.log")
    journal.write_bytes(journal.read_bytes() + b'{"op_code":')  # as a full disk leaves it
    written = {path: path.stat().st_mtime_ns for path in Path("store/tuning/cells").rglob("*")}
    assert swept("mine[meta_batch=2]", trials=5, plugins=(tmp_path / "mine.py",)) == found
    assert {path: path.stat().st_mtime_ns for path in Path("store/tuning/cells").rglob("*")} == written


def command(*more: str) -> str:
    asked_for = ("--algos", "maml[meta_batch=2]", "--trials", "2", "--trial-iterations", "2")
    return bench("tune", "--suite", "sinusoid", "--preset", "smoke", "--out", "store", *asked_for, *more).output


@pytest.mark.slow
def test_a_sweep_goes_on_whatever_the_default_of_threads_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.planning.plan.cores", lambda: 3)
    command()
    [study] = Path("store/tuning").glob("*/study.json")
    begun = sorted(Path("store/tuning/cells").iterdir())
    monkeypatch.setattr("bench.planning.plan.cores", lambda: 1)
    output = command()
    assert f"{study.parent} holds a sweep of maml[meta_batch=2] on sinusoid with 2 finished trials" in output
    assert "which goes on with --threads 3, as it was begun" in output
    command("--trials", "3")
    monkeypatch.setattr("bench.places.execution.cores", lambda: 8)
    command("--trials", "4", "--workers", "2")
    assert list(Path("store/tuning").glob("*/study.json")) == [study]
    assert len(begun) == 2 and len(list(Path("store/tuning/cells").iterdir())) == 4


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "what", "how"),
    [
        (["--threads", "2"], "threads 1, not 2", "--threads 1 goes on with it"),
        (["--sampler", "random"], "sampler tpe, not random", "--sampler tpe goes on with it"),
        (["--trial-iterations", "3"], "iterations 2, not 3", "--trial-iterations 2 goes on with it"),
        (["--seeds", "2"], "seeds 0,, not 0,1", "--seeds 0, goes on with it"),
        (["--sampler-seed", "5"], "sampler seed 0, not 5", "--sampler-seed 0 goes on with it"),
        (
            ["--batch", "4", "--threads", "2"],
            "threads 1, not 2, batch 5, not 4",
            "--threads 1 --batch 5 goes on with it",
        ),
    ],
)
def test_a_sweep_that_is_almost_there_is_said_why_it_does_not_count_and_what_would(
    more: list[str], what: str, how: str
) -> None:
    assert "does not count" not in command("--threads", "1")
    study = next(Path("store/tuning").glob("*/study.json")).parent
    output = " ".join(command("--threads", "1", *more).split())
    assert f"{study} holds a sweep of maml[meta_batch=2] on sinusoid with 2 finished trials" in output
    assert f"does not count here, for it has {what}: {how}" in output
    assert "does not count" not in command("--threads", "1", *more)  # it has been begun, and goes on


@pytest.mark.forms(0)
@pytest.mark.slow
def test_a_sweep_of_another_source_is_said_not_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    more = ("--plugin", "mine.py", "--algos", "mine[meta_batch=2,steps=2]", "--trials", "1")
    command("--threads", "1", *more)
    (tmp_path / "mine.py").write_text(PLUGIN + "# edited")
    output = command("--threads", "1", *more)
    assert "for it has the source of the algorithm another, not the present one: nothing goes on with it" in output


@pytest.mark.slow
def test_the_command_says_what_it_does_and_draws_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    asked_for = ("--algos", "mine[meta_batch=2],maml[meta_batch=2]", "--trials", "4", "--trial-iterations", "2")
    output = bench(*TUNE, *asked_for, "--plugin", "mine.py", code=3).output
    assert "for each algorithm 4 trials of 2 meta-iterations, seeds 0, in rounds of 5 by tpe" in output
    assert "scored on 10 validation tasks after 10 steps" in output
    assert "inner_lr 0.001 to 0.1 (logarithmic)" in output
    assert re.search(r"mine.* 4 +1 finished, 1 diverged, 2 failed +\d", output)
    drawn = [line.removeprefix("drawn to ") for line in output.splitlines() if line.startswith("drawn to ")]
    assert {Path(path).name for path in drawn} == {"budget.png", "slice.png", "contour.png", "importance.png"}
    assert all(Path(path).stat().st_size > 5_000 for path in drawn)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trials", "0"], ["'0' is no whole number from 1"]),
        (["--batch", "0"], ["'0' is no whole number from 1"]),
        (["--sampler", "tpee"], ["unknown sampler 'tpee'", "Did you mean 'tpe'?", "cmaes, grid, random, tpe"]),
        (["--pruner", "hyper"], ["unknown pruner 'hyper'", "Did you mean 'hyperband'?"]),
        (["--storage", "sqlite:///a.db"], ["sqlite:///a.db is no PostgreSQL", "SQLite loses", "journal file"]),
        (["--storage", "here.log"], ["is no PostgreSQL database", "postgresql://user@host/database"]),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/x"], ["postgresql://me:***@127.0.0.1:1/x does not answer"]),
        (["--algos", "oracle[outer_lr=0.1]"], ["oracle[outer_lr=0.1] has nothing to tune", "Search("]),
        (["--algos", "scratch[inner_lr=0.1]"], ["scratch[inner_lr=0.1] has nothing to tune"]),
        (["--algos", "mmal"], ["Did you mean 'maml'?"]),
        (["--search", "mmal[steps=1|2]"], ["unknown algorithm in --search 'mmal'", "Did you mean 'maml'?"]),
        (["--search", "maml[stepz=1|2]"], ["unknown parameter of maml 'stepz'", "Did you mean 'steps'?"]),
        (["--search", "maml[steps=1|x]"], ["maml does not take steps=x", "int >= 1"]),
        (["--search", "maml[steps=0..3]"], ["maml does not take steps=0"]),
        (["--search", "maml[inner_lr=1..0.1]"], ["which is no range", "1 is not below 0.1"]),
        (["--search", "maml[inner_lr=1..inf]"], ["which is no range", "1 to inf has no end"]),
        (["--search", "maml[steps=1..5|7]"], ["maml does not take steps=1..5"]),
        (["--search", "maml[inner_lr=1]"], ["is neither a range nor choices", "--algos: maml[inner_lr=1]"]),
        (["--search", "maml[gradient=a..b]"], ["maml does not take gradient=a", "Allowed: ", "reverse"]),
        (["--search", "maml[gradient=reverse..mixed]"], ["has no range", "List the values"]),
        (["--search", "maml"], ["--search says nothing of maml", "steps=1|3|5"]),
        (["--algos", "maml[steps=1]", "--search", "maml[steps=1|2]"], ["steps of maml[steps=1], which --algos fixes"]),
        (["--algos", "scratch", "--search", "scratch[outer_lr=1..2]"], ["it does not meta-train"]),
        (
            ["--algos", "maml[inner_lr=1,outer_lr=1]", "--sampler", "grid"],
            ["has 5 points, fewer than 30 trials less"],
        ),
    ],
)
def test_what_cannot_be_swept_is_refused(arguments: list[str], words: list[str]) -> None:
    result = bench(*TUNE, "--algos", "maml", *arguments, code=2)
    assert [word for word in words if word not in result.output] == [], result.output
    assert "secret" not in result.output
    assert not list(Path().glob("store/tuning/*/sweep.json"))


def test_a_tuned_run_without_a_sweep_says_which_command_to_run() -> None:
    output = bench(*RUN, "--algos", "maml", "--tuned", code=2).output
    assert "maml was not tuned on sinusoid" in output
    assert 'bench tune --suite "sinusoid" --algos "maml" --out store' in output
    assert not Path("store").exists()


def test_trials_run_where_cells_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, Execution]] = []

    def nowhere(cells: list[Cell], *others: Any) -> list[Record]:
        given.append((len(cells), others[-1]))
        return []

    monkeypatch.setattr("bench.tuning.sweep.run_cells", nowhere)
    output = bench(*TUNE, "--algos", "maml,scratch", "--trials", "8", "--workers", "3", "--retries", "1").output
    assert given == [(10, Execution(workers=3, retries=1))]  # a round of each
    assert "not all trials are done. The same command goes on." in output


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_pruned_trial_is_recorded_with_what_it_spent(pruner: str) -> None:
    asked_for = sweeps(replace(SMALL, iterations=9), Settings(trials=8, pruner=pruner))
    [(tuning, _)] = tune(asked_for, Path("store"), Silent())
    pruned = [trial for trial in tuning.trials if trial.outcome == "pruned"]
    assert pruned
    assert {trial.iterations for trial in pruned} <= {1, 3}
    assert {trial.iterations for trial in tuning.trials if trial.outcome == "finished"} == {9}
    assert tuning.spent < 8 * 9


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_that_was_killed_equals_one_that_was_left_alone() -> None:
    def command(out: str) -> list[str]:
        asked = ["--suite", "sinusoid", "--algos", "maml[meta_batch=2]", "--trials", "5", "--batch", "2"]
        more = ["--trial-iterations", "40", "--preset", "smoke", "--threads", "1", "--engine", "eager", "--out", out]
        return [str(Path(sys.executable).parent / "bench"), "tune", *asked, *more]

    env = {**os.environ, "BENCH_SAVE_EVERY": "0.1"}
    began = time.monotonic()
    subprocess.run(command("whole"), check=True, capture_output=True)
    took = time.monotonic() - began
    moment = random.Random(os.getpid())
    for _ in range(2):
        running = subprocess.Popen(command("killed"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment.uniform(0.3, 0.9) * took)
        running.send_signal(signal.SIGKILL)
        running.wait()
    last = subprocess.run(command("killed"), env=env, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert what_was_found("killed") == what_was_found("whole")
    assert len(what_was_found("whole")[1]) == 5


def what_was_found(out: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Sweeps without their time, and the trials' digests."""
    found = [json.loads(path.read_bytes()) for path in sorted(Path(out, "tuning").glob("*/sweep.json"))]
    digests = {record.cell: record.digest for record in Store.open(Path(out, "tuning")).records()}
    return {tuning["study"]: tuning | {"finished": ""} for tuning in found}, digests


class Restarting(Silent):
    """Stops and starts the server while the fourth trial ends."""

    def __init__(self, restart: Callable[[], None]) -> None:
        self.restart, self.ended = restart, 0

    def ends(self, cell: Cell, record: Record, fresh: bool) -> None:
        self.ended += 1
        if self.ended == 4:
            self.restart()


@pytest.mark.slow
def test_postgresql_holds_the_same_sweep_and_may_be_restarted_meanwhile(postgresql: PostgreSQL) -> None:
    found: dict[str, Any] = {}
    for out, url in (("file", None), ("server", postgresql.url)):
        watch = Restarting(postgresql.restart) if url else Silent()
        settings = Settings(trials=12, batch=4, storage=url)
        [(tuning, study)] = tune(sweeps(replace(SMALL, algos="scratch"), settings), Path(out), watch)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 12
        found[out] = tuning.model_dump() | {"finished": ""}
    assert found["server"] == found["file"]
    assert not Path("server/tuning/journal.log").exists()


KINDS = """
from dataclasses import dataclass
from typing import Annotated, Literal
from pydantic import Field
from algorithms.maml import MAML
from bench.core.types import Search

@dataclass(frozen=True, kw_only=True)
class Kinds(MAML):
    rule: Annotated[Literal["plain", "signed"], Search()] = "signed"
    level: Annotated[Literal[1, 2, 4], Search()] = 2
    few: Annotated[int, Search(choices=(2, 5, 9))] = 5
    warm: Annotated[bool, Search()] = True
    size: Annotated[int, Field(ge=1), Search(1, 64, log=True)] = 8
    damp: Annotated[float | None, Search(0.1, 1, log=True)] = None
"""


@pytest.mark.forms(0)
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "grid"])
def test_categories_booleans_and_whole_numbers_are_searched_by_every_sampler(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "kinds.py").write_text(KINDS)
    asked_for = replace(SMALL, algos="kinds[outer_lr=0.1,inner_lr=0.1,steps=1]", plugins=(tmp_path / "kinds.py",))
    [sweep] = sweeps(asked_for, Settings(trials=20, sampler=sampler))
    trials = asked(sweep, 20)
    first = {"rule": "signed", "level": 2, "few": 5, "warm": True, "size": 8, "damp": 0.1}
    assert trials[0].params == first
    seen = {name: {trial.params[name] for trial in trials} for name in first}
    assert seen["rule"] == {"plain", "signed"} and seen["warm"] == {True, False} and seen["level"] == {1, 2, 4}
    for trial in trials:  # what is proposed can be planned, and is what the cell gets
        [cell] = sweep.cells(trial, 1)
        assert {name: getattr(cell.algorithm, name) for name in first} == trial.params


@pytest.mark.slow
def test_ranges_and_categories_typed_are_searched_instead_and_what_is_chosen_can_be_run() -> None:
    words = ("--algos", "maml[meta_batch=2]", "--trials", "4", "--trial-iterations", "1")
    search = "maml[inner_lr=0.5..1 log, steps=1|3, gradient=reverse|first_order]"
    output = bench(*TUNE, *words, "--search", search).output
    assert "inner_lr 0.5 to 1 (logarithmic)" in output and "steps 1 | 3" in output
    assert "the protocol's inner_lr=0.01 lies outside; the first trial is the nearest to it" in output
    trials = stored()["maml"].trials
    assert [trial.default for trial in trials] == [False] * 4
    assert trials[0].parameters["inner_lr"] == 0.5
    assert all(0.5 <= trial.parameters["inner_lr"] <= 1 and trial.parameters["steps"] in (1, 3) for trial in trials)
    assert "maml" in bench(*RUN, "--iterations", "1", "--algos", "maml[meta_batch=2]", "--tuned").output


def test_each_algorithm_is_searched_where_it_was_typed_and_the_others_where_they_declare() -> None:
    asked_for = replace(SMALL, algos="maml,fomaml,metasgd")
    typed = "maml[steps=1|3], metasgd[outer_lr=0.1..1]"
    maml, fomaml, metasgd = sweeps(asked_for, Settings(search=typed))
    assert (maml.space["steps"].choices, metasgd.ranges["outer_lr"]) == ((1, 3), (0.1, 1.0, False))
    assert fomaml.ranges == sweeps(replace(SMALL, algos="fomaml"), Settings())[0].ranges


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ('rule: Annotated[Literal["a", "b"], Search(0.1, 1)] = "a"', "which takes a | b"),
        ("rate: Annotated[float, Search()] = 0.1", "Declare Search(low, high)"),
        ("rate: Annotated[float, Field(gt=0), Search(0, 1)] = 0.1", "which takes float > 0"),
        ("rate: Annotated[float, Search(1, 0.1)] = 0.1", "which is no range"),
        ("rate: Annotated[float, Search(1, float('inf'))] = 1.0", "has no end"),
        ("rate: Annotated[float, Search(float('nan'), 1)] = 0.1", "has no end"),
        ("flag: Annotated[bool, Search(0, 1)] = True", "which takes true | false"),
        ('name: Annotated[str, Search(choices=("a", 3))] = "a"', "which takes str"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_said_before_any_trial(tmp_path: Path, field: str, words: str) -> None:
    source = KINDS[: KINDS.index("    rule:")] + f"    {field}\n"
    (tmp_path / "kinds.py").write_text(source)
    result = bench(*TUNE, "--algos", "kinds", "--plugin", "kinds.py", code=2)
    assert "kinds declares Search(" in result.output and words in result.output, result.output


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "grid"])
@pytest.mark.parametrize("trials", [1, 2, 7])
def test_the_first_trial_is_the_protocol_whatever_the_sampler(sampler: str, trials: int) -> None:
    sweep = one(sampler=sampler, trials=trials)
    found = asked(sweep, trials)
    assert found[0].params == {"outer_lr": 0.001, "inner_lr": 0.01, "steps": 1}
    assert sampler != "grid" or len({tuple(trial.params.values()) for trial in found[1:]}) == trials - 1


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("body", ["float('nan')", "1 / 0"])
def test_a_sweep_without_a_usable_trial_promises_nothing(tmp_path: Path, body: str) -> None:
    broken = (
        PLUGIN[: PLUGIN.index("        if self")]
        + f"        return super().meta_loss(meta, loss, episode) * ({body})\n"
    )
    (tmp_path / "mine.py").write_text(broken)
    words = ("--trials", "2", "--trial-iterations", "1", "--plugin", "mine.py")
    output = bench(*TUNE, "--algos", "mine[meta_batch=2]", *words, code=3).output
    assert "takes the chosen values" not in output
    assert "no trial of mine[meta_batch=2] on sinusoid has a finite score" in output.replace("\n", " ")
    both = bench(*TUNE, "--algos", "mine[meta_batch=2],maml[meta_batch=2]", *words, code=3).output
    assert "takes the chosen values" in both and "no trial of mine" in both


def test_a_sweep_that_the_time_cut_before_its_first_trial_promises_nothing() -> None:
    output = bench(
        *TUNE, "--algos", "maml", "--trials", "2", "--trial-iterations", "1", "--time-limit", "0.001s"
    ).output
    assert "takes the chosen values" not in output and "not all trials are done" in output
