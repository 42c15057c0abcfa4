"""A torch that bench is not made for is refused before it is imported."""

import tomllib
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
from click.testing import CliRunner

import bench
from bench.cli import main
from bench.core import torch_version
from bench.core.errors import BenchError
from tests.conftest import ROOT


def test_the_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"torch>={torch_version.OLDEST},<{torch_version.TOO_NEW}" in project["dependencies"]


@pytest.mark.parametrize("found", ["2.11.0", "2.14.1+cpu", "2.12.0a0+git1234567"])
def test_what_bench_is_made_for_is_taken(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(torch_version, "version", lambda _: found)
    torch_version.check_torch()


@pytest.mark.parametrize("found", ["2.15.0", "2.100.0.dev20270101", "3.0.0", "2.9.1", None])
def test_another_is_refused_by_the_command_and_by_the_library(
    monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    def version(_: str) -> Any:
        if found is None:
            raise PackageNotFoundError
        return found

    monkeypatch.setattr(torch_version, "version", version)
    done = CliRunner().invoke(main, ["list"])
    words = f"torch {found or 'none'} is installed, and this bench is made for torch 2.11 up to, not including, 2.15"
    assert done.exit_code == 2
    assert words in done.output.replace("\n", " ")
    with pytest.raises(BenchError, match=r"pip install 'torch>=2\.11,<2\.15'"):
        _ = bench.run
