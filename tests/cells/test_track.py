"""What `--track` sends: the curve while it grows, the scores at the end, nothing twice; what it says if it cannot."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import bench
from bench.cli import main

RUN = ["run", "--suite", "sinusoid", "--algos", "maml", "--preset", "smoke", "--iterations", "20"]
RUN += ["--validate-every", "10", "--threads", "1", "--engine", "eager"]


def called(*words: object) -> Result:
    return CliRunner().invoke(main, [*RUN, *map(str, words)])


class Client:
    """MLflow's client as far as bench calls it: keeps what it is given."""

    numbers: dict[tuple[str, int], float]
    runs: dict[str, Any]

    def get_experiment_by_name(self, _: str) -> None:
        return None

    def create_experiment(self, _: str) -> str:
        return "1"

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        Client.runs = {"name": run_name, "parameters": {}, **tags}
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_param(self, run: str, name: str, value: Any) -> None:
        Client.runs["parameters"][name] = value

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        Client.numbers[name, step] = value

    def set_tag(self, run: str, name: str, value: str) -> None:
        Client.runs[name] = value

    def set_terminated(self, run: str, status: str) -> None:
        Client.runs["status"] = status


def test_mlflow_gets_the_curve_and_the_scores_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client))
    Client.numbers = {}
    done = called("--track", "mlflow", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    frame = bench.load(tmp_path)
    own = frame[(frame["setting"] == "K=5") & (frame["step"] == 10)]["value"].mean()
    assert Client.numbers["test/K-5/none/mse", 10] == pytest.approx(own)
    curve = frame.store.read_table(frame["cell"].iloc[0], "curve.parquet")
    assert curve["iteration"].tolist() == [10, 20]
    for row in curve.itertuples():
        assert Client.numbers["train/loss", row.iteration] == pytest.approx(row.loss)  # type: ignore[index]
        assert Client.numbers["validation/score", row.iteration] == pytest.approx(row.validation)  # type: ignore[index]
    assert Client.runs["status"] == "FINISHED"
    assert Client.runs["parameters"]["inner_lr"] == 0.01
    Client.numbers = {}
    assert called("--track", "mlflow", "--out", tmp_path).exit_code == 0
    assert Client.numbers == {}  # the cell was finished before


@pytest.mark.slow
def test_tensorboard_reads_what_was_sent(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = called("--track", "tensorboard", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    [folder] = (tmp_path / "tracking" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20]
    frame = bench.load(tmp_path)
    own = frame[(frame["setting"] == "K=5") & (frame["step"] == 10)]["value"].mean()
    assert events.Scalars("test/K-5/none/mse")[10].value == pytest.approx(own)


def test_a_tracker_that_is_not_installed_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said = called("--track", "mlflow", "--out", tmp_path)
    assert said.exit_code == 2
    assert "pip install 'meta-bench[mlflow]'" in said.output
    assert not list(tmp_path.glob("cells/*"))
