"""Bad input gets a short message, with the nearest match and what is allowed; exit 2, no traceback, nothing written."""

import errno
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import main

GOOD = {"--suite": "sinusoid", "--algos": "maml", "--preset": "smoke", "--iterations": "3", "--threads": "1"}
ALGORITHM = """
from dataclasses import dataclass
from algorithms.maml import MAML

@dataclass(frozen=True, kw_only=True)
class Mine(MAML):
    def meta_loss(self, meta, loss, episode):
        value = super().meta_loss(meta, loss, episode)
        {body}
"""


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def run(*more: str, **changed: str) -> Result:
    options = GOOD | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return bench("run", *(word for option in options.items() for word in option), *more)


def refused(result: Result, *words: str) -> None:
    """Exit 2 by intention, a short message that holds the words, and nothing written."""
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.output
    assert [word for word in words if word not in result.output] == [], result.output
    assert "Traceback" not in result.output
    assert len(result.output) < 1_000
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (
            "suite",
            "sinusiod",
            ["unknown suite 'sinusiod'", "Did you mean 'sinusoid'?", "rainbow_mnist, sinusoid", "bench list"],
        ),
        ("algos", "maml,MMAL", ["unknown algorithm 'MMAL'", "Did you mean 'maml'?", "finetune, fomaml"]),
        ("algos", "sinusoid", ["unknown algorithm 'sinusoid'", "Its kind is suite"]),
        ("algos", "maml[inner_rl=1]", ["'inner_rl'", "Did you mean 'inner_lr'?", "steps", "bench show maml"]),
        ("suite", "sinusoid[shot=1]", ["parameter of sinusoid 'shot'", "Did you mean 'shots'?"]),
        ("algos", "maml[inner_lr=-1]", ["inner_lr=-1", "Allowed: float > 0"]),
        ("algos", "maml[inner_lr=nan]", ["inner_lr=nan", "Allowed: float > 0"]),
        ("algos", "maml[inner_lr=inf]", ["inner_lr=inf", "Allowed: finite numbers"]),
        ("algos", "maml[outer_lr=fast]", ["outer_lr=fast", "Allowed: float > 0"]),
        ("algos", "maml[steps=0]", ["steps=0", "Allowed: int >= 1"]),
        ("algos", "maml[steps=1.5]", ["steps=1.5", "Allowed: int >= 1"]),
        ("algos", "maml[meta_batch=0]", ["meta_batch=0", "Allowed: int >= 1"]),
        ("algos", "maml[gradient=revers]", ["Did you mean 'reverse'?", "first_order, mixed, reverse"]),
        ("algos", "finetune[steps=3]", ["'steps'", "Allowed: inner_clip, inner_lr, meta_batch, outer_lr"]),
        ("algos", "maml[steps=1", ["not closed", "name[parameter=value,...]"]),
        ("algos", "maml[steps=1,steps=2]", ["'steps' is given twice"]),
        ("algos", "", ["'' names nothing", "bench list"]),
        ("suite", " , ", ["names nothing"]),
        ("suite", "glyphs[ways=1]", ["ways=1", "Allowed: int >= 2"]),
        ("suite", "glyphs[ways=2000]", ["ways=2000", "870 classes", "ways <= 870"]),
        ("suite", "glyphs[shots=15,queries=10]", ["need 25 drawings", "which has 20", "shots + queries <= 20"]),
        ("suite", "glyphs[norm=both]", ["unknown norm of glyphs 'both'", "inductive, transductive"]),
        ("preset", "smok", ["'smok'", "'smoke', 'quick', 'standard', 'paper'"]),
        ("engine", "eagre", ["'eagre'", "'eager'"]),
        ("selection", "bets", ["'bets'", "'last', 'best'"]),
        ("seeds", "0", ["'0'", "how many seeds (3; from 1 to 1,000)"]),
        ("seeds", "1.5", ["'1.5'", "a list of them (0,1,2"]),
        ("seeds", "0,-1", ["'0,-1'"]),
        ("seeds", "999999999", ["from 1 to 1,000"]),
        ("time_limit", "soon", ["'soon' is not a duration. Write 90s, 9m or 1h30m"]),
        ("time_limit", "0s", ["'0s' is not a duration"]),
        ("iterations", "0", ["'0' is no whole number from 1"]),
        ("iterations", "1e3", ["'1e3'", "in digits"]),
        ("threads", "10000", ["'10000'", "from 1 to 256"]),
        ("validate_every", "-1", ["'-1'"]),
        ("device", "gpu", ["device", "gpu", "cpu"]),
        ("data_dir", "nowhere", ["'nowhere' does not exist"]),
        ("plugin", "nowhere.py", ["nowhere.py is not a file"]),
    ],
)
def test_a_bad_value_is_said_with_what_is_allowed(option: str, value: str, words: list[str]) -> None:
    refused(run(**{option: value}), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["unknown command 'rnu'", "Did you mean 'run'?", "Allowed: audit, certify, cost, data"]),
        (["run", "--suite", "sinusoid"], ["Missing option '--algos'"]),
        (["run", "--prest", "smoke"], ["--prest", "--preset"]),
        (["show", "omnigolt"], ["Did you mean 'omniglot'?"]),
        (["show", "omniglot[way=20]"], ["Did you mean 'ways'?"]),
        (["show", "maml,fomaml"], ["more than one name"]),
        (["show", "maml[inner_lr=-1]"], ["Allowed: float > 0"]),
        (["show", "maml", "--sheet", "x.png"], ["'maml' is an algorithm"]),
        (["show", "sinusoid", "--sheet", "x.jpg"], ["no PNG"]),
        (["show", "sinusoid", "--sheet", "no/such/x.png"], ["cannot write no/such/x.png", "another --sheet"]),
        (["certify", "mmal"], ["Did you mean 'maml'?"]),
        (["certify", ","], ["names nothing"]),
        (["data", "fetch", "omniglott"], ["Did you mean 'omniglot'?"]),
        (["data", "verify", "omniglot"], ["images_background.zip", "bench data fetch omniglot", "--data-dir"]),
    ],
)
def test_every_command_refuses_what_it_does_not_know(arguments: list[str], words: list[str]) -> None:
    refused(bench(*arguments), *words)


def test_an_algorithm_that_a_suite_cannot_show_names_the_suites_that_can() -> None:
    refused(run(suite="glyphs", algos="oracle"), "oracle_view", "polynomials, sinusoid, sinusoid_freq")


def test_missing_data_is_said_with_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "nothing"))
    result = run(suite="omniglot", out=str(tmp_path / "store"))
    refused(result, str(tmp_path / "nothing"), "omniglot/images_background.zip", "bench data fetch omniglot")
    assert not list(tmp_path.glob("store/cells/*/record.json"))


@pytest.mark.parametrize(
    ("out", "words"),
    [("file", ["cannot write to file"]), ("file/below", ["Not a directory"]), ("thesis", ["is no run directory"])],
)
def test_a_place_that_cannot_hold_the_store_is_refused(tmp_path: Path, out: str, words: list[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    refused(run(out=out), *words, "another folder with --out")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["file", "thesis.tex"]


def test_a_full_disk_under_the_output_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bench.core.discovery.Catalogue.names", full)
    refused(bench("list"), "No space left on device", "What is finished is kept")


@pytest.mark.parametrize("command", [["list"], ["show", "maml"], ["certify", "maml"]])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise type('Panic', (BaseException,), {})('boom')", "Panic: boom"),
        ("raise SystemExit(5)", "SystemExit: 5"),
    ],
)
def test_a_plug_in_that_does_not_import_stops_every_command(
    tmp_path: Path, command: list[str], source: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    refused(bench(*command, "--plugin", "mine.py"), "mine.py does not import", words)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("raise RuntimeError('boom')", "failed: RuntimeError: boom"),
        ("return value.expand(3)", "failed: ValueError: meta_loss must return a scalar"),
        ("return value * float('nan')", "diverged: the loss is nan in meta-iteration 1"),
        ("raise type('Panic', (BaseException,), {})('boom')", "failed: Panic: boom"),
        ("raise MemoryError", "failed: MemoryError"),
    ],
)
def test_what_goes_wrong_in_a_cell_is_recorded_and_the_others_go_on(tmp_path: Path, body: str, outcome: str) -> None:
    (tmp_path / "mine.py").write_text(ALGORITHM.format(body=body))
    result = run("--plugin", "mine.py", algos="mine,maml", out="store")
    assert result.exit_code == 3, result.output
    assert outcome in result.output
    assert "sinusoid · maml · seed 0: finished" in result.output
    logs = [path.read_text() for path in tmp_path.glob("store/cells/*/log.txt")]
    assert sum("Traceback" in log for log in logs) == outcome.startswith("failed")
    assert sum("WARNING" in log or "ERROR" in log for log in logs) == 1
    assert "Traceback" not in result.output


SUITE = """
from dataclasses import dataclass
from suites.sinusoid import Sinusoid

@dataclass(frozen=True, kw_only=True)
class Mine(Sinusoid):
    def {method}(self, *_):
        raise RuntimeError("boom")
"""


def test_a_learner_that_is_not_trained_and_whose_prediction_is_refused_is_a_failed_cell(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom algorithms.scratch import Scratch\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Scratch):\n"
        "    def predict(self, *given):\n        return super().predict(*given).squeeze(-1)\n"
    )
    result = run("--plugin", "mine.py", algos="mine,maml", out="store")
    assert result.exit_code == 3, result.output
    assert "failed: PluginError: a prediction has the shape [N]" in result.output
    assert "sinusoid · maml · seed 0: finished" in result.output


RAISED = {"MemoryError": "MemoryError", "type('Panic', (BaseException,), {})": "Panic"}  # as NumPy, and Rust


@pytest.mark.parametrize("method", ["sample", "module"])
@pytest.mark.parametrize("raised", ["RuntimeError", *RAISED])
def test_a_suite_of_a_plug_in_that_cannot_be_planned_says_where(tmp_path: Path, method: str, raised: str) -> None:
    (tmp_path / "mine.py").write_text(SUITE.format(method=method).replace("RuntimeError", raised))
    result = run("--plugin", "mine.py", suite="mine")
    name = RAISED.get(raised, raised)
    refused(result, f"mine with maml can't be planned: {name}: boom", f"mine.py, line 8, in {method}", "check_suite")


@pytest.mark.parametrize("method", ["look_up", "predict", "score"])
def test_a_suite_of_a_plug_in_that_breaks_in_a_cell_is_a_failed_cell(tmp_path: Path, method: str) -> None:
    (tmp_path / "mine.py").write_text(SUITE.format(method=method))
    result = run("--plugin", "mine.py", suite="mine,sinusoid", out="store")
    assert result.exit_code == 3, result.output
    assert "failed: RuntimeError: boom" in result.output
    assert "sinusoid · maml · seed 0: finished" in result.output
    assert "Traceback" not in result.output


def test_a_message_of_characters_that_no_file_takes_is_told_with_them_written_out(tmp_path: Path) -> None:
    source = SUITE.format(method="score").replace("boom", r"lone \ud800, colour \x1b[31m, nothing \x00")
    (tmp_path / "mine.py").write_text(source)
    result = run("--plugin", "mine.py", suite="mine", out="store")
    assert result.exit_code == 3, result.output
    assert r"failed: RuntimeError: lone \ud800, colour \x1b[31m, nothing \x00" in result.output
    assert bench("report", "store", "--plugin", "mine.py").exit_code == 0
    (tmp_path / "mine.py").write_text(
        PROPERTY.format(name="caveat").replace('raise RuntimeError("boom")', r'return "\ud800"')
    )
    refused(run("--plugin", "mine.py", suite="mine", out="other"), "mine with maml can't be planned: Pydantic")


UNDIFFERENTIABLE = """
from dataclasses import dataclass
from torch import nn
from suites.sinusoid import Sinusoid

class Rounded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x).argmax(-1, keepdim=True).float()

@dataclass(frozen=True, kw_only=True)
class Mine(Sinusoid):
    def module(self):
        return Rounded()
"""
DRY = ["run", "--preset", "smoke", "--iterations", "3", "--threads", "1", "--out", "store", "--dry-run"]
COST = ["cost", "--steps", "1", "--tasks", "2", "--threads", "1"]


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("command", [DRY, COST])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (UNDIFFERENTIABLE, "RuntimeError: element 0 of tensors does not require grad"),
        (SUITE.format(method="look_up"), "RuntimeError: boom"),
        (SUITE.format(method="look_up").replace('RuntimeError("boom")', "SystemExit(7)"), "SystemExit: 7"),
    ],
)
def test_a_suite_that_breaks_is_one_message_and_the_others_go_on(
    tmp_path: Path, command: list[str], source: str, reason: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    result = bench(*command, "--suite", "mine,sinusoid", "--algos", "maml", "--plugin", "mine.py")
    assert result.exit_code == 3, result.output
    assert reason in result.output and "Traceback" not in result.output
    assert re.search(r"^ *(\w+ +)?sinusoid.*\d", result.stdout, re.MULTILINE)


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("command", [DRY, COST])
def test_an_algorithm_that_breaks_is_one_message_and_the_others_go_on(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "mine.py").write_text(ALGORITHM.format(body="raise RuntimeError('boom')"))
    result = bench(*command, "--suite", "sinusoid", "--algos", "mine,maml", "--plugin", "mine.py")
    assert result.exit_code == 3, result.output
    assert "boom" in result.output and "mine.py, line" in result.output and "Traceback" not in result.output
    assert re.search(r"\bmaml\b.*\d", result.stdout)


PROPERTY = """
from dataclasses import dataclass
from suites.sinusoid import Sinusoid

@dataclass(frozen=True, kw_only=True)
class Mine(Sinusoid):
    @property
    def {name}(self):
        raise RuntimeError("boom")
"""


@pytest.mark.parametrize("name", ["floor", "report_steps", "protocol", "presets", "setting", "caveat", "evaluations"])
def test_a_suite_whose_description_breaks_is_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(PROPERTY.format(name=name))
    result = run("--plugin", "mine.py", suite="mine")
    refused(result, "mine with maml can't be planned: RuntimeError: boom", f"mine.py, line 9, in {name}")
    tuned = bench("tune", "--suite", "mine", "--algos", "maml", "--preset", "smoke", "--plugin", "mine.py")
    refused(tuned, "can't be planned: RuntimeError: boom")
    shown = bench("show", "mine", "--plugin", "mine.py")
    assert "Traceback" not in shown.output and ("boom" in shown.output) == (shown.exit_code == 2)
    shown = bench("show", "maml", "--plugin", "mine.py")
    assert shown.exit_code == 0 and "sinusoid" in shown.output


@pytest.mark.parametrize("name", ["protocol", "presets"])
def test_what_cannot_be_planned_keeps_no_other_from_being_tuned(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(PROPERTY.format(name=name))
    small = ("--preset", "smoke", "--trials", "1", "--trial-iterations", "1", "--engine", "eager", "--threads", "1")
    tuned = bench("tune", "--suite", "mine,sinusoid", "--algos", "maml", *small, "--plugin", "mine.py")
    assert tuned.exit_code == 3 and "Traceback" not in tuned.output
    assert "mine with maml can't be planned: RuntimeError: boom" in tuned.output
    assert re.search(r"inner_lr +[\d.]+", tuned.output)


def test_what_is_broken_is_a_fault_of_its_own_in_the_certificate(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ALGORITHM.format(body="return value").replace("def meta_loss", "def at"))
    result = bench("certify", "mine,scratch", "--plugin", "mine.py")
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "mine can't be certified" in result.output and "scratch" in result.output


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    source = SUITE.format(method="paths").replace("sinusoid import Sinusoid", "navigation2d import Navigation2D")
    (tmp_path / "mine.py").write_text(source.replace("(Sinusoid)", "(Navigation2D)"))
    made = run("--plugin", "mine.py", suite="mine[trajectories=2]", algos="maml[meta_batch=2]", out="store")
    assert made.exit_code == 0, made.output
    refused(bench("draw", "store", "--paths", "paths.png", "--plugin", "mine.py"), "can't be drawn: RuntimeError: boom")


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (PROPERTY.format(name="protocol"), "mine with maml can't be planned: RuntimeError: boom"),
        (PROPERTY.format(name="evaluations"), "mine with maml can't be planned: RuntimeError: boom"),
        (SUITE.format(method="sample"), "mine with maml can't be planned: RuntimeError: boom"),
        (UNDIFFERENTIABLE.replace(".argmax(-1, keepdim=True).float()", ".detach().requires_grad_()"), ""),
    ],
)
def test_what_cannot_be_planned_is_one_message_and_the_others_go_on(
    tmp_path: Path, source: str, reason: str, dry: list[str]
) -> None:
    (tmp_path / "mine.py").write_text(source)
    result = run("--plugin", "mine.py", *dry, suite="mine,sinusoid", out="store")
    assert result.exit_code == 3, result.output
    assert reason in result.output and "mine" in result.output and "Traceback" not in result.output
    assert "sinusoid · maml · seed 0" in result.output


def test_a_users_own_mistake_still_stops_all_before_anything_runs(tmp_path: Path) -> None:
    refused(run(suite="sinusoid,glyphs", algos="maml,maml[steps=0]", out="store"), "maml does not take steps=0")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("raised", ["RuntimeError('boom')", "SystemExit('boom')", "KeyError('boom')"])
def test_a_plug_in_that_breaks_when_its_cell_is_taken_up_again_blames_no_checkpoint(
    tmp_path: Path, raised: str
) -> None:
    source = SUITE.format(method="module").replace("RuntimeError", "KeyError")
    (tmp_path / "mine.py").write_text(source.replace('raise KeyError("boom")', "return super().module()"))
    made = run("--plugin", "mine.py", suite="mine", out="store")
    assert made.exit_code == 0, made.output
    (tmp_path / "mine.py").write_text(source.replace('KeyError("boom")', raised))
    cell = next((tmp_path / "store" / "cells").iterdir()).name
    for command in (["score", "store", "--on", "sinusoid_freq"], ["predict", "store", "--cell", cell]):
        given = ["--support", ".", "--query", "."] if command[0] == "predict" else []
        result = bench(*command, *given, "--plugin", "mine.py")
        refused(result, f"{raised.partition('(')[0]}: ", "boom", "in module")
        assert "checkpoint" not in result.output
    assert bench("report", "store", "--plugin", "mine.py").exit_code == 0
