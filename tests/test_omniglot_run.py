"""The main job on the real images, small."""

from pathlib import Path

import pandas as pd
import pytest

import bench


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_real_omniglot_runs_to_a_table_for_all_algorithms(
    tmp_path: Path, omniglot_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(omniglot_dir))
    names = ["maml", "fomaml", "metasgd", "finetune", "scratch"]
    frame = bench.run("omniglot", names, out=tmp_path, preset="smoke")
    accuracy = frame[frame["metric"] == "accuracy"]
    assert set(accuracy["algorithm"]) == set(names)
    assert set(accuracy["norm"]) == {"transductive", "inductive"}
    assert accuracy["value"].between(0, 100).all()
    assert accuracy.groupby(["algorithm", "norm", "step"])["task"].nunique().unique().tolist() == [10]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_maml_learns_on_real_omniglot(tmp_path: Path, omniglot_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(omniglot_dir))
    frame: pd.DataFrame = bench.run(
        "omniglot", ["fomaml[meta_batch=8]", "scratch"], out=tmp_path, preset="smoke", iterations=150, engine="eager"
    )
    rows = frame[(frame["metric"] == "accuracy") & (frame["step"] == 3) & (frame["norm"] == "transductive")]
    means = rows.groupby("algorithm")["value"].mean()
    assert means["fomaml[meta_batch=8]"] > 35 > 20
