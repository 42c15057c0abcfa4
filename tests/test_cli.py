"""The command: quick where it can be, resumable, explaining; what it prints is what it did."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bench.cli import main
from bench.core.discovery import Catalogue
from bench.storage.store import Store
from bench.terminal import tables
from bench.terminal.progress import Progress
from suites import cifar_fs, glyphs, mini_imagenet
from tests.conftest import ROOT, bench

RUN = ("run", "--suite", "sinusoid", "--preset", "smoke", "--threads", "1", "--engine", "eager", "--out", "store")
HEAVY = ("torch", "pandas", "numpy", "matplotlib", "pydantic", "rich")
CALL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from bench.cli import main; main()"


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("BENCH_DATA_DIR", "")  # so that what --data-dir sets is undone
    monkeypatch.delenv("BENCH_DATA_DIR")


def records() -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(Path("store/cells").glob("*/record.json"))]


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "--help"], ["--version"]])
def test_help_and_list_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from bench.cli import main; main({arguments}, standalone_mode=False); "
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_waits_for_nothing_that_reports_and_sweeps_need() -> None:
    arguments = ["run", "--suite", "sinusoid", "--algos", "scratch", "--preset", "smoke", "--threads", "1"]
    code = f"import sys; from bench.cli import main; main({arguments}, standalone_mode=False); "
    code += "print([name for name in ('seaborn', 'matplotlib', 'optuna', 'sqlalchemy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_help_and_list_are_quick(arguments: list[str]) -> None:
    def seconds(code: str, *arguments: str) -> float:
        """Of the processor: what else runs on this machine must not count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    times = [(seconds(CALL, *arguments), seconds("import click, inspect, importlib.metadata")) for _ in range(3)]
    assert min(ours for ours, _ in times) < 5 * min(least for _, least in times)


def test_help_lists_every_command_in_full() -> None:
    lines = bench("--help").output.splitlines()
    for command in main.commands:
        [line] = [line for line in lines if line.startswith(f"  {command} ")]
        assert re.search(r"\w\.$", line)  # a whole sentence, not one that was cut


def test_list_names_suites_and_algorithms_with_their_first_line() -> None:
    output = bench("list").output
    assert re.search(r"^suites$(?:\n  .*)*\n  omniglot +Omniglot: 1623 characters", output, re.MULTILINE)
    assert re.search(
        r"^algorithms: gradient-based$(?:\n  .*)*\n  fomaml +FOMAML: MAML whose inner", output, re.MULTILINE
    )


def test_list_tells_each_algorithms_family_and_what_it_meets_as_its_class_does() -> None:
    catalogue = Catalogue((ROOT / "tests/probes/prototypes.py",))
    for name, cls in catalogue.classes("algorithm").items():
        assert catalogue.stated(name, "family") == (cls.family,)
        assert set(catalogue.stated(name, "suits")) == cls.suits
    listed = bench("list", "--plugin", str(ROOT / "tests/probes/prototypes.py"))
    assert re.search(r"^algorithms: others\n  prototypes  .*\(classification only\)$", listed.output, re.MULTILINE)


def test_the_same_command_again_recomputes_nothing() -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path("store").rglob("*") if path.suffix != ".txt"}

    command = (*RUN, "--algos", "maml[meta_batch=1],oracle[meta_batch=1]", "--iterations", "3")
    first = bench(*command).output
    before = written()
    again = bench(*command).output
    assert written() == before
    assert again.count("finished before") == 2
    assert first.partition("sinusoid\n")[2] == again.partition("sinusoid\n")[2]
    assert "stored in store" in again


def test_the_table_says_all_that_was_asked_of_it() -> None:
    output = bench(*RUN, "--algos", "maml[inner_lr=0.1,meta_batch=1],scratch", "--iterations", "50").output
    for heading in ("mse @1", "mse @5", "mse @10", "selected", "s/iteration", "compile s", "peak MB"):
        assert heading in output
    assert re.search(r"maml\[inner_lr=0\.1,meta_batch=1\] +K=5 +(?:[*≈] )?\d+\.\d\d ± \d+\.\d\d ", output)
    assert re.search(r"scratch .* inner_lr=[\d./]+ ", output)
    assert re.search(r"in every row: tasks \d+, seeds 1, outcome finished", output)
    assert "± 95 % interval over tasks (fewer than three seeds" in output
    assert "checkpoint: last; engine: eager; device: cpu, threads: 1" in output


def test_a_dry_run_predicts_and_creates_nothing() -> None:
    output = bench(*RUN, "--algos", "maml,finetune", "--seeds", "0,7", "--dry-run").output
    assert len(re.findall(r"sinusoid · (?:maml|finetune) · seed [07] +eager +100 +\d+s", output)) == 4
    assert "cells: 4" in output
    assert not Path("store").exists()


def test_a_dry_run_knows_what_is_finished() -> None:
    bench(*RUN, "--algos", "maml", "--iterations", "3")
    output = bench(*RUN, "--algos", "maml,fomaml", "--iterations", "3", "--dry-run").output
    assert re.search(r"maml · seed 0 .* finished", output)
    assert re.search(r"fomaml · seed 0 .* \d+s", output)


def test_a_dry_run_without_the_data_says_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr("suites.omniglot.drawings", __import__("suites.omniglot").omniglot.drawings.__wrapped__)
    output = bench("run", "--suite", "omniglot", "--algos", "maml", "--dry-run").output
    assert "1 unknown for want of data" in output


def test_the_time_limit_stops_cleanly_and_the_same_command_goes_on() -> None:
    command = (*RUN, "--algos", "maml[meta_batch=2]", "--iterations", "1000")
    output = bench(*command, "--time-limit", "0.2s").output
    assert "the time limit came first: 0 of 1 cells done. The same command goes on." in output
    assert records() == []
    output = bench(*command).output
    assert "going on from iteration" in output
    assert [(record["outcome"], record["pieces"]) for record in records()] == [("finished", 2)]


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "trains", interrupt)
        output = bench(*RUN, "--algos", "maml", "--iterations", "20", code=130).output
    assert "interrupted. What is done is kept in store; the same command goes on from there." in output
    assert "Traceback" not in output
    assert "going on from iteration 1" in bench(*RUN, "--algos", "maml", "--iterations", "20").output


def test_ctrl_c_while_planning_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.api.plan", interrupt)
    output = bench(*RUN, "--algos", "maml", code=130).output
    assert output.startswith("Error: interrupted. What is done is kept in store; the same command goes on from there.")


@pytest.mark.slow
def test_the_second_of_two_runs_says_whom_it_waits_for_and_runs_what_nobody_holds() -> None:
    command = (*RUN, "--algos", "maml,metasgd", "--iterations", "3")
    dry = bench(*command, "--dry-run").output
    cell, other = re.findall(r"^ ([0-9a-f]{16}) ", dry, re.MULTILINE)
    with Store.create(Path("store")).hold(cell):
        output = bench(*command, "--time-limit", "3s").output
    assert f"process {os.getpid()} on {os.uname().nodename} runs it; waiting" in output
    assert "the time limit came first: 1 of 2 cells done. The same command goes on." in output
    assert [record["cell"] for record in records()] == [other]
    assert "waiting" not in bench(*command).output
    assert len(records()) == 2


@pytest.mark.parametrize("name", ["sinusoid", "sinusoid_freq", "omniglot[ways=20]", "glyphs"])
def test_show_explains_a_suite_within_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIPED_WIDTH", 80)
    output = bench("show", name).output
    assert max(map(len, output.splitlines())) <= 80
    assert output.startswith(f"{name.partition('[')[0]} (suite)")
    for fact in ("shots", "int >= 1", "report steps", "knowing nothing", "normalisation", "inner_lr", "600 test tasks"):
        assert fact in output
    assert not re.search(r"typing\.|Literal|Annotated|G[te]\(|FieldInfo", output)


@pytest.mark.parametrize("name", ["maml", "fomaml", "metasgd", "finetune", "scratch", "oracle"])
def test_show_explains_an_algorithm_within_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIPED_WIDTH", 80)
    output = bench("show", name).output
    assert max(map(len, output.splitlines())) <= 80
    assert "arXiv" in output or name == "scratch"
    assert "float > 0" in output
    assert not re.search(r"typing\.|Literal|Annotated|G[te]\(|FieldInfo", output)


def test_show_keeps_what_stands_in_brackets() -> None:
    assert "oracle: the input is [x, A, phase]" in bench("show", "sinusoid").output


def test_show_maml_prints_the_published_and_the_effective_rate() -> None:
    output = bench("show", "maml").output
    assert re.search(r"omniglot +5-way 1-shot +1 +0\.001 +32 +2 ", output)
    assert re.search(r"inner_lr of glyphs, omniglot: published 0\.4, .* N = 5 times the mean loss", output)


def test_show_takes_parameters() -> None:
    twenty = bench("show", "omniglot[ways=20]").output
    assert "20-way 1-shot (transductive)" in twenty
    assert re.search(r"knowing nothing +5\b", twenty)
    assert "published 0.1" in twenty
    assert re.search(r"omniglot +5-way 1-shot +1 +0\.001 +32 +0\.4 ", bench("show", "maml[inner_lr=0.4]").output)


@pytest.mark.parametrize("name", ["sinusoid", pytest.param("glyphs", marks=pytest.mark.slow)])
def test_a_sheet_is_a_picture_with_ink_on_it(name: str) -> None:
    assert "drawn to sheet.png" in bench("show", name, "--sheet", "sheet.png").output
    with Image.open("sheet.png") as image:
        assert min(image.size) > 500
        dark = sum(image.convert("L").histogram()[:128]) / (image.width * image.height)
    assert 0.005 < dark < 0.5


@pytest.mark.slow
def test_draw_tells_a_longer_run_from_a_shorter_one() -> None:
    for iterations in ("2", "4"):
        bench(*RUN, "--algos", "maml[meta_batch=1]", "--iterations", iterations)
    assert "drawn to curves.png" in bench("draw", "store", "--curves", "curves.png").output
    with Image.open("curves.png") as image:
        assert min(image.size) > 300
    for arguments in (["nowhere"], ["store", "--suite", "sinusiod"]):
        assert "Error" in bench("draw", *arguments, "--curves", "curves.png", code=2).output
    assert "such as curves.png" in bench("draw", "store", "--curves", "curves.xyz", code=2).output


def test_a_suite_without_downloads_has_nothing_to_fetch() -> None:
    assert "glyphs has nothing to fetch" in bench("data", "fetch", "glyphs").output


@pytest.mark.parametrize("name", ["glyphs", "sinusoid"])
def test_what_ships_or_is_drawn_is_verified_by_its_frozen_tasks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = bench("data", "verify", name).output
    assert re.search(r"^ok +test tasks of .*SHA-256 [0-9a-f]{64}$", output, re.MULTILINE)
    monkeypatch.setattr("bench.learning.evaluate.seeds.generator", lambda *_: torch.Generator().manual_seed(1))
    assert "WRONG test tasks" in bench("data", "verify", name, code=1).output


@pytest.mark.parametrize("command", ["fetch", "verify"])
@pytest.mark.parametrize("name", ["mini_imagenet", "cifar_fs", "omniglot"])
def test_data_that_are_not_there_fail_the_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    for module in (mini_imagenet, cifar_fs):
        module.pixels.cache_clear()
    (tmp_path / "data").mkdir()
    assert name in bench("data", command, name, "--data-dir", "data", code=2).output
    (tmp_path / "data" / name).mkdir()
    assert (
        f"{Path('data') / name}" in bench("data", command, name, "--data-dir", "data", code=2).output
        or name == "omniglot"
    )


def test_an_asset_that_is_damaged_fails_the_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "glyphs.npz"
    damaged.write_bytes(glyphs.ASSET.read_bytes()[:-1])
    monkeypatch.setattr(glyphs, "ASSET", damaged)
    glyphs._asset.cache_clear()
    assert "not the file that shipped" in bench("data", "verify", "glyphs", code=2).output


def test_a_plug_in_that_cannot_read_its_data_fails_the_verification(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom suites.sinusoid import Sinusoid\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Sinusoid):\n"
        "    def look_up(self, tasks, role):\n        return open('nowhere.csv')\n"
    )
    output = bench("data", "verify", "mine", "--plugin", "mine.py", code=2).output
    assert "mine can't be read: FileNotFoundError" in output


def test_verify_finds_altered_data(tmp_path: Path) -> None:
    for name in ("images_background", "images_evaluation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "other.txt").write_text("not a drawing")
    output = bench("data", "verify", "omniglot", "--data-dir", str(tmp_path), code=1).output
    assert output.count("WRONG") == 2


def test_certify_prints_figures_and_what_does_not_apply() -> None:
    output = bench("certify", "scratch").output
    assert "n/a: it does not meta-train" in output
    assert output.endswith("certified\n")


@pytest.mark.slow
def test_a_real_ctrl_c_loses_nothing() -> None:
    command = (*RUN, "--algos", "maml[meta_batch=2]", "--iterations", "2000")
    with subprocess.Popen([sys.executable, "-c", CALL, *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "2,000 meta-iterations" in process.stderr.readline()
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130
    assert "the same command goes on from there" in told
    assert "Traceback" not in told
    assert re.search(r"going on from iteration \d+", bench(*command).output)
    assert [(record["outcome"], record["pieces"]) for record in records()] == [("finished", 2)]


def test_python_m_bench_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "list"], capture_output=True, text=True, check=True)
    assert done.stdout == bench("list").output
    usage = subprocess.run([sys.executable, "-m", "bench", "--help"], capture_output=True, text=True, check=True)
    assert usage.stdout.startswith("Usage: python -m bench ")
