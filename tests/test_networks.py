"""A stranger's network through the whole: trained, cut and resumed, scored, loaded; or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import bench
import bench.testing
from bench.cli import main
from bench.core import network, seeds
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError
from bench.learning.evaluate import manifest
from bench.planning import networks
from bench.storage.store import Store
from suites.navigation2d import Navigation2D
from tests.conftest import ROOT

POLYNOMIAL = (ROOT / "examples" / "polynomial.py").read_text()
OWN = "nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))"
FIRST = "nn.Sequential(nn.Linear(1, 8), {}, nn.Linear(8, 1))"
NOISY = """
class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)

class Depends(nn.Module):
    def forward(self, x):
        return x.tanh() if x.sum().item() > 0 else x.sin()

class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(1, 8))
        self.first = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, x):
        return self.first(torch.sin(x @ self.frequencies))

class Beside(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x * (self.scale() if callable(self.scale) else self.scale)

class Kept(nn.Module):
    def __init__(self, scale, persistent=True):
        super().__init__()
        self.register_buffer("scale", scale.float(), persistent=persistent)

    def forward(self, x):
        return x * self.scale

class Averages(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return x - self.mean

AT_IMPORT = torch.randn(8)
"""


def plugin(folder: Path, layers: str, norm: str = "") -> Path:
    """examples/polynomial.py with another network."""
    assert OWN in POLYNOMIAL
    text = POLYNOMIAL.replace(OWN, layers).replace("\n\nclass Curves", f"\n{NOISY}\n\nclass Curves", 1)
    text = text.replace("import torch\n", "import random\nimport numpy as np\nimport torch\n", 1)
    if norm:
        text = text.replace("    kind: ClassVar", f'    norm: str = "{norm}"\n    kind: ClassVar')
    path = folder / "polynomial.py"
    path.write_text(text)
    return path


def trained(file: Path, out: Path, iterations: int, algos: str = "maml") -> Any:
    asked: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager", "plugins": [file]}
    return bench.run("polynomial", algos, out=out, iterations=iterations, **asked)


def the_record(out: Path, iterations: int) -> Any:
    return next(r for r in Store.open(out).records() if r.spec.iterations == iterations)


DRAWS = "nn.Sequential(Features(), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))"


def test_what_draws_keeps_statistics_and_has_buffers_is_resumed_to_the_same_digest(tmp_path: Path) -> None:
    file = plugin(tmp_path, DRAWS)
    for iterations in (7, 20):
        trained(file, tmp_path / "cut", iterations)
    trained(file, tmp_path / "whole", 20)
    cut, whole = (the_record(tmp_path / name, 20) for name in ("cut", "whole"))
    assert cut.pieces == 2
    assert cut.digest == whole.digest


def test_what_is_not_learned_stays_and_is_loaded_with_the_rest(tmp_path: Path) -> None:
    file = plugin(tmp_path, DRAWS)
    results = trained(file, tmp_path / "runs", 12)
    model = results.model(results.cell[0], plugins=[file])
    first = Catalogue((file,)).load("suite", "polynomial")().new_params(seeds.generator(0, "init"))
    state = model.state_dict()
    for name in ("0.frequencies", "0.first.weight", "0.first.bias"):
        assert torch.equal(state[name], first[name]), name
    assert not torch.equal(state["3.weight"], first["3.weight"])
    assert state["1.running_mean"].abs().sum() > 0


def test_inductive_is_by_running_statistics_as_the_loaded_module_has_them(tmp_path: Path) -> None:
    file = plugin(tmp_path, FIRST.format("nn.BatchNorm1d(8), nn.Tanh()"), norm="inductive")
    results = trained(file, tmp_path / "runs", 12)
    assert set(results.norm) == {"inductive"}
    suite = Catalogue((file,)).load("suite", "polynomial")()
    model = results.model(results.cell[0], plugins=[file]).eval()
    query = suite.look_up(manifest(suite, "polynomial", "test")[0], "query")
    with torch.no_grad():
        errors = [(model(x) - y).square().mean().item() for x, y in zip(*query, strict=True)][:20]
    scored = results[(results.step == 0) & (results.metric == "mse")].sort_values("task").value
    assert scored.tolist() == pytest.approx(errors, rel=1e-5)


def test_batch_statistics_are_called_transductive_whatever_the_suite_forgot_to_say(tmp_path: Path) -> None:
    file = plugin(tmp_path, FIRST.format("nn.BatchNorm1d(8)"))
    assert set(trained(file, tmp_path / "runs", 3).norm) == {"transductive"}


def test_what_vmap_cannot_take_goes_task_by_task_and_the_record_says_so(tmp_path: Path) -> None:
    file = plugin(tmp_path, FIRST.format("Depends()"))
    trained(file, tmp_path / "runs", 5)
    record = the_record(tmp_path / "runs", 5)
    assert record.outcome == "finished"
    assert record.spec.by_task
    assert "the layer '1' (Depends)" in record.why_by_task
    log = (tmp_path / "runs" / "cells" / record.cell / "log.txt").read_text()
    assert "one task after the other: vmap cannot take the layer '1' (Depends)" in log
    with pytest.raises(BenchError, match="not compiled: vmap cannot take the layer '1'"):
        bench.run("polynomial", "maml", out=tmp_path / "other", preset="smoke", engine="compiled", plugins=[file])


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))", "layer '1' has spectral_norm"),
        ("nn.LazyLinear(8)", "'1.weight' has no shape yet"),
        ("Noisy()", "layer '1' (Noisy) draws from torch's global generator"),
        (
            "nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()",
            "the network changes '2.running_mean'",
        ),
        ("Averages()", "the network changes '1.mean'"),
        ("Beside(torch.randn(8))", "'1.scale' is drawn in module() that is neither"),
        ("Beside(torch.randn(()).item())", "'1.scale' is drawn in module() that is neither"),
        ("Beside(lambda scale=torch.randn(8): scale)", "something is drawn in module() that is neither"),
        ("Kept(torch.from_numpy(np.random.randn(8)))", "'1.scale' has other values whenever"),
        ("Kept(torch.tensor(random.random()))", "'1.scale' has other values whenever"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_layers_name_before_anything_trains(
    layer: str, message: str, tmp_path: Path
) -> None:
    file, out = plugin(tmp_path, FIRST.format(layer)), tmp_path / "runs"
    rest = ("--plugin", file, "--algos", "maml", "--preset", "smoke", "--out", out)
    for more in ((), ("--dry-run",)):
        done = command("run", "--suite", "polynomial", *rest, *more)
        assert done.exit_code == 2, done.output
        assert message in done.output
        assert "Traceback" not in done.output
    assert not (out / "cells").exists()
    with pytest.raises(AssertionError, match="its network"):
        bench.testing.check_suite(Catalogue((file,)).load("suite", "polynomial")())


@pytest.mark.parametrize(
    "layer",
    [
        "Beside(torch.arange(8) / 8)",
        "Kept(torch.from_numpy(np.random.default_rng(0).normal(size=8)))",
        "Kept(torch.randn(8), persistent=False)",
    ],
)
def test_what_is_the_same_or_the_cell_s_draw_whenever_it_is_built_is_taken_and_loaded(
    layer: str, tmp_path: Path
) -> None:
    file = plugin(tmp_path, FIRST.format(layer))
    results = trained(file, tmp_path / "runs", 2)
    model, learner = (call(results.cell[0], plugins=[file]) for call in (results.model, results.learner))
    x = torch.randn(5, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), learner.adapt((x, x), steps=0)(x))


def test_what_a_plug_in_draws_when_it_is_imported_is_found_by_its_certificate(tmp_path: Path) -> None:
    file = plugin(tmp_path, FIRST.format("Kept(AT_IMPORT)"))
    with pytest.raises(AssertionError, match="its network built in another process"):
        bench.testing.check_suite(Catalogue((file,)).load("suite", "polynomial")())


def test_a_learner_that_begins_otherwise_each_time_is_refused(tmp_path: Path) -> None:
    source = "from dataclasses import dataclass\nimport torch\nfrom algorithms.maml import MAML\n\n"
    source += "@dataclass(frozen=True, kw_only=True)\nclass Mine(MAML):\n    def init(self, task, generator):\n"
    source += "        return {n: p + torch.rand(()) for n, p in super().init(task, generator).items()}\n"
    (tmp_path / "mine.py").write_text(source)
    said = command(
        "run", "--suite", "sinusoid", "--algos", "mine", "--preset", "smoke", "--plugin", tmp_path / "mine.py"
    )
    assert said.exit_code == 2 and "begins with other values of 'layers.0.weight'" in said.output


def test_show_says_what_a_network_lacks(tmp_path: Path) -> None:
    file = plugin(tmp_path, FIRST.format("nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))"))
    done = command("show", "polynomial", "--plugin", file)
    assert "layer '1' has spectral_norm" in " ".join(done.output.split())


def test_inductive_wants_running_statistics(tmp_path: Path) -> None:
    file = plugin(tmp_path, FIRST.format("nn.BatchNorm1d(8, track_running_stats=False)"), norm="inductive")
    with pytest.raises(BenchError, match="the layer '1' keeps none"):
        trained(file, tmp_path / "runs", 3)


def test_learn2learn_is_refused_where_it_would_compute_something_else(tmp_path: Path) -> None:
    file = plugin(tmp_path, DRAWS)
    with pytest.raises(BenchError, match="learn2learn keeps buffers"):
        bench.run("polynomial", "maml", out=tmp_path / "runs", preset="smoke", engine="learn2learn", plugins=[file])


def test_a_policy_neither_drops_nor_normalises_by_the_batch() -> None:
    class Batched(Navigation2D):
        def module(self) -> nn.Module:
            net = super().module()
            net.extra = nn.BatchNorm1d(2)  # type: ignore[assignment]
            return net

    with pytest.raises(BenchError, match="'extra' normalises by the batch"):
        networks.refuse(Batched())


@pytest.mark.parametrize(
    "build", [(nn.Dropout, 0.5), (nn.MultiheadAttention, 4, 2, 0.1), (nn.LSTM, 2, 2, 2, True, False, 0.1)]
)
def test_a_learners_own_network_does_not_drop(build: tuple[Any, ...]) -> None:
    with pytest.raises(BenchError, match="Draw a mask in the learner's `noise`"):
        network.new_params(build, torch.Generator())


def test_an_ensemble_has_no_module_to_give(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"preset": "smoke", "threads": 1, "engine": "eager", "iterations": 3}
    results = bench.run("sinusoid", "ensemble", out=tmp_path / "runs", **asked)
    with pytest.raises(BenchError, match="does not predict by the network of sinusoid"):
        results.model(results.cell[0])
    assert json.loads((tmp_path / "runs" / "cells" / results.cell[0] / "record.json").read_text())["why_by_task"] == ""
