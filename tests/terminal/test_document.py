"""`--json`: one document on standard output, valid, with the numbers of the tables; nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import bench
from bench.cli import main

SMALL = ["--preset", "smoke", "--iterations", "2", "--threads", "1", "--engine", "eager"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    bench.run("sinusoid", "maml[meta_batch=2],fomaml[meta_batch=2]", out=root, preset="smoke", iterations=2, threads=1)
    return root


def document(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == code, (done.output, done.exc_info)
    return json.loads(done.stdout, parse_constant=pytest.fail)  # NaN and Infinity are no JSON


COMMANDS = {
    "list": ["list"],
    "show an algorithm": ["show", "maml"],
    "show an algorithm that fixes a field": ["show", "fomaml"],
    "show a suite": ["show", "sinusoid"],
    "run": ["run", "--suite", "sinusoid", "--algos", "maml[meta_batch=2]", *SMALL, "--out", "STORE"],
    "run --dry-run": ["run", "--suite", "sinusoid", "--algos", "maml,scratch", *SMALL, "--out", "NEW", "--dry-run"],
    "tune": ["tune", "--suite", "sinusoid", "--algos", "maml[meta_batch=2]", "--trials", "2", "--trial-iterations", "1",
             "--preset", "smoke", "--threads", "1", "--out", "NEW"],
    "cost": ["cost", "--suite", "sinusoid", "--algos", "maml", "--steps", "1", "--tasks", "2", "--out", "NEW"],
    "certify": ["certify", "scratch"],
    "report": ["report", "STORE"],
    "reproduce": ["reproduce", "sinusoid", "--dry-run", "--threads", "1", "--out", "STORE"],
    "audit": ["audit", "STORE"],
    "data verify": ["data", "verify", "sinusoid"],
}  # fmt: skip


@pytest.mark.forms(5)
@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_table_is_a_document_of_rows(store: Path, tmp_path: Path, name: str) -> None:
    words = [{"STORE": str(store), "NEW": str(tmp_path / "new")}.get(word, word) for word in COMMANDS[name]]
    found = document(*words)
    assert set(found) == {"tables", "said"}
    assert any(table["rows"] for table in found["tables"])
    for table in found["tables"]:
        assert len({tuple(row) for row in table["rows"]}) <= 1  # every row has the same columns


def test_widths_are_no_number() -> None:
    [table] = [found for found in document("show", "sinusoid")["tables"] if found["title"] != "facts"]
    assert {row["parameter"]: row["default"] for row in table["rows"]} == {
        "shots": 10,
        "hidden": "40,40",
        "view": "plain",
    }


@pytest.mark.slow
def test_the_numbers_are_those_that_the_tables_round(store: Path) -> None:
    [table] = document("report", str(store))["tables"]
    frame = bench.load(store)
    for row in table["rows"]:
        own = frame[(frame["algorithm"] == row["algorithm"]) & (frame["setting"] == row["setting"])]
        mean = own.loc[(own["step"] == 10) & (own["metric"] == "mse"), "value"].mean()
        assert row["mse @10"]["value"] == pytest.approx(mean, rel=1e-12)
        assert row["mse @10"]["low"] < mean < row["mse @10"]["high"]
        assert row["tasks"] == 20 and row["iterations"] == 2


@pytest.mark.slow
def test_a_refusal_and_a_fault_are_documents_too(store: Path, tmp_path: Path) -> None:
    refused = document("show", "mmal", code=2)
    assert refused["tables"] == [] and "Did you mean 'maml'?" in refused["error"]
    words = ["run", "--suite", "sinusoid", "--algos", "maml[outer_lr=1e30,meta_batch=2]", *SMALL]
    lost = document(*words, "--out", str(tmp_path / "lost"), code=3)
    assert lost["tables"][0]["rows"][0]["outcome"] == "diverged"


@pytest.mark.slow
def test_what_is_no_finite_number_is_null(tmp_path: Path) -> None:
    words = ["cost", "--suite", "sinusoid", "--algos", "finetune", "--steps", "1", "--tasks", "2"]
    [table] = document(*words, "--out", str(tmp_path / "cost"))["tables"]
    assert [row["over_first"] for row in table["rows"]] == [None]  # pretraining has no first order to be held against
