"""A file says what the command line says: every option of it, and nothing else."""

import os
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from bench.cli import main
from bench.terminal.config import OWN, Configured
from tests.conftest import bench

RUN = ["--suite", "sinusoid", "--algos", "maml", "--preset", "smoke", "--threads", "1", "--engine", "eager"]
OTHERS = {  # a value that is not the default, of each option
    **{"suite": "sinusoid[shots=5]", "algos": "maml[meta_batch=2],fomaml", "seeds": "0,7", "preset": "smoke"},
    **{"iterations": 3, "time-limit": "1h30m", "selection": "best", "validate-every": 7, "device": "cpu"},
    **{
        "out": 'a "quoted" \\ ünï\x7f',
        "data-dir": ".",
        "engine": "eager",
        "threads": 1,
        "chunk-tasks": 4,
        "tuned": True,
    },
    **{"workers": 2, "dask": "tcp://a:1", "dask-spec": "c.yaml", "retries": 5, "plugin": ["a.py", "b.py"]},
    **{"track": ["tensorboard", "mlflow"], "trials": 4, "trial-iterations": 3, "sampler": "grid", "pruner": "median"},
    **{"sampler-seed": 9, "batch": 2, "storage": "postgresql://a@b/c", "json": True},
    **{"search": "maml[inner_lr=0.01..1 log]", "score-on": "sinusoid_freq"},
}


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def seen(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> dict[str, Any]:
    """What the command's function is given."""
    given: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(main.commands[name], "callback", lambda **options: given.update(options))
        bench(name, *arguments)
    return given


def options(name: str) -> dict[str, click.Option]:
    command = main.commands[name]
    assert isinstance(command, Configured)
    return command._options


@pytest.mark.parametrize("name", ["run", "tune"])
def test_every_option_can_stand_in_the_file_and_means_what_it_means_when_typed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = options(name)
    every = {max(p.opts, key=len).removeprefix("--") for p in main.commands[name].params if isinstance(p, click.Option)}
    assert set(known) == every - set(OWN)
    typed: list[str] = []
    for each in known:
        value = OTHERS[each]
        values = value if isinstance(value, list) else [value]
        typed += [f"--{each}"] if value is True else [w for v in values for w in (f"--{each}", str(v))]
    plain = seen(monkeypatch, name, *typed)
    assert seen(monkeypatch, name, *typed, "--save-config", "study.toml") == plain
    written = tomllib.loads(Path("study.toml").read_text())
    assert written == {each: OTHERS[each] for each in known}
    assert seen(monkeypatch, name, "--config", "study.toml") == plain


@pytest.mark.parametrize("name", ["run", "tune"])
def test_what_is_not_typed_is_written_too_so_that_a_later_default_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_PRESET", "smoke")
    plain = seen(monkeypatch, name, "--suite", "s", "--algos", "a", "--save-config", "study.toml")
    written = tomllib.loads(Path("study.toml").read_text())
    assert written["preset"] == "smoke"
    assert {"seeds", "engine", "device", "retries"} <= set(written)
    monkeypatch.setenv("BENCH_PRESET", "paper")  # which is another machine's
    assert seen(monkeypatch, name, "--config", "study.toml") == plain


def test_what_is_typed_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("study.toml").write_text('suite = "s"\nalgos = "a"\nseeds = 3\nplugin = "a.py"\ntuned = false\n')
    given = seen(monkeypatch, "run", "--seeds", "0,", "--config", "study.toml", "--plugin", "b.py", "--tuned")
    assert (given["suites"], given["seeds"], given["tuned"]) == ("s", (0,), True)
    assert [path.name for path in given["plugins"]] == ["a.py", "b.py"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('sed = 3\nsuite = "s"', "unknown option in study.toml 'sed'. Did you mean 'seeds'?"),
        ("inner_lr = 0.1", "unknown option in study.toml 'inner_lr'."),
        ("time_limit = 3", "Did you mean 'time-limit'?"),
        ("trials = 3", "unknown option in study.toml 'trials'."),  # of another command
        ("config = 'other.toml'", "unknown option in study.toml 'config'."),
        ("dry-run = true", "unknown option in study.toml 'dry-run'."),
        ("[run]\nseeds = 3", "unknown option in study.toml 'run'."),
        ("seeds = [0, 1]", 'seeds takes a text or a number, such as "0,1,2" or 3, as on the command line, not [0, 1]'),
        ("seeds = true", "seeds takes a text or a number"),
        ("plugin = [true]", "plugin takes a text, a number or a list of them"),
        ("tuned = 'yes'", 'tuned = "yes" is a switch. Write tuned = true, or false.'),
        ("seeds = ", "--config study.toml can't be read"),
        ("seeds = 1\nseeds = 2", "--config study.toml can't be read"),
    ],
)
def test_what_is_no_option_or_no_value_is_said(content: str, message: str) -> None:
    Path("study.toml").write_text(content)
    assert message in bench("run", *RUN, "--config", "study.toml", code=2).output


def test_a_value_in_the_file_is_held_to_what_one_that_is_typed_is() -> None:
    Path("study.toml").write_text("iterations = 0\n")
    assert "'0' is no whole number from 1" in bench("run", *RUN, "--config", "study.toml", code=2).output
    assert "can't be read: No such file" in bench("run", *RUN, "--config", "nowhere.toml", code=2).output


def test_a_name_that_is_no_utf_8_is_refused_and_a_file_of_an_editor_that_marks_it_is_read() -> None:
    out = os.fsdecode(b"r\xff")
    said = bench("run", *RUN, "--out", out, "--save-config", "study.toml", code=2).output
    assert "can't hold out, whose name is in another encoding" in said
    assert not Path(out).exists()
    Path("study.toml").write_bytes(b"\xef\xbb\xbfiterations = 0\r\n")
    assert "'0' is no whole number from 1" in bench("run", *RUN, "--config", "study.toml", code=2).output


def test_a_run_by_file_is_the_run_by_command() -> None:
    bench("run", *RUN, "--iterations", "3", "--out", "store", "--save-config", "study.toml")
    output = bench("run", "--config", "study.toml").output
    assert "finished before" in output
    assert len(list(Path("store").glob("cells/*/record.json"))) == 1
