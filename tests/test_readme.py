"""README's commands work as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S)
INSTALLED = re.compile(r"^python3 -m venv .*&& \.venv/bin/")  # what this very environment has done already
# Blocks of `sh` run here as printed; those of `console` gave README's results, in hours.
LINES = [INSTALLED.sub("", line) for block in BLOCKS for line in block.splitlines()]
LINES = [line for line in LINES if line != "tox"]


def test_readme_has_the_two_commands_that_do_all_the_set_up() -> None:
    for marker in ("run", "tests"):
        assert re.search(rf"^<!-- {marker} -->\n```sh\n.+?^```$", README, re.M | re.S), marker
    assert len(LINES) >= 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_readme_commands_run_verbatim(tmp_path: Path, omniglot_dir: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    bin_dir = str(Path(sys.executable).parent)
    env = {**os.environ, "BENCH_PRESET": "smoke", "BENCH_DATA_DIR": str(omniglot_dir), "COLUMNS": "160"}
    env["PATH"] = bin_dir + os.pathsep + env["PATH"]
    for line in LINES:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_readme_python_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    assert blocks
    for block in blocks:
        if "import bench\n" in block:
            done = subprocess.run(
                [sys.executable, "-c", block.replace('preset="quick"', 'preset="smoke"')],
                cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
