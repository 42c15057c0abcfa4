"""The examples are sound plug-ins: certified, found by --plugin, run to a table."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.core.discovery import Catalogue
from bench.testing import check_algorithm, check_suite
from tests.conftest import ROOT, SMALL

SIGNS, POLYNOMIAL = ROOT / "examples" / "signmaml.py", ROOT / "examples" / "polynomial.py"


@pytest.mark.slow
def test_the_example_algorithm_is_certified() -> None:
    check_algorithm(Catalogue((SIGNS,)).load("algorithm", "signmaml"))


def test_the_example_suite_is_sound() -> None:
    check_suite(Catalogue((POLYNOMIAL,)).load("suite", "polynomial")())


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")) + sorted((ROOT / "algorithms").glob("*.py")))
def test_one_file_of_moderate_length_is_enough(file: Path) -> None:
    assert length(file) <= (60 if file == SIGNS else 110)


def length(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_a_method_takes_less_than_sixty_lines_in_the_mean() -> None:
    files = [file for file in (ROOT / "algorithms").glob("*.py") if file.name != "__init__.py"]
    assert sum(map(length, files)) / len(files) < 60


def test_both_run_beside_what_is_built_in(tmp_path: Path) -> None:
    arguments = ["run", "--suite", "polynomial", "--algos", "signmaml,maml", "--out", str(tmp_path / "runs"), *SMALL]
    done = CliRunner().invoke(main, [*arguments, "--plugin", str(SIGNS), "--plugin", str(POLYNOMIAL)])
    assert done.exit_code == 0, done.output
    assert "signmaml" in done.output
    assert "mse @10" in done.output


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples" / "comparison.ipynb", as_version=4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in shown)
