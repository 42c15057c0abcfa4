"""What the MuJoCo suites share: robots that run, with the observations and rewards of Finn et al. 2017's code.

The physics are gymnasium's models by the MuJoCo that is installed; the paper's were rllab's by an early version, so
that returns compare with the published ones in kind, not in digits. Taken from the paper's code: every episode starts
near the model's home (positions 0.01 N(0, 1) and velocities 0.1 N(0, 1) off), takes 200 steps, and is observed as the
code does (the absolute position along the track included); velocities are those of the whole robot's centre of mass,
read after the step; actions are cut to ±1 before they cost anything.
Letters: T tasks, B trajectories, N = T · B, O observation, A action.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from bench.core.types import Budget, Setting, Split
from suites.parts import film
from suites.parts.control import Reinforcement
from suites.parts.hidden import Hidden
from suites.parts.physics import Floats, Reading, Robot, Simulations, installed
from suites.parts.policies import Gaussian, Policy

FINN = "Finn et al. 2017, section 5.3 and code"
PUBLISHED = 40  # test goals of the published evaluation


class Goals(NamedTuple):
    """What is asked of the robots."""

    goal: Tensor  # [T, 1]: m/s, or the direction, −1 or 1


@dataclass(frozen=True, kw_only=True)
class Locomotive(Reinforcement):
    """A robot that is to run at a speed or in a direction; Gaussian policy of two layers of 100 ReLU."""

    simulator: Annotated[str, Field(description="environment and packages; only what is installed")] = ""
    reward: Annotated[Literal["finn2017"], Field(description="version of rewards and observations")] = "finn2017"
    frame_skip: Annotated[int, Field(ge=1, description="physics steps of one action; 5 is gymnasium's")] = 5
    hidden: Hidden = (100, 100)
    view: Annotated[Literal["plain", "oracle"], Field(description="oracle: the goal is observed too")] = "plain"

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(2, 2, 2),
        "quick": Budget(100, PUBLISHED, 10),
        "standard": Budget(100, PUBLISHED, PUBLISHED),
        "paper": Budget(800, PUBLISHED, PUBLISHED),
    }
    validate_every: ClassVar[int] = 25
    robot: ClassVar[Robot]
    environment_id: ClassVar[str]
    observations: ClassVar[int]
    actions: ClassVar[int]
    published_seed: ClassVar[int] = 1  # of NumPy, for the goals of the published evaluation
    later: ClassVar[float] = 0.5  # the rate of the second and further updates, in units of the first's

    def __post_init__(self) -> None:
        """Fills in the simulator's versions.

        Raises:
            MissingExtraError: MuJoCo or gymnasium is missing.
            ValueError: other versions are asked for than are installed.
        """
        found = f"{self.environment_id} {installed('mujoco', 'gymnasium', 'mujoco')}"
        if self.simulator not in ("", found):
            raise ValueError(f"it ran with {self.simulator}; installed are {found}")
        object.__setattr__(self, "simulator", found)

    def aim(self, draws: Tensor) -> Tensor:
        """Goals [T, 1] from uniform draws in [0, 1), [T, 1]."""
        raise NotImplementedError

    def gain(self, goal: Floats, speed: Floats) -> Floats:
        """The part of the reward that the goal decides, [N], of the speed along the track, [N], m/s."""
        raise NotImplementedError

    def observe(self, reading: Reading) -> Floats:
        """[N, O], without a goal."""
        raise NotImplementedError

    def cost(self, action: Floats, reading: Reading) -> Floats:
        """The part of the reward that actions and contacts take off, [N]."""
        raise NotImplementedError

    def fallen(self, reading: Reading) -> np.ndarray:
        """Whether the episode ends, [N]."""
        raise NotImplementedError

    @property
    def caveat(self) -> str:
        """What separates the returns from the published ones."""
        return f"{self.simulator}, {self.frame_skip} physics steps an action; the published runs used rllab's models"

    @property
    def setting(self) -> str:
        """The length of an episode."""
        return f"H={Track.horizon}"

    @property
    def report_steps(self) -> tuple[int, ...]:
        """Those of the published evaluation."""
        return (0, 1, 2, 3)

    @property
    def test_trajectories(self) -> int:
        """4,000 time-steps, if none ends early."""
        return 20

    @property
    def protocol(self) -> dict[str, Setting]:
        """The paper's."""
        return {
            "inner_lr": Setting(0.1, FINN),
            "steps": Setting(1, FINN),
            "outer_lr": Setting(0.001, "of outer=adam; unused by TRPO"),
            "meta_batch": Setting(40, FINN),
        }

    def oracle_view(self) -> Self:
        """The same tasks with the goal in the observation; as many environment steps as pretraining."""
        return replace(self.pretraining(), view="oracle")

    def pace(self, step: int) -> float:
        """The rate is halved after the first update."""
        return 1.0 if step == 0 else self.later

    def module(self) -> Policy:
        """The paper's policy, unless other layers are asked for."""
        return Gaussian(self.observations + (self.view == "oracle"), self.hidden, self.actions)

    def sample(self, count: int, split: Split, generator: Generator) -> Goals:
        """`count` tasks; the first of the test's are the goals of the published evaluation."""
        draws = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        if split == "test":
            known = np.random.RandomState(self.published_seed).uniform(size=(PUBLISHED, 1))  # the paper's
            draws[:PUBLISHED] = torch.from_numpy(known)[:count]
        return Goals(self.aim(draws).float())

    def film(self, episodes: list[tuple[str, Tensor]], path: Path) -> None:
        """Draws first trajectories side by side: caption -> observations [B, H, O] of one task, padded or not.

        The position along the track is not observed by every robot: the camera follows.
        """
        robot = replace(self.robot, frame_skip=self.frame_skip)
        engine = Simulations(robot, 1).engine
        panels = [list(film.frames(engine.model, self.positions(seen[0].double().numpy()))) for _, seen in episodes]
        film.encode(path, film.side_by_side(panels, [caption for caption, _ in episodes]), 1 / engine.lasts)

    def positions(self, observation: Floats) -> Floats:
        """The model's positions [H, Q] that were observed, [H, O]."""
        raise NotImplementedError

    def environment(self) -> "Track":
        """The robots, at most as many threads as torch may use."""
        return Track(self)


class Track:
    """Robots of all tasks and trajectories, an Environment."""

    horizon = 200

    def __init__(self, suite: Locomotive) -> None:
        """No robot yet."""
        self.suite = suite
        robot = replace(suite.robot, frame_skip=suite.frame_skip)
        self.simulations = Simulations(robot, torch.get_num_threads())

    def reset(self, tasks: Goals, trajectories: int, generator: Generator) -> Tensor:
        """First observations, [T, B, O]."""
        self.shape = (len(tasks.goal), trajectories)
        self.goal = tasks.goal.double().expand(self.shape).reshape(-1).numpy()
        position, velocity = self.simulations.initial
        count = len(self.goal)

        def near(home: Floats, deviation: float) -> Floats:
            noise = torch.randn(count, len(home), generator=generator, dtype=torch.float64)
            return np.asarray(home + deviation * noise.numpy())

        reading = self.simulations.reset(near(position, 0.01), near(velocity, 0.1))
        self.running = np.ones(count, dtype=bool)
        return self._observed(reading)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [T, B, O], reward [T, B], done [T, B]; NaN where a simulation broke down."""
        control = action.detach().double().reshape(len(self.goal), -1).clamp(-1, 1).numpy()
        reading = self.simulations.step(control, self.running)
        speed = reading.centre_velocity[:, 0]
        reward = self.suite.gain(self.goal, speed) - self.suite.cost(control, reading)
        done = self.suite.fallen(reading) | ~np.isfinite(reward)
        self.running = self.running & ~done
        return self._observed(reading), self._shaped(reward), torch.from_numpy(done).view(self.shape)

    def _observed(self, reading: Reading) -> Tensor:
        seen = self.suite.observe(reading)
        if self.suite.view == "oracle":
            seen = np.concatenate([seen, self.goal[:, None]], 1)
        return self._shaped(seen)

    def _shaped(self, values: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float().view(*self.shape, *values.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Cheetah(Locomotive):
    """The planar half-cheetah, which nothing but time stops."""

    robot: ClassVar[Robot] = Robot("half_cheetah.xml")
    environment_id: ClassVar[str] = "HalfCheetah-v5"
    observations: ClassVar[int] = 20
    actions: ClassVar[int] = 6

    def observe(self, reading: Reading) -> Floats:
        """Positions without the one along the track, velocities, centre of mass."""
        return np.concatenate([reading.position[:, 1:], reading.velocity, reading.centre], 1)

    def positions(self, observation: Floats) -> Floats:
        """The height and angles; the place along the track from the centre of mass."""
        return np.concatenate([observation[:, 17:18], observation[:, :8]], 1)

    def cost(self, action: Floats, reading: Reading) -> Floats:
        """0.05 ‖a‖²."""
        return np.asarray(0.05 * np.square(action).sum(1))

    def fallen(self, reading: Reading) -> np.ndarray:
        """Never."""
        return np.zeros(len(reading.position), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class Quadruped(Locomotive):
    """The ant, which is over when its torso is lower than 0.2 m or higher than 1 m."""

    robot: ClassVar[Robot] = Robot("ant.xml", contact=True)
    environment_id: ClassVar[str] = "Ant-v5"
    observations: ClassVar[int] = 125
    actions: ClassVar[int] = 8

    def observe(self, reading: Reading) -> Floats:
        """Positions, velocities, contact forces cut to ±1, the torso's rotation matrix, centre of mass."""
        forces = np.clip(reading.contact, -1, 1)
        return np.concatenate([reading.position, reading.velocity, forces, reading.orientation, reading.centre], 1)

    def positions(self, observation: Floats) -> Floats:
        """All were observed."""
        return observation[:, :15]

    def cost(self, action: Floats, reading: Reading) -> Floats:
        """0.005 ‖a‖² + 0.0005 ‖contact forces, cut to ±1‖² − 0.05 for being alive."""
        forces = np.clip(reading.contact, -1, 1)
        return np.asarray(0.005 * np.square(action).sum(1) + 0.0005 * np.square(forces).sum(1) - 0.05)

    def fallen(self, reading: Reading) -> np.ndarray:
        """Whether the torso's height has left [0.2, 1]."""
        height = reading.position[:, 2]
        return np.asarray(~((height >= 0.2) & (height <= 1.0)))
