"""What the Meta-World suites share: one robot arm, its tasks by environment and goal, success and return.

Yu et al. 2019 (arXiv:1910.10897), version 3 of the package. Success is reached when the environment says so at any step
of an episode. Every task takes a fixed quota of complete episodes: counting the first episodes to finish would favour
successes. The goal is not observed. Letters: T tasks, B trajectories.
"""

import pickle
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from bench.core.types import Budget, Metric, Setting, Split
from suites.parts.control import Reinforcement, Trajectories
from suites.parts.hidden import Hidden
from suites.parts.physics import installed
from suites.parts.policies import Gaussian, Policy

YU = "Yu et al. 2019"
OURS = "a choice of this suite"
HORIZON, OBSERVATIONS, ACTIONS = 500, 39, 4
HELD_BACK = 10  # of each training environment's goals, for validation
SEED = 42  # of the package's goals
BROKEN = ("mjWARN_BADQPOS", "mjWARN_BADQVEL", "mjWARN_BADQACC")


class Scenes(NamedTuple):
    """Which environment, and where its things are."""

    environment: Tensor  # [T, 1], its place in the suite's list of training environments, then test environments
    layout: Tensor  # [T, V], float64, the package's random vector, padded with 0


@dataclass(frozen=True, kw_only=True)
class ArmTasks(Reinforcement):
    """Manipulation with a simulated Sawyer arm; Gaussian policy of two layers of 100 tanh."""

    simulator: Annotated[str, Field(description="packages; only what is installed")] = ""
    reward: Annotated[Literal["v2"], Field(description="version of the reward functions, the package's default")] = "v2"
    hidden: Hidden = (100, 100)
    view: Annotated[Literal["plain", "oracle"], Field(description="oracle: the goal is observed too")] = "plain"
    trajectories: Annotated[int, Field(ge=1, description="of one task before and after each inner step")] = 10

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("success", "", "higher", low=0, high=1),
        Metric("return", "", "higher"),
        Metric("time-steps", "", "lower", low=0),
    )
    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(1, 2, 2),
        "quick": Budget(50, 50, 10),
        "standard": Budget(150, 50, 50),
        "paper": Budget(1_500, 50, 50),
    }
    validate_every: ClassVar[int] = 25

    def __post_init__(self) -> None:
        """Fills in the packages' versions.

        Raises:
            MissingExtraError: Meta-World is missing.
            ValueError: other versions are asked for than are installed.
        """
        found = installed("metaworld", "metaworld", "mujoco")
        if self.simulator not in ("", found):
            raise ValueError(f"it ran with {self.simulator}; installed are {found}")
        object.__setattr__(self, "simulator", found)

    def benchmark(self) -> Any:
        """The package's set of environments and goals."""
        raise NotImplementedError

    @property
    def report_steps(self) -> tuple[int, ...]:
        """Before and after one update."""
        return (0, 1)

    @property
    def floor(self) -> float:
        """No success."""
        return 0.0

    @property
    def caveat(self) -> str:
        """What the headline is."""
        return f"success at any step of an episode of {HORIZON}; {self.simulator}"

    @property
    def protocol(self) -> dict[str, Setting]:
        """One inner step of TRPO-MAML."""
        return {
            "inner_lr": Setting(0.1, OURS),
            "steps": Setting(1, YU),
            "outer_lr": Setting(0.001, f"of outer=adam; {OURS}"),
            "meta_batch": Setting(20, OURS),
        }

    def oracle_view(self) -> Self:
        """The same tasks with the goal in the observation; as many environment steps as pretraining."""
        return replace(self.pretraining(), view="oracle")

    def module(self) -> Policy:
        """From 39 readings, of which the last three are the goal or 0, to 4 actions."""
        return Gaussian(OBSERVATIONS, self.hidden, ACTIONS, "tanh")

    def sample(self, count: int, split: Split, generator: Generator) -> Scenes:
        """`count` tasks: training goals at random; frozen ones in turn, environment by environment."""
        known = _scenes(self)
        environments = sorted({name for name, _, part in known if part == split})
        order = list(dict.fromkeys(name for name, _, _ in known))
        goals = {name: [vector for n, vector, part in known if n == name and part == split] for name in environments}
        picked = torch.arange(count)
        if split == "train":
            picked = torch.randint(10**6, (count,), generator=generator)
        names = [environments[int(i) % len(environments)] for i in picked]
        turns = [int(i) // len(environments) for i in picked]
        vectors = [goals[name][turn % len(goals[name])] for name, turn in zip(names, turns, strict=True)]
        width = max(len(vector) for _, vector, _ in known)
        layout = torch.zeros(count, width, dtype=torch.float64)
        for row, vector in zip(layout, vectors, strict=True):
            row[: len(vector)] = torch.from_numpy(vector)
        return Scenes(torch.tensor([[order.index(name)] for name in names]), layout)

    def environment(self) -> "Bench":
        """Arms, one simulation for each trajectory of each task."""
        return Bench(self)

    def score(self, prediction: Tensor, data: Trajectories) -> dict[str, Tensor]:
        """The share of episodes with success, and what other suites score."""
        assert isinstance(data.success, Tensor)  # noqa: S101  # for the type checker: this environment has it
        return {"success": data.success.mean(), **super().score(prediction, data)}


class Bench:
    """Arms of all tasks and trajectories, an Environment; stepped one after the other, since the package is Python."""

    horizon = HORIZON

    def __init__(self, suite: ArmTasks) -> None:
        """No arm yet."""
        self.suite = suite

    def reset(self, tasks: Scenes, trajectories: int, generator: Generator) -> Tensor:
        """First observations, [T, B, 39]; the package draws nothing once a goal is set."""
        known = _scenes(self.suite)
        order = list(dict.fromkeys(name for name, _, _ in known))
        sizes = {name: len(vector) for name, vector, _ in known}
        self.shape = (len(tasks.layout), trajectories)
        self.arms: list[Any] = []
        taken: dict[str, int] = {}
        for place, layout in zip(tasks.environment.flatten().tolist(), tasks.layout.numpy(), strict=True):
            name = order[place]
            for _ in range(trajectories):
                arm = _arm(name, taken.setdefault(name, 0))
                taken[name] += 1
                arm._set_task_called, arm._freeze_rand_vec = True, True
                arm._last_rand_vec = layout[: sizes[name]].copy()
                arm._partially_observable = self.suite.view == "plain"
                arm.__dict__.pop("sawyer_observation_space", None)  # cached for the other kind of view
                self.arms.append(arm)
        self.success = torch.zeros(self.shape)
        self.broken = [False] * len(self.arms)
        return self._shaped(np.stack([arm.reset()[0] for arm in self.arms]))

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [T, B, 39], reward [T, B], done [T, B]: never, but by breaking down."""
        actions = action.detach().clamp(-1, 1).double().reshape(len(self.arms), -1).numpy()
        seen, rewards = np.full((len(self.arms), OBSERVATIONS), np.nan), np.full(len(self.arms), np.nan)
        success = self.success.view(-1)
        for i, (arm, control) in enumerate(zip(self.arms, actions, strict=True)):
            if self.broken[i]:
                continue
            try:
                seen[i], rewards[i], _, _, info = arm.step(control)
            except Exception as error:  # MuJoCo's own class of errors; a mistake of ours shows in every arm at once
                if type(error).__module__.partition(".")[0] != "mujoco":
                    raise
                self.broken[i] = True
                continue
            self.broken[i] = arm._did_see_sim_exception or _warned(arm)
            if self.broken[i]:
                seen[i], rewards[i] = np.nan, np.nan
            else:
                success[i] = max(success[i].item(), float(info["success"]))
        done = torch.tensor(self.broken).view(self.shape)
        return self._shaped(seen), self._shaped(rewards), done

    def _shaped(self, values: Any) -> Tensor:
        return torch.from_numpy(values).float().view(*self.shape, *values.shape[1:])


def _warned(arm: Any) -> bool:
    import mujoco

    return any(arm.data.warning[int(getattr(mujoco.mjtWarning, name))].number for name in BROKEN)


@cache
def _arm(name: str, number: int) -> Any:
    """The number-th simulation of an environment, made once: to compile one takes a good part of a second."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return ALL_V3_ENVIRONMENTS[name]()


@cache
def _goals(cls: Any, task: str) -> list[tuple[str, Any, Split]]:
    """Environment, random vector and split of every goal of the package's set."""
    found = (cls(task=task) if task else cls()).benchmark()
    scenes: list[tuple[str, Any, Split]] = []
    for tasks, held_back in ((found.train_tasks, True), (found.test_tasks, False)):
        seen: dict[str, int] = {}
        for one in tasks:
            vector = pickle.loads(one.data)["rand_vec"]  # written by the package a moment ago
            turn = seen[one.env_name] = seen.get(one.env_name, 0) + 1
            part: Split = "test" if not held_back else "validation" if turn <= HELD_BACK else "train"
            scenes.append((one.env_name, np.asarray(vector, dtype=np.float64), part))
    return scenes


def _scenes(suite: ArmTasks) -> list[tuple[str, Any, Split]]:
    cls: Any = type(suite)
    return _goals(cls, getattr(suite, "task", ""))
