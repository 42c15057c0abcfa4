"""MuJoCo in batches: many simulations of one robot, stepped together by threads that hold no Python lock.

The robots are gymnasium's. Nothing here knows of tasks or rewards. Letters: N simulations, Q positions, V velocities,
U controls, C bodies.
"""

import atexit
import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import BenchError, MissingExtraError

Floats = NDArray[np.float64]
WATCHDOG = 120.0  # seconds that one step of all simulations may take, unless BENCH_WATCHDOG says otherwise
SPELLS = 100  # of waiting, which make them up


class Reading(NamedTuple):
    """What is known of the simulations at one moment, SI units; NaN where a simulation broke down."""

    position: Floats  # [N, Q]
    velocity: Floats  # [N, V]
    centre: Floats  # [N, 3], centre of mass of the whole robot
    centre_velocity: Floats  # [N, 3]
    orientation: Floats  # [N, 9], the torso's rotation matrix
    contact: Floats  # [N, 6 C], external torques and forces on the bodies; empty where they are not asked for


@dataclass(frozen=True)
class Robot:
    """A model of gymnasium's and how it is driven."""

    file: str  # in gymnasium's folder of models
    contact: bool = False  # whether contact forces are read; this takes a full solution of the dynamics more
    frame_skip: int = 5  # physics steps that one control lasts

    @property
    def name(self) -> str:
        """For messages."""
        return self.file.removesuffix(".xml")


def installed(extra: str, *packages: str) -> str:
    """The versions of the packages, such as "mujoco-4.0.0".

    Raises:
        MissingExtraError: one is missing; it belongs to this extra.
    """
    try:
        return " ".join(f"{package}-{version(package)}" for package in packages)
    except PackageNotFoundError as error:
        raise MissingExtraError(str(error.name), extra) from None


class Simulations:
    """N simulations of a robot. Each step starts the contact solver cold, so that a state is positions and velocities.

    A simulation that breaks down (MuJoCo's warnings of bad positions, velocities or accelerations, or a reading that is
    not finite) reads NaN from then on and is not stepped any more.
    """

    def __init__(self, robot: Robot, threads: int) -> None:
        """As many C++ threads as given; the results do not depend on their number."""
        self.robot, self.threads = robot, threads
        self.engine = _engine(robot, threads)
        self.taken = 0  # steps since the last reset, for messages

    @property
    def initial(self) -> tuple[Floats, Floats]:
        """Positions and velocities in which the model is at home, [Q] and [V]."""
        return self.engine.initial

    @property
    def controls(self) -> int:
        """U; each goes from -1 to 1."""
        return int(self.engine.model.nu)

    def reset(self, position: Floats, velocity: Floats) -> Reading:
        """N simulations at these positions [N, Q] and velocities [N, V]; what they read."""
        self.taken = 0
        self.state = np.concatenate([np.zeros((len(position), 1)), position, velocity], 1)
        self.control = np.zeros((len(position), self.controls))
        self.alive = np.ones(len(position), dtype=bool)
        return self._watched(self._read)

    def step(self, control: Floats, active: NDArray[np.bool_] | None = None) -> Reading:
        """What they read after `frame_skip` physics steps under the controls [N, U], cut to what the motors take.

        Args:
            control: [N, U].
            active: [N], which to step; the others stay as they are. All by default.

        Raises:
            BenchError: the threads did not come back in time.
        """
        self.taken += 1
        self.control = np.clip(control, -1.0, 1.0)  # NaN stays, and breaks the simulation down
        chosen = self.alive & np.isfinite(control).all(1)
        self.alive = chosen if active is None else np.where(active, chosen, self.alive)
        which = np.flatnonzero(self.alive if active is None else self.alive & active)
        return self._watched(lambda: self._advance(which))

    def _advance(self, which: NDArray[np.intp]) -> Reading:
        before = np.ascontiguousarray(self.state[which])
        before[:, 0] = 0.0
        after = self.engine.advance(before, self.control[which])
        # MuJoCo puts a simulation that broke down back to its start, and its clock with it.
        whole = (after[:, 0] > self.engine.lasts * (1 - 1e-9)) & np.isfinite(after).all(1)
        self.state[which] = after
        self.alive[which] = whole
        return self._read()

    def _read(self) -> Reading:
        home = np.concatenate([[0.0], *self.initial])  # that can be read, in place of what broke down
        held = np.where(self.alive[:, None], self.state, home)
        positions = len(self.initial[0])
        reading = Reading(held[:, 1 : 1 + positions], held[:, 1 + positions :], *self.engine.read(held, self.control))
        self.alive &= np.isfinite(np.concatenate(reading, 1)).all(1)
        if self.alive.all():
            return reading
        return Reading(*(np.where(self.alive[:, None], part, np.nan) for part in reading))

    def _watched(self, work: Callable[[], Reading]) -> Reading:
        done: Future[Reading] = Future()
        self.engine.calls.put((done, work))
        patience = float(os.environ.get("BENCH_WATCHDOG", WATCHDOG))
        for _ in range(SPELLS):  # each is waited for while this process runs: one that was stopped meanwhile is no hang
            with contextlib.suppress(TimeoutError):
                return done.result(patience / SPELLS)
        self.engine.calls = _worker()
        atexit.register(_leave, done)
        raise BenchError(
            f"the {self.threads} threads that simulate {len(self.state)} x {self.robot.name} hang: step {self.taken} "
            f"took more than {patience:g} s. BENCH_WATCHDOG=SECONDS gives them longer; what was checkpointed is kept."
        )


Calls = SimpleQueue[tuple[Future[Reading], Callable[[], Reading]]]


def _worker() -> Calls:
    """Where to put what a thread is to do. One can wait for it with patience, and it keeps no program from ending."""
    calls: Calls = SimpleQueue()

    def serve() -> None:
        while True:
            done, work = calls.get()
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

    threading.Thread(target=serve, daemon=True, name="simulations").start()
    return calls


def _leave(done: Future[Reading]) -> None:
    """Ends a program whose simulations still hang: their thread would crash in what Python takes down around it."""
    if not done.done():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(BenchError.exit_code)


def parallel(work: Callable[[int, int, int], None], count: int, threads: int) -> None:
    """Runs work(worker, start, end) on the parts of `count` items, each in a thread of its own."""
    cuts = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, i, cuts[i], cuts[i + 1]) for i in range(threads)]:
            done.result()


class _Engine:
    """A compiled robot and its threads; holds nothing of any simulation."""

    def __init__(self, robot: Robot, threads: int) -> None:
        installed("mujoco", "mujoco", "gymnasium")
        import gymnasium
        import mujoco
        from mujoco.rollout import Rollout

        self.mujoco, self.robot, self.threads = mujoco, robot, threads
        mujoco.set_mju_user_warning(lambda _: None)  # else they go to a file in the working directory
        path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / robot.file
        spec = mujoco.MjSpec.from_file(str(path))
        for kind in ("SUBTREECOM", "SUBTREELINVEL", "FRAMEXAXIS", "FRAMEYAXIS", "FRAMEZAXIS"):
            spec.add_sensor(
                name=kind.lower(), type=getattr(mujoco.mjtSensor, f"mjSENS_{kind}"), objname="torso",
                objtype=mujoco.mjtObj.mjOBJ_XBODY if kind.startswith("FRAME") else mujoco.mjtObj.mjOBJ_BODY,
            )  # fmt: skip
        off = mujoco.mjtDisableBit
        with warnings.catch_warnings():  # of the models' age
            warnings.simplefilter("ignore", UserWarning)
            self.model, self.still = spec.compile(), spec.compile()
        self.model.opt.disableflags |= off.mjDSBL_SENSOR
        # A step of this one solves no contacts: it is taken for its sensors, at a fraction of the price.
        self.still.opt.disableflags |= (
            off.mjDSBL_CONSTRAINT | off.mjDSBL_CONTACT | off.mjDSBL_ACTUATION | off.mjDSBL_GRAVITY
            | off.mjDSBL_SPRING | off.mjDSBL_DAMPER | off.mjDSBL_EULERDAMP
        )  # fmt: skip
        self.still.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
        self.full = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self.data = [mujoco.MjData(self.model) for _ in range(threads)]
        home = [n for n in range(self.model.nnumeric) if self.model.numeric(n).name == "init_qpos"]
        position = self.model.numeric(home[0]).data if home else self.model.qpos0
        self.initial = (np.array(position, dtype=np.float64), np.zeros(self.model.nv))
        self.lasts = robot.frame_skip * self.model.opt.timestep
        self.pool = Rollout(nthread=threads)
        self.calls = _worker()

    def advance(self, state: Floats, control: Floats) -> Floats:
        """[N, 1 + Q + V] after a control."""
        steps = self.robot.frame_skip
        held = np.ascontiguousarray(np.broadcast_to(control[:, None], (len(control), steps, control.shape[1])))
        return self._roll(self.model, state, held)[0]

    def read(self, state: Floats, control: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Centre of mass, its velocity, the torso's rotation matrix and, if the robot is to, the contact forces."""
        sensors = self._roll(self.still, state, np.zeros((len(state), 1, control.shape[1])))[1]
        columns = sensors[:, 6:].reshape(-1, 3, 3).swapaxes(1, 2).reshape(-1, 9)
        contact = self._contact(state, control) if self.robot.contact else np.empty((len(state), 0))
        return sensors[:, :3], sensors[:, 3:6], columns, contact

    def _roll(self, model: Any, state: Floats, control: Floats) -> tuple[Floats, Floats]:
        """The last state and sensor readings of rollouts under controls [N, H, U]."""
        count, steps = control.shape[:2]
        states, sensors = np.empty((count, steps, state.shape[1])), np.empty((count, steps, model.nsensordata))
        if count:
            chunk = max(1, count // (16 * self.threads))
            self.pool.rollout(
                [model] * count, self.data, state, control, skip_checks=True, nstep=steps, state=states,
                sensordata=sensors, chunk_size=chunk,
            )  # fmt: skip
        return states[:, -1], sensors[:, -1]

    def _contact(self, state: Floats, control: Floats) -> Floats:
        found = np.zeros((len(state), 6 * self.model.nbody))

        def work(worker: int, start: int, end: int) -> None:
            data = self.data[worker]
            for i in range(start, end):
                self.mujoco.mj_setState(self.model, data, state[i], self.full)
                data.ctrl[:] = control[i]
                data.qacc_warmstart[:] = 0
                self.mujoco.mj_forward(self.model, data)
                self.mujoco.mj_rnePostConstraint(self.model, data)
                found[i] = data.cfrc_ext.ravel()

        parallel(work, len(state), self.threads)
        return found


@cache
def _engine(robot: Robot, threads: int) -> _Engine:
    return _Engine(robot, threads)
