"""README and the pages: their commands work as printed, or say why nobody runs them; what they name is there.

A block of `sh` is run here. One of `console` is not, and a comment `<!-- not run: why -->` stands at or above it; it is
parsed, so that no option or name in it is out of date. What `<!-- tried: how -->` precedes is tried below.
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
import yaml
from PIL import Image

import bench as package
from bench.cli import main
from bench.core.discovery import Catalogue, parse
from bench.planning.plan import Request, plan
from tests.conftest import ROOT, bench

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- (not run|tried): (.+?) -->|^ *```([\w-]*)\n(.*?)^ *```$", re.M | re.S)
BESIDE = ("docker", "yaml", "")  # what is no command
INSTALLED = re.compile(r"^python3 -m venv .*&& \.venv/bin/")  # what this very environment has done already
NOT_HERE = re.compile(
    r"^(tox\b|bench data fetch|eval )"
)  # is running; would download; tests/terminal/test_completion.py


class Block(NamedTuple):
    """What a page shows, and what the comments above it say."""

    language: str
    text: str
    reason: str  # why nothing below the comment is run
    tried: str  # how this one is


def blocks(page: Path) -> Iterator[Block]:
    reason = tried = ""
    for kind, words, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "not run":
            reason = words
        elif kind:
            tried = words
        else:
            yield Block(language, textwrap.dedent(text), reason, tried)
            tried = ""


def commands(text: str) -> list[str]:
    """The lines, those that end in a backslash with what follows, without prompts, comments and what installs."""
    lines = text.replace("\\\n", " ").splitlines()
    lines = [INSTALLED.sub("", line.removeprefix("$ ").partition("  #")[0].strip()) for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


def named(page: Path) -> str:
    return page.name


RUN = [page for page in PAGES if any(block.language == "sh" for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        if block.language == "console":
            assert block.reason, f"<!-- not run: why --> is missing above\n{block.text}"
            assert all(line.startswith(("$ ", " ")) for line in block.text.splitlines()), block.text
        elif block.language == "bash" or (block.language == "python" and "class " not in block.text):
            assert block.tried or "import bench\n" in block.text, f"<!-- tried: how --> is missing above\n{block.text}"
        else:
            assert block.language in ("sh", "python", *BESIDE), block.language
    unfenced = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.search(r"^    (\$ )?(bench|pip|python3?|tox) ", unfenced, re.M), "a command without a fence"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_that_are_not_run_are_up_to_date(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    known = Catalogue()
    for line in (line for block in blocks(page) if block.language == "console" for line in commands(block.text)):
        _, is_ours, rest = line.rpartition("bench ")
        if not is_ours or re.match(r"(pip|echo|_BENCH)", line):
            continue
        command, context, words = main, click.Context(main, info_name="bench"), shlex.split(rest)
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        with command.make_context(command.name, words) as made:
            for option, kind in (("suites", "suite"), ("algos", "algorithm")):
                asked = made.params.get(option)
                for one in parse(asked) if asked else ():
                    assert made.params["plugins"] or one.name in known.names(kind), line


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUN, ids=named)
def test_commands_run_verbatim(page: Path, tmp_path: Path, omniglot_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("examples", "tests"):
        Path(folder).symlink_to(ROOT / folder)
    monkeypatch.setenv("BENCH_PRESET", "smoke")
    monkeypatch.setenv("BENCH_DATA_DIR", str(omniglot_dir))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    for line in (line for block in blocks(page) if block.language == "sh" for line in commands(block.text)):
        if NOT_HERE.match(line):
            continue
        name, *words = shlex.split(line)
        assert name == "bench", line
        bench(*words)


@pytest.mark.slow
def test_the_first_command_of_readme_takes_a_folder_of_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in range(30):  # five classes for each split, with 1 shot and 15 queries of each
        (tmp_path / "my_photos" / f"kind {kind}").mkdir(parents=True)
        for number in range(16):
            noise = np.random.default_rng((kind, number)).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "my_photos" / f"kind {kind}" / f"{number}.png")
    first = next(line for block in blocks(ROOT / "README.md") for line in commands(block.text))
    with main.commands["run"].make_context("run", shlex.split(first)[2:]) as made:
        asked = Request(suites=made.params["suites"], algos=made.params["algos"], preset="smoke", engine="eager")
    assert [cell.spec.suite.name for cell in plan(asked)] == ["images"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "import bench\n" in page.read_text()], ids=named)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.language == "python" and "import bench\n" in block.text:
            exec(block.text.replace('preset="quick"', 'preset="smoke", threads=1'), {})


def recipe(page: str, mark: str) -> str:
    [text] = [block.text for block in blocks(ROOT / "docs" / page) if block.tried and mark in block.text]
    return text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_tasks_of_a_slurm_array_share_the_work(tmp_path: Path) -> None:
    env = {**os.environ, "SHARED": str(tmp_path), "BENCH_PRESET": "smoke"}
    env["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    script = ["bash", "-euo", "pipefail", "-c", recipe("machines.md", "#SBATCH")]
    tasks = [subprocess.Popen(script, env=env | {"SLURM_ARRAY_TASK_ID": number}) for number in ("0", "1")]
    assert [task.wait() for task in tasks] == [0, 0]
    assert package.load(tmp_path / "runs" / "mine")["cell"].nunique() == 10


def test_a_pod_is_told_what_a_task_of_slurm_is_told() -> None:
    pod = yaml.safe_load(recipe("machines.md", "kind: Job"))["spec"]["template"]["spec"]
    [container], [volume] = pod["containers"], pod["volumes"]
    [mount] = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    told = commands(recipe("machines.md", "#SBATCH"))[-1]
    asked = shlex.split(told.replace("$SHARED", mount["mountPath"]))
    limit = asked.index("--time-limit")  # which pods have not
    same = [word.replace("/runs/runs/", "/runs/") for word in asked[:limit] + asked[limit + 2 :]]
    assert container["command"] == same


def test_readme_has_the_command_that_passes_the_tests() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^<!-- tests -->\n```sh\n.+?^```$", readme, re.M | re.S)  # which .ci/run reads


def test_the_page_of_your_own_algorithm_shows_the_probe_that_is_tested() -> None:
    [shown] = [b.text for b in blocks(ROOT / "docs" / "your-own-algorithm.md") if b.language == "python"]
    assert shown == (ROOT / "tests" / "probes" / "prototypes.py").read_text()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
