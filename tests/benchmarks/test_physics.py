"""Environment steps of the half-cheetah per second, against the bare simulators, in alternation within one run.

All are stepped in closed loop through the same simulated moments.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.planning.plan import suite_of

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")
from tests.benchmarks.simulators import ACTIONS, SIMULATIONS, STEPS, XML  # noqa: E402
from tests.benchmarks.test_speed import report  # noqa: E402

ROUNDS = 7
TASKS = 20


def suite(made: Any) -> None:
    """The suite's environment: observations, rewards and ends as well."""
    environment = made.environment()
    environment.reset(made.sample(TASKS, "train", seeds.generator(0)), SIMULATIONS // TASKS, seeds.generator(1))
    for action in torch.from_numpy(ACTIONS).view(STEPS, TASKS, SIMULATIONS // TASKS, 6):
        environment.step(action)


def rollout() -> None:
    """mujoco.rollout in closed loop with two threads: physics alone."""
    from mujoco.rollout import Rollout

    model = mujoco.MjModel.from_xml_path(str(XML))
    data = [mujoco.MjData(model) for _ in range(2)]
    state = np.zeros((SIMULATIONS, mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
    with Rollout(nthread=2) as pool:
        for action in ACTIONS:
            state = pool.rollout(model, data, state, np.repeat(action[:, None], 5, 1))[0][:, -1]


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Any]]:
    program = [sys.executable, str(Path(__file__).with_name("simulators.py"))]
    started = [
        subprocess.Popen([*program, part], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for part in "01"
    ]
    yield started
    for process in started:
        process.communicate()


def both(processes: list[Any], name: str) -> None:
    """Both halves of the simulations, at the same time."""
    for process in processes:
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout.readline().strip() == name


def test_half_cheetah_steps_per_second(benchmark: Any, processes: list[Any]) -> None:
    torch.set_num_threads(2)
    made = suite_of(Catalogue(), Named("halfcheetah_vel", {}))
    ways = {
        "the suite": lambda: suite(made),
        "mujoco.rollout, two threads": rollout,
        "mj_step, two processes": lambda: both(processes, "mj_step"),
        "gymnasium, two processes": lambda: both(processes, "gymnasium"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}

    def round_() -> None:
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            rates[name].append(SIMULATIONS * STEPS / (time.perf_counter() - began))

    benchmark.pedantic(round_, rounds=ROUNDS, warmup_rounds=1)
    medians = {name: float(np.median(found[1:])) for name, found in rates.items()}
    ours, *others = medians
    fastest = max(others, key=medians.__getitem__)
    ratios = [a / b for a, b in zip(rates[ours][1:], rates[fastest][1:], strict=True)]
    work = f"half-cheetah, {SIMULATIONS} simulations, environment steps per second"
    report(benchmark, work, fastest, "≥ 0.8x", ratios)
    benchmark.extra_info |= medians
