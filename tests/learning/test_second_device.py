"""What a GPU would be given lies on it: no GPU is needed to see that (`tests/probes/second_device.py`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.discovery import Catalogue
from tests.conftest import ROOT

PROBE = ROOT / "tests" / "probes" / "second_device.py"
ASTRAY = """
from dataclasses import dataclass

import torch

from algorithms.maml import MAML

@dataclass(frozen=True, kw_only=True)
class Astray(MAML):
    "MAML with a tensor on the CPU."
    def step(self, meta, state, task, data, k):
        after = super().step(meta, state, task, data, k)
        return {name: value * torch.ones(value.shape[-1]) for name, value in after.items()}
"""


@pytest.mark.slow
def test_a_tensor_on_another_device_is_found_and_no_method_has_one(tmp_path: Path) -> None:
    (tmp_path / "astray.py").write_text(ASTRAY)
    lines = subprocess.check_output(
        [sys.executable, PROBE, "sinusoid,glyphs,bandit,mdp", tmp_path / "astray.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    ).splitlines()
    found = {(name, suite): said for name, suite, said in (line.split(" ", 2) for line in lines)}
    assert "two devices, gpu:0 and cpu" in found.pop(("astray", "sinusoid"))
    assert set(found.values()) == {"ok"}, found
    of_drawn_tasks = {name for name, method in Catalogue().classes("algorithm").items() if not method.follows}
    assert {name for name, _ in found} == of_drawn_tasks
    assert {suite for name, suite in found if name == "maml"} == {"sinusoid", "glyphs", "bandit", "mdp"}
