"""Environment steps of the half-cheetah per second, against the bare simulators, in alternation within one run.

All are stepped in closed loop through the same simulated moments.
"""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import costing
from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.plan import suite_of

mujoco = pytest.importorskip("mujoco")
gymnasium = pytest.importorskip("gymnasium")

ROUNDS, SIMULATIONS, STEPS = 5, 200, 25
XML = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (STEPS, SIMULATIONS, 6))


def suites() -> None:
    """The suite's environment: observations, rewards and ends as well."""
    made = suite_of(Catalogue(), Named("halfcheetah_vel", {}))
    environment = made.environment()
    environment.reset(made.sample(20, "train", seeds.generator(0)), SIMULATIONS // 20, seeds.generator(1))
    for action in torch.from_numpy(ACTIONS).view(STEPS, 20, SIMULATIONS // 20, 6):
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


def bare(half: int) -> None:
    model = mujoco.MjModel.from_xml_path(str(XML))
    data = mujoco.MjData(model)
    for i in range(half, SIMULATIONS, 2):
        mujoco.mj_resetData(model, data)
        for action in ACTIONS[:, i]:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, nstep=5)


def gym(half: int) -> None:
    env = gymnasium.make("HalfCheetah-v5").unwrapped
    for i in range(half, SIMULATIONS, 2):
        env.reset(seed=i)
        for action in ACTIONS[:, i]:
            env.step(action)


@pytest.fixture(scope="module")
def workers() -> Any:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(bare, (SIMULATIONS, SIMULATIONS))  # imports
        pool.map(gym, (SIMULATIONS, SIMULATIONS))
        yield pool


def test_half_cheetah_steps_per_second(benchmark: Any, workers: Any) -> None:
    torch.set_num_threads(2)
    ways = {
        "suite": suites,
        "mujoco.rollout": rollout,
        "mj_step in two processes": lambda: workers.map(bare, (0, 1), chunksize=1),
        "gymnasium in two processes": lambda: workers.map(gym, (0, 1), chunksize=1),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}

    def round_() -> None:
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            rates[name].append(SIMULATIONS * STEPS / (time.perf_counter() - began))

    benchmark.pedantic(round_, rounds=ROUNDS, warmup_rounds=1)
    medians = {name: float(np.median(found[1:])) for name, found in rates.items()}
    fastest = max((name for name in ways if name != "suite"), key=medians.__getitem__)
    ratios = [ours / theirs for ours, theirs in zip(rates["suite"][1:], rates[fastest][1:], strict=True)]
    median, low, high = costing.median_interval(ratios)
    benchmark.extra_info |= medians | {
        "work": f"half-cheetah, {SIMULATIONS} simulations, environment steps", "against": fastest, "goal": "≥ 0.8x",
        "median": median, "low": low, "high": high, "unit": "x",
    }  # fmt: skip
