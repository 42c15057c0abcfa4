"""Any environment of gymnasium's registry, of which some attributes differ from task to task (extra: gymnasium).

`gymnasium[id=CartPole-v1,vary=length:0.25-1.0]`; several: `vary=length:0.25-1.0;masspole:0.05-0.5`. Protocol and
network are choices of this suite, the outer rule is that of Finn et al. 2017 (arXiv:1703.03400).
"""

import difflib
import importlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from numbers import Real
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from bench.core import seeds
from bench.core.errors import BenchError, told
from bench.core.sheet import Sheet
from bench.core.types import Budget, Setting, Split
from suites.parts.control import Reinforcement
from suites.parts.hidden import Hidden
from suites.parts.physics import installed
from suites.parts.policies import Categorical, Gaussian, Policy

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"\s*([\w.]+)\s*:\s*({NUMBER})\s*-\s*({NUMBER})\s*")
GUESSES = 20  # test tasks, one episode each, on which chance is scored
NOT_SO = "Write vary=length:0.25-1.0, or vary=length:0.25-1.0;masspole:0.05-0.5 for several."
# What CartPole computes from others when it is made; it would otherwise stay what it was for another pole.
DERIVED = (
    ("total_mass", ("masspole", "masscart"), sum),
    ("polemass_length", ("masspole", "length"), math.prod),
)


class Range(NamedTuple):
    """An attribute and between what it is drawn."""

    path: str
    low: float
    high: float


class Drawn(NamedTuple):
    """What distinguishes the tasks."""

    values: Tensor  # [T, V], float64, of the attributes in the order in which they were given


@dataclass(frozen=True, kw_only=True)
class Gymnasium(Reinforcement):
    """Attributes are uniform in their ranges; actions are counted, or cut to ±1 and scaled to the space's bounds."""

    id: Annotated[str, Field(description="as registered; module:id imports the module that registers it")] = (
        "CartPole-v1"
    )
    vary: Annotated[
        str,
        Field(description="attribute:low-high of env.unwrapped, several separated by ;, dots and indices allowed"),
    ] = ""
    horizon: Annotated[int | None, Field(ge=1, description="time-steps of an episode; None: as registered")] = None
    simulator: Annotated[str, Field(description="packages; only what is installed")] = ""
    hidden: Hidden = (64, 64)
    view: Annotated[Literal["plain", "oracle"], Field(description="oracle: what varies is observed too")] = "plain"

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(2, 4, 2),
        "quick": Budget(50, 40, 10),
        "standard": Budget(200, 40, 40),
        "paper": Budget(500, 40, 40),
    }
    validate_every: ClassVar[int] = 25

    def __post_init__(self) -> None:
        """Fills in versions and, of CartPole, what varies.

        Raises:
            MissingExtraError: gymnasium is missing, or MuJoCo where the environment wants it.
            BenchError: there is no such environment or attribute, or it is of a kind that cannot be met here.
            ValueError: other versions are asked for than are installed.
        """
        found = installed("gymnasium", "gymnasium")
        spec = _registered(self.id)
        if "mujoco" in str(spec.entry_point):
            found = installed("mujoco", "gymnasium", "mujoco")
        if self.simulator not in ("", found):
            raise ValueError(f"it ran with {self.simulator}; installed are {found}")
        object.__setattr__(self, "simulator", found)
        if not self.vary and self.id == "CartPole-v1":
            object.__setattr__(self, "vary", "length:0.25-1.0")
        if self.horizon is None:
            object.__setattr__(self, "horizon", spec.max_episode_steps)
        if self.horizon is None:
            raise BenchError(f"{self.id} is registered without a limit of time-steps. Give one, such as horizon=200.")
        _checked(self.id, self.horizon, self.vary)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """What varies."""
        return _ranges(self.vary)

    @property
    def setting(self) -> str:
        """The environment, what varies and for how long."""
        return f"{self.id}, {self.vary}, H={self.horizon}"

    @property
    def caveat(self) -> str:
        """With what it ran."""
        return self.simulator

    @property
    def report_steps(self) -> tuple[int, ...]:
        """Before adaptation, and after one, two and three steps."""
        return (0, 1, 2, 3)

    @property
    def protocol(self) -> dict[str, Setting]:
        """A choice of this suite."""
        values = {"inner_lr": 0.1, "steps": 1, "outer_lr": 0.001, "meta_batch": 10}
        return {name: Setting(value, "a choice of this suite") for name, value in values.items()}

    @property
    def floor(self) -> float:
        """The mean return of random actions, of twenty episodes of as many tasks with fixed seeds."""
        return _chance(replace(self, view="plain"))

    def oracle_view(self) -> Self:
        """The same tasks, and what varies in the observation; as many environment steps as pretraining."""
        return replace(self.pretraining(), view="oracle")

    def module(self) -> Policy:
        """O-64-64 with tanh, unless other layers are asked for; the kind of distribution is the action space's."""
        made = _made(self.id, self.horizon, self.vary, 0)
        observations = math.prod(made.observation_space.shape) + len(self.ranges) * (self.view == "oracle")
        if hasattr(made.action_space, "n"):
            return Categorical(observations, self.hidden, int(made.action_space.n), "tanh")
        return Gaussian(observations, self.hidden, math.prod(made.action_space.shape), "tanh")

    def sample(self, count: int, split: Split, generator: Generator) -> Drawn:
        """Uniform in the ranges."""
        draws = torch.rand(count, len(self.ranges), generator=generator, dtype=torch.float64)
        low, high = (torch.tensor([r[i] for r in self.ranges], dtype=torch.float64) for i in (1, 2))
        return Drawn(low + draws * (high - low))

    def environment(self) -> "Vector":
        """One simulation for each trajectory of each task."""
        return Vector(self)

    def sheet(self) -> Sheet:
        """What varies, in forty test tasks."""
        return Sheet("curves", self.sample(40, "test", seeds.generator("sheet")).values.T.numpy(), np.arange(40))


class Vector:
    """gymnasium.vector's environments of all tasks and trajectories, an Environment.

    What ended is reset by gymnasium at the next step, and what it then says is ignored.
    """

    def __init__(self, suite: Gymnasium) -> None:
        """Nothing simulated yet."""
        assert suite.horizon is not None  # noqa: S101  # for the type checker: filled in
        self.suite, self.horizon = suite, suite.horizon

    def reset(self, tasks: Drawn, trajectories: int, generator: Generator) -> Tensor:
        """First observations, [T, B, O]; each simulation gets a seed of its own."""
        suite = self.suite
        self.shape = (len(tasks.values), trajectories)
        count = self.shape[0] * trajectories
        low, high = (torch.tensor([r[i] for r in suite.ranges], dtype=torch.float64) for i in (1, 2))
        self.told = ((tasks.values - low) / (high - low)).float().unsqueeze(1).expand(-1, trajectories, -1)
        self.vector = _vector(suite.id, self.horizon, suite.vary, count)
        for i, simulation in enumerate(self.vector.envs):
            for one, value in zip(suite.ranges, tasks.values[i // trajectories].tolist(), strict=True):
                _put(simulation.unwrapped, one.path, value)
            _derive(simulation.unwrapped, [one.path for one in suite.ranges])
        return self._observed(self.vector.reset(seed=torch.randint(2**31, (count,), generator=generator).tolist())[0])

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [T, B, O], reward [T, B], done [T, B]: terminated or truncated."""
        space = self.vector.single_action_space
        if hasattr(space, "n"):
            control = action.reshape(-1).numpy() + space.start
        else:
            share = (action.detach().double().clamp(-1, 1).reshape(-1, *space.shape).numpy() + 1) / 2
            bounded = np.isfinite(space.low) & np.isfinite(space.high)
            low, high = (np.where(bounded, bound, side) for bound, side in ((space.low, -1.0), (space.high, 1.0)))
            control = np.clip(low + share * (high - low), space.low, space.high).astype(space.dtype)
        seen, reward, terminated, truncated, _ = self.vector.step(control)
        done = torch.from_numpy(terminated | truncated)
        self._check(reward, "a reward")
        return self._observed(seen), torch.from_numpy(reward).float().view(self.shape), done.view(self.shape)

    def _check(self, values: Any, what: str) -> None:
        if not np.isfinite(values).all():
            raise BenchError(f"{self.suite.id} gave {what} that is no finite number. Mend it, or vary less.")

    def _observed(self, seen: Any) -> Tensor:
        self._check(seen, "an observation")
        flat = torch.from_numpy(np.asarray(seen, dtype=np.float32)).reshape(*self.shape, -1)
        return torch.cat([flat, self.told], -1) if self.suite.view == "oracle" else flat.clone()


def _registered(name: str) -> Any:
    """The specification that gymnasium has of an environment."""
    import gymnasium

    module, _, bare = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise BenchError(f"{module}, which is to register {bare}, does not import: {told(error)}.") from None
    if bare not in gymnasium.registry:
        raise BenchError(
            f"unknown environment {bare!r}.{_nearest(bare, gymnasium.registry)} Allowed is what gymnasium has "
            "registered; your own comes with id=module:id, where importing the module registers it."
        )
    return gymnasium.spec(bare)


def _nearest(given: str, names: Iterable[str]) -> str:
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


@cache
def _ranges(text: str) -> tuple[Range, ...]:
    found: list[Range] = []
    for item in filter(None, (part.strip() for part in text.split(";"))):
        match = RANGE.fullmatch(item)
        if not match:
            raise BenchError(f"{item!r} is no attribute with a range. {NOT_SO}")
        one = Range(match[1], float(match[2]), float(match[3]))
        if not one.low < one.high or not math.isfinite(one.high - one.low):
            raise BenchError(f"{item!r} is no range: it must go from less to more, in finite numbers. {NOT_SO}")
        if one.path in {other.path for other in found}:
            raise BenchError(f"{one.path} is to vary twice. Give it once.")
        found.append(one)
    if not found:
        raise BenchError(f"nothing is to vary, so that all tasks would be the same. {NOT_SO}")
    return tuple(found)


@cache
def _checked(name: str, horizon: int, vary: str) -> None:
    """Raises what is wrong with an environment or what is to vary."""
    import gymnasium

    ranges = _ranges(vary)
    made = _made(name, horizon, vary, 0)
    box, discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
    if not isinstance(made.observation_space, box):
        raise BenchError(f"{name} is observed as {made.observation_space}; only a Box of numbers can be met here.")
    if not isinstance(made.action_space, box | discrete):
        raise BenchError(f"{name} is acted in by {made.action_space}; only a Box or a Discrete can be met here.")
    for one in ranges:
        old = _got(made.unwrapped, name, one.path)
        if isinstance(old, bool) or not isinstance(old, Real):
            raise BenchError(f"{one.path} of {name} is {type(old).__name__}, not a number, so that it cannot vary.")
        try:
            _put(made.unwrapped, one.path, one.high)
            kept = math.isclose(float(_got(made.unwrapped, name, one.path)), one.high, rel_tol=1e-5)
        except (AttributeError, TypeError, ValueError):
            kept = False
        if not kept:
            raise BenchError(f"{one.path} of {name} cannot be set, so that it cannot vary.")


def _got(whole: Any, name: str, path: str) -> Any:
    """The value at a path of attributes and indices."""
    for part in path.split("."):
        try:
            whole = whole[int(part)] if part.isdigit() else getattr(whole, part)
        except (AttributeError, IndexError, TypeError, KeyError):
            there = [] if part.isdigit() else [n for n in dir(whole) if not n.startswith("_")]
            of = f"{name} ({path})" if part != path else name
            raise BenchError(f"unknown attribute {part!r} of {of}.{_nearest(part, there)}") from None
    return whole


def _put(whole: Any, path: str, value: float) -> None:
    *parts, last = path.split(".")
    for part in parts:
        whole = whole[int(part)] if part.isdigit() else getattr(whole, part)
    if last.isdigit():
        whole[int(last)] = value
    else:
        setattr(whole, last, value)


def _derive(whole: Any, varied: list[str]) -> None:
    """Computes again what CartPole computed of what varies."""
    for name, of, how in DERIVED:
        if name not in varied and set(of) & set(varied) and all(hasattr(whole, part) for part in (name, *of)):
            setattr(whole, name, how(getattr(whole, part) for part in of))


@cache
def _made(name: str, horizon: int, vary: str, number: int) -> Any:
    """The number-th simulation, made once: some take long to make. Apart by what varies, which stays set."""
    import gymnasium

    try:
        return gymnasium.make(name, max_episode_steps=horizon, disable_env_checker=True)
    except Exception as error:  # of whoever wrote the environment
        raise BenchError(f"{name} cannot be made: {told(error)}.") from None


@cache
def _vector(name: str, horizon: int, vary: str, count: int) -> Any:
    """`count` simulations; kept, since a vector that is thrown away closes those that others use."""
    from gymnasium.vector import SyncVectorEnv

    return SyncVectorEnv([partial(_made, name, horizon, vary, i) for i in range(count)])


@cache
def _chance(suite: Gymnasium) -> float:
    generator = seeds.generator("floor", suite.setting)
    environment, policy = suite.environment(), suite.policy
    observation = environment.reset(suite.sample(GUESSES, "test", generator), 1, generator)
    alive, total = torch.ones(observation.shape[:2], dtype=torch.bool), torch.zeros(observation.shape[:2])
    nothing = torch.zeros_like(policy(observation))  # parameters of equal chances, or of a standard normal
    for eps in policy.noise(environment.horizon, GUESSES, 1, generator=generator):
        _, reward, done = environment.step(policy.sample(nothing, eps))
        total += torch.where(alive, reward, 0.0)
        alive = alive & ~done
        if not alive.any():
            break
    return float(total.mean())
