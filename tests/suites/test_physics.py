"""Batched MuJoCo is gymnasium's MuJoCo, breaks down quietly, and never hangs unnoticed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bench.core.errors import BenchError
from suites.parts import physics
from suites.parts.physics import Floats, Robot, Simulations

WHY = 'needs the extra "mujoco": pip install "meta-bench[mujoco]"'
mujoco = pytest.importorskip("mujoco", reason=WHY)
gymnasium = pytest.importorskip("gymnasium", reason=WHY)

CHEETAH, ANT = Robot("half_cheetah.xml"), Robot("ant.xml", contact=True)


def begun(robot: Robot, count: int, threads: int = 2) -> tuple[Simulations, physics.Reading]:
    simulations = Simulations(robot, threads)
    rng = np.random.default_rng(0)
    position, velocity = (home + 0.1 * rng.normal(size=(count, len(home))) for home in simulations.initial)
    if robot is ANT:
        position[:, 3:7] /= np.linalg.norm(position[:, 3:7], axis=1, keepdims=True)
    return simulations, simulations.reset(position, velocity)


def controls(simulations: Simulations, count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).uniform(-1.3, 1.3, (count, simulations.controls))


@pytest.mark.parametrize(("robot", "name"), [(CHEETAH, "HalfCheetah-v5"), (ANT, "Ant-v5")])
def test_a_step_is_gymnasiums(robot: Robot, name: str) -> None:
    simulations, before = begun(robot, 3)
    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    contacts = 0.0
    for k in range(15):
        action = controls(simulations, 3, k)
        after = simulations.step(action)
        for i in range(3):
            env.set_state(before.position[i], before.velocity[i])
            env.data.qacc_warmstart[:] = 0  # the solver starts cold, as ours does
            observation = env.step(np.clip(action[i], -1, 1))[0]
            seen = np.concatenate([after.position[i], after.velocity[i]])[1 if robot is CHEETAH else 2 :]
            assert observation[: len(seen)] == pytest.approx(seen, rel=1e-9, abs=1e-9)
            data = env.data  # gymnasium's readings are as of the last physics step's start: brought up to date
            data.qacc_warmstart[:] = 0
            mujoco.mj_forward(env.model, data)
            mujoco.mj_rnePostConstraint(env.model, data)
            mujoco.mj_subtreeVel(env.model, data)
            torso = env.model.body("torso").id
            assert after.centre[i] == pytest.approx(data.subtree_com[torso], abs=1e-9)
            assert after.centre_velocity[i] == pytest.approx(data.subtree_linvel[torso], abs=1e-9)
            assert after.orientation[i] == pytest.approx(data.xmat[torso], abs=1e-9)
            if robot.contact:
                assert after.contact[i] == pytest.approx(data.cfrc_ext.ravel(), rel=1e-9, abs=1e-9)
                contacts = max(contacts, np.abs(after.contact).max())
        before = after
    assert contacts > 1 or not robot.contact  # it did touch the ground


def test_the_number_of_threads_changes_no_bit() -> None:
    seen = []
    for threads in (1, 3):
        simulations, _ = begun(ANT, 7, threads)
        for k in range(10):
            reading = simulations.step(controls(simulations, 7, k))
        seen.append(np.concatenate(reading, 1))
    assert np.array_equal(*seen)


@pytest.mark.parametrize("robot", [CHEETAH, ANT])
def test_a_simulation_that_breaks_down_reads_nan_and_leaves_the_others_alone(robot: Robot) -> None:
    simulations, _ = begun(robot, 4)
    alone, _ = begun(robot, 4)
    simulations.state[1, 2] = np.nan
    simulations.state[2, -1] = 1e9
    for k in range(3):
        action = controls(simulations, 4, k)
        reading, other = simulations.step(action), alone.step(action)
    for part, whole in zip(reading, other, strict=True):
        assert np.isnan(part[1:3]).all()
        assert np.array_equal(part[[0, 3]], whole[[0, 3]])


def test_a_control_that_is_no_number_breaks_only_its_own_simulation_down() -> None:
    simulations, _ = begun(CHEETAH, 2)
    action = controls(simulations, 2, 0)
    action[1, 0] = np.nan
    reading = simulations.step(action)
    assert np.isfinite(reading.position[0]).all()
    assert np.isnan(reading.position[1]).all()


def test_what_is_not_active_stays_as_it_is() -> None:
    simulations, before = begun(CHEETAH, 3)
    after = simulations.step(controls(simulations, 3, 0), np.array([True, False, True]))
    assert np.array_equal(after.position[1], before.position[1])
    assert not np.array_equal(after.position[0], before.position[0])


def test_threads_that_hang_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    simulations, _ = begun(CHEETAH, 3)
    simulations.step(controls(simulations, 3, 0))
    monkeypatch.setenv("BENCH_WATCHDOG", "0.05")
    monkeypatch.setattr(simulations.engine, "advance", lambda *_: time.sleep(0.5))
    with pytest.raises(BenchError, match=r"2 threads that simulate 3 x half_cheetah hang: step 2 took more than 0\.05"):
        simulations.step(controls(simulations, 3, 1))


STOPPED = """
import os, signal, time
import numpy as np
from suites.parts.physics import Robot, Simulations

simulations = Simulations(Robot("half_cheetah.xml"), 1)
simulations.reset(*(home[None] for home in simulations.initial))
advance = simulations.engine.advance

def stopped(*arguments):
    os.kill(os.getpid(), signal.SIGSTOP)  # until the test lets it go on
    time.sleep(0.1)
    return advance(*arguments)

simulations.engine.advance = stopped
print(np.isfinite(simulations.step(np.zeros((1, 6))).position).all())
"""


@pytest.mark.slow
def test_a_process_that_was_stopped_meanwhile_does_not_hang() -> None:
    environment = {**os.environ, "BENCH_WATCHDOG": "1"}
    running = subprocess.Popen([sys.executable, "-c", STOPPED], env=environment, stdout=subprocess.PIPE, text=True)
    os.waitpid(running.pid, os.WUNTRACED)
    time.sleep(1.5)
    running.send_signal(signal.SIGCONT)
    assert running.communicate()[0] == "True\n"


HANGING = """
import numpy as np
from suites.parts.physics import Robot, Simulations

simulations = Simulations(Robot("half_cheetah.xml", frame_skip=1_000_000), 1)
simulations.reset(*(home[None] for home in simulations.initial))
simulations.step(np.zeros((1, 6)))
"""


@pytest.mark.slow
def test_a_program_ends_whose_threads_still_hang() -> None:
    environment = {**os.environ, "BENCH_WATCHDOG": "0.1"}
    ended = subprocess.run([sys.executable, "-c", HANGING], env=environment, capture_output=True, text=True, timeout=60)
    assert "hang: step 1 took more than 0.1 s" in ended.stderr
    assert ended.returncode == BenchError.exit_code


def test_an_error_in_the_threads_is_raised() -> None:
    simulations, _ = begun(CHEETAH, 2)
    with pytest.raises(ValueError, match="size should be 60"):
        simulations.step(np.zeros((2, 3)))
