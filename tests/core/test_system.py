"""Where bench does not run it says so, before anything that is missing there is imported."""

import os
import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner

import bench
from bench.cli import main
from bench.core import system
from bench.core.errors import BenchError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "arguments", [["list"], ["run", "--suite", "sinusoid", "--algos", "maml"], ["data", "fetch", "x"]]
)
def test_every_command_refuses_a_system_that_is_not_posix(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(system.os, "name", "nt")
    monkeypatch.setattr(system.platform, "system", lambda: "Windows")
    done = CliRunner().invoke(main, arguments)
    monkeypatch.undo()
    assert done.exit_code == 2 and done.output.count("\n") == 1
    assert "needs a POSIX system" in done.output and "this is Windows" in done.output and "WSL" in done.output


@pytest.mark.parametrize("name", bench.__all__)
def test_the_library_refuses_it_likewise(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(system.os, "name", "nt")
    with pytest.raises(BenchError, match="POSIX"):
        getattr(bench, name)


def test_the_command_needs_no_module_that_windows_lacks_to_say_so() -> None:
    code = "import sys\nfor name in ('fcntl', 'resource', 'pwd', 'termios'): sys.modules[name] = None\n"
    code += (
        "import os, bench.cli, bench.core.system as s\ns.os = type('os', (), {'name': 'nt'})\nbench.cli.main(['list'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("Error: bench needs a POSIX system")


def test_the_package_and_the_readme_say_so() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert "Operating System :: POSIX" in classifiers
    assert not [line for line in classifiers if "Windows" in line or "Independent" in line]
    assert "POSIX" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("said", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_who_says_how_threads_wait_is_obeyed(said: str) -> None:
    environment = {said: "active" if said == "OMP_WAIT_POLICY" else "1000"}
    before = dict(environment)
    system.wait_politely(environment)
    assert environment == before


def test_the_command_waits_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is put back
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    CliRunner().invoke(main, ["list"])
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
