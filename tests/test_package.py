"""What is installed is what lies here."""

import tomllib

from bench.core.beside import OURS
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_installed() -> None:
    folders = {path.parent for name in ("bench", *OURS) for path in (ROOT / name).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders} - {"suites.assets"}  # scripts beside data
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names
