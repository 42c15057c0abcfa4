"""The vocabulary: what a suite of tasks and a meta-learner are to each other, written for one task.

A suite never hears of an algorithm, an algorithm never of a suite; `bench` brings them together. Nothing in an
algorithm has a task axis, `torch.func.vmap` makes the batch. Letters: T tasks, K inner steps, N examples.
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from bench.core import modules
from bench.core.call import calling
from bench.core.errors import BenchError, PluginError
from bench.core.layers import Written
from bench.core.metric import NLL
from bench.core.metric import Metric as Metric  # which suites import from here
from bench.core.outer import Adam, Outer
from bench.core.sheet import Sheet
from bench.core.trees import tree_leaves, tree_map

Params = dict[str, Tensor]  # names as in nn.Module.named_parameters()
Data = Any  # pytrees of tensors: NamedTuples, tuples or dicts
Meta = Any
State = Any
Tasks = Any
Split = Literal["train", "validation", "test"]
Role = Literal["support", "query"]
Kind = Literal["regression", "classification", "control"]
Family = Literal["gradient-based", "Bayesian", "metric", "amortised", "recurrent", "online", "baselines", "others"]
Follows = Literal["", "all", "earlier", "present"]


class Normal(NamedTuple):
    """A prediction that says how sure it is: independent normals."""

    mean: Tensor  # [N, D]
    std: Tensor  # [N, D], > 0

    def log_density(self, y: Tensor) -> Tensor:
        """Ln p(y), summed over D, [N]."""
        return -(((y - self.mean) / self.std).square() / 2 + self.std.log() + math.log(2 * math.pi) / 2).sum(-1)


Prediction = Tensor | Normal  # values, log-probabilities of classes, or parameters of a policy's distribution


class Moment(NamedTuple):
    """What a policy with a memory is shown at one time-step of B episodes that go on side by side."""

    observation: Tensor  # [B, O]
    action: Tensor  # [B, A], the last one, one-hot where they are counted; 0 at an episode's first time-step
    reward: Tensor  # [B], for it
    first: Tensor  # [B], bool: the episode begins


class Acted(NamedTuple):
    """What one task's recorded episodes tell a learner, padded to H time-steps."""

    observations: Tensor  # [B, H, O]
    actions: Tensor  # [B, H, A], one-hot where they are counted
    rewards: Tensor  # [B, H], 0 after the end
    mask: Tensor  # [B, H], bool: the step was taken
    advantages: Tensor  # [B, H], as the suite estimates them, 0 after the end
    behaviour: Tensor  # [B, H, D]: what the actions were drawn from


Actor = Callable[[Moment], Tensor]  # all tasks' policies at once: leaves [T, B, ...] -> distributions [T, B, D]


class Task(Protocol):
    """All that a learner may know of the task at hand; it closes over no tensor, so that its calls can be repeated.

    Letters: N examples, D target dimensions, F features, M members of an ensemble.
    """

    @property
    def kind(self) -> Kind:
        """What is predicted: numbers, classes, or actions."""
        ...

    @property
    def outputs(self) -> int:
        """Classes, target dimensions, or parameters of the distribution over actions."""
        ...

    @property
    def head(self) -> frozenset[str]:
        """The names of the parameters of the suite's network's last layer."""
        ...

    def new_params(self, generator: Generator) -> Params:
        """Freshly initialised parameters of the suite's own network."""
        ...

    def example(self, role: Role) -> Data:
        """Data of a training task, for their shapes: for learners that bring a network of their own."""
        ...

    def inputs(self, data: Data) -> Tensor:
        """What is predicted from, [N, ...]."""
        ...

    def targets(self, data: Data) -> Tensor:
        """What is to be predicted, [N, D], or [N] for classes."""
        ...

    def mask(self, data: Data) -> Tensor | None:
        """Which examples are there, [N], where tasks differ in size; None: all."""
        ...

    def predict(self, params: Params, data: Data) -> Prediction:
        """The suite's own network's prediction."""
        ...

    def features(self, params: Params, data: Data) -> Tensor:
        """What that network computes before its last layer, [N, F]."""
        ...

    def answer(self, params: Params, features: Tensor) -> Tensor:
        """What that network predicts from its features, [N, F]: `predict` without paying for them again."""
        ...

    def losses(self, prediction: Prediction, data: Data) -> Tensor:
        """One loss per example, [N]; minus the log-density where a regression's prediction is a distribution."""
        ...

    def mean(self, losses: Tensor, data: Data) -> Tensor:
        """The mean of losses [N] over the examples that are there, a scalar."""
        ...

    def loss(self, params: Params, data: Data) -> Tensor:
        """The mean loss of the suite's own network, a scalar."""
        ...

    def average(self, predictions: Prediction) -> Prediction:
        """The prediction of an ensemble whose members predict [M, ...]; moment-matched, of numbers."""
        ...

    def adaptable(self, name: str) -> bool:
        """Whether the inner loop may change the parameter of this name."""
        ...

    def acted(self, data: Data) -> Acted:
        """Recorded episodes, where tasks are acted in."""
        ...

    def log_prob(self, prediction: Tensor, data: Data) -> Tensor:
        """The log-likelihood of the recorded actions by distributions [B, H, D]: [B, H], nats."""
        ...

    def divergence(self, prediction: Tensor, data: Data) -> Tensor:
        """The mean KL from what the actions were drawn from to distributions [B, H, D], a scalar, nats."""
        ...


class Episode(NamedTuple):
    """All that one task shows a learner; under vmap every leaf gains a task axis."""

    support: tuple[Data, ...]  # observed at inner step 0..K-1; supervised: the same data each step
    query: Data  # what the adapted learner is judged on
    noise: Data = ()  # drawn outside, per task
    iteration: Data = ()  # [], meta-iterations that were done before; () outside meta-training


class Setting(NamedTuple):
    """A protocol's value for a hyperparameter, and where it comes from."""

    value: Any
    source: str


class Search(NamedTuple):
    """Where `bench tune` looks for a hyperparameter, declared beside the field in its Annotated.

    A range [low, high], or choices; Search() alone: all that a Literal or a bool takes.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False  # uniform in the logarithm
    times_protocol: bool = False  # the bounds multiply the suite's protocol value: rates have each suite's own scale
    choices: tuple[Any, ...] = ()


class Budget(NamedTuple):
    """How long a preset meta-trains and on how many of the frozen tasks it scores."""

    iterations: int
    test_tasks: int = 600
    validation_tasks: int = 200


class Suite(ABC):
    """A distribution over tasks, the model that meets them, and how it is judged.

    A suite is one frozen dataclass in one file; its fields are its parameters, checked by their annotations. Subclass
    this (or `Supervised`) and define what is abstract here.
    """

    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[Metric, ...]]  # the first is the headline
    presets: ClassVar[dict[str, Budget]]  # smoke, quick, standard, paper
    validate_every: ClassVar[int] = 500  # meta-iterations between two looks at the validation tasks
    clip: ClassVar[float | None] = None  # each entry of the meta-gradient is cut to ± this, where a protocol says so
    manifests: ClassVar[dict[str, str]] = {}  # "<setting>/<split>" -> SHA-256 of the frozen tasks

    norm: str = "none"  # transductive | inductive (by running statistics) | none: whether the query batch is seen

    @cached_property
    def normalisation(self) -> str:
        """What `norm` comes to: batch normalisation sees the query where the suite does not say otherwise."""
        return "transductive" if self.norm == "none" and modules.batch_norms(self.skeleton) else self.norm

    @property
    def caveat(self) -> str:
        """What a reader of the table must know of this suite; nothing by default."""
        return ""

    @property
    def setting(self) -> str:
        """What one row of a table is about, such as "5-way 1-shot"; names the frozen tasks as well."""
        return "default"

    @property
    @abstractmethod
    def report_steps(self) -> tuple[int, ...]:
        """The inner steps that the table quotes."""

    @property
    @abstractmethod
    def protocol(self) -> dict[str, Setting]:
        """The suite's values for hyperparameters that an algorithm leaves open (inner_lr, steps, meta_batch, ...)."""

    @property
    def decay(self) -> float | None:
        """The share of an outer rate that is left at a run's end, to which it falls exponentially; None: it stays.

        Where a protocol says so; a learner that declares a schedule of its own keeps that.
        """
        return None

    @property
    @abstractmethod
    def floor(self) -> float:
        """The headline score of a predictor that knows nothing of the task."""

    @property
    def evaluations(self) -> tuple[Self, ...]:
        """What a trained cell is scored on, the headline first; variants of one setting differ in the query alone."""
        return (self,)

    @abstractmethod
    def module(self) -> nn.Module:
        """An ordinary module, newly initialised from torch's global generator; run by functional_call."""

    def adaptable(self, name: str) -> bool:
        """Whether a parameter is adapted; False: it is meta-learned but stays put in the inner loop."""
        return True

    @abstractmethod
    def sample(self, count: int, split: Split, generator: Generator) -> Tasks:
        """`count` tasks of a split, leaves [T, ...]: descriptions, cheap to draw, hash and keep."""

    @abstractmethod
    def collect(self, tasks: Tasks, params: Params, role: Role, step: int, generator: Generator) -> Data:
        """What the tasks show at an inner step, leaves [T, ...], detached; called outside vmap.

        Args:
            tasks: leaves [T, ...].
            params: the tasks' present parameters, leaves [T, ...], for suites whose data depend on them.
            role: to adapt to, or to be judged on.
            step: inner steps taken.
            generator: of all that is random.
        """

    def check(self, split: Split = "test") -> None:
        """Raises what is missing, such as data, before anything is trained."""
        generator = Generator().manual_seed(0)
        self.collect(self.sample(1, split, generator), {}, "query", 0, generator)

    @cached_property
    def kind(self) -> Kind:
        """What is predicted; by default classes where there is a whole number for each example, else numbers."""
        _, *others = self._parts(self.example("query"))
        whole = any(part.dim() == 1 and not part.is_floating_point() and part.dtype != torch.bool for part in others)
        return "classification" if whole else "regression"

    @cached_property
    def outputs(self) -> int:
        """Classes, target dimensions, or parameters of the distribution over actions: the prediction's last axis."""
        return self._tried.prediction.shape[-1]

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """The shape of what is predicted for one example."""
        if type(self).outputs is Suite.outputs:
            return tuple(self._tried.prediction.shape[1:])
        return (self.outputs,)

    @cached_property
    def head(self) -> frozenset[str]:
        """The names of the parameters of the network's last layer; none of a network without parameters.

        Its last is the layer whose output is the prediction, or of which that is the log-softmax; where there is none,
        the one that was built last.
        """
        return frozenset(_names(self.skeleton, self._last_layer).values())

    @property
    def _last_layer(self) -> nn.Module:
        if type(self).answer is Suite.answer:
            return self._tried.last
        return (modules.layers(self.skeleton) or [self.skeleton])[-1]  # a suite that says how it ends is not tried

    def example(self, role: Role) -> Data:
        """Data of one training task, by freshly initialised parameters where data depend on them."""
        generator = _first()
        params = {name: p.unsqueeze(0) for name, p in self.new_params(generator).items()}
        data = self.collect(self.sample(1, "train", generator), params, role, 0, generator)
        return tree_map(lambda x: x[0], data)

    def inputs(self, data: Data) -> Tensor:
        """What is predicted from, [N, ...]: by default the first part of the data."""
        return self._parts(data)[0]

    def targets(self, data: Data) -> Tensor:
        """What is to be predicted, [N, D], or [N] for classes: by default the second part of the data."""
        return self._parts(data)[1]

    def _parts(self, data: Data) -> list[Tensor]:
        leaves = tree_leaves(data)
        if len(leaves) < 2:
            raise BenchError(
                f"{type(self).__name__}'s data are one tensor, so that inputs(data) and targets(data) must be defined."
            )
        return leaves

    def mask(self, data: Data) -> Tensor | None:
        """Which examples are there, [N], where tasks differ in size: by default the data's part `mask`, if any."""
        found = getattr(data, "mask", None)
        return found if isinstance(found, Tensor) else None

    def mean(self, losses: Tensor, data: Data) -> Tensor:
        """The mean of losses [N], or of scores, over the examples that are there, 0 where none is; a scalar."""
        mask = self.mask(data)
        return losses.mean() if mask is None else (losses * mask).sum() / mask.sum().clamp(min=1)

    @property
    def of_distributions(self) -> tuple[Metric, ...]:
        """What a prediction that says how sure it is is scored by, beside the metrics of its mean; of numbers alone."""
        return (NLL,)

    def bayes(self, data: Data) -> Tensor | None:
        """Minus the log-density of each target, [N], to whoever knows the tasks' distribution; None: not known.

        Where it is known, `of_distributions` names the metric `GAP`.
        """
        return None

    def features(self, params: Params, data: Data) -> Tensor:
        """What the network computes before its last layer, [N, F].

        Raises:
            PluginError: that layer is not run by `predict`.
        """
        seen: list[Tensor] = []
        # The hook is the skeleton's, which nobody else runs at this moment: a suite belongs to one thread.
        handle = self._last_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.predict(params, data)
        finally:
            handle.remove()
        if not seen:
            raise PluginError(
                f"predict of {type(self).__name__} does not run the last layer of its network "
                f"({', '.join(sorted(self.head)) or 'it has no parameters'}), so that features(params, data) must be "
                "defined."
            )
        return seen[-1]  # a layer that is run several times is the last the last time

    def answer(self, params: Params, features: Tensor) -> Tensor:
        """The prediction from features, [N, F]: by default the last layer's output, or the log-softmax of it.

        Raises:
            PluginError: `predict` does something else with the last layer, so that this must be defined; or the
                features depend on that layer's own parameters, so that they do not stay when it changes.
        """
        finish = self._tried.finish
        if finish is None:
            raise PluginError(
                f"what predict of {type(self).__name__} gives is neither the output of its network's last layer "
                f"({', '.join(sorted(self.head)) or 'it has no parameters'}) nor the log-softmax of that, so that "
                "answer(params, features) must be defined."
            )
        if not self._tried.apart:
            raise PluginError(
                f"the network of {type(self).__name__} uses the parameters of its last layer "
                f"({', '.join(sorted(self.head))}) before that layer as well, so that its features do not stay when "
                "the layer changes. Leave out methods that change the last layer alone, such as anil, or share nothing "
                "with it."
            )
        return finish(self.end(params, features))

    def end(self, params: Params, features: Tensor) -> Tensor:
        """The last layer's output, [N, outputs], of what comes before it."""
        layer = {mine: params[name] for mine, name in _names(self.skeleton, self._last_layer).items()}
        layer = {mine: p.detach() if mine in modules.fixed(self._last_layer) else p for mine, p in layer.items()}
        with contextlib.nullcontext() if self.plain else Written():
            output: Tensor = torch.func.functional_call(self._last_layer, layer, (features,))
        return output

    @abstractmethod
    def predict(self, params: Params, data: Data) -> Tensor:
        """The prediction for one task's data."""

    @abstractmethod
    def losses(self, prediction: Tensor, data: Data) -> Tensor:
        """One loss per example, [N]; the loss is their mean."""

    @abstractmethod
    def score(self, prediction: Tensor, data: Data) -> dict[str, Tensor]:
        """One scalar per metric."""

    def average(self, predictions: Tensor) -> Tensor:
        """The values that an ensemble predicts, from those of its members [M, ...]."""
        return predictions.mean(0)

    @property
    def made_of(self) -> tuple[type, ...]:
        """The classes whose source decides what the suite is."""
        return type(self), type(self.skeleton)

    def pretraining(self) -> "Suite":
        """The suite on which a learner that does not meta-learn is pretrained: the tasks themselves, by default."""
        return self

    def replace_head(self, params: Params, generator: Generator) -> Params:
        """Pretrained parameters made to fit this suite's module; unchanged where pretraining used the same module."""
        return params

    def stand_in(self) -> Self:
        """The suite with random data of the same shape, for timing without the real; itself where none is needed."""
        return self

    def sheet(self) -> Sheet:
        """Some of what a learner sees, to be looked at."""
        raise NotImplementedError

    def new_params(self, generator: Generator) -> Params:
        """Freshly initialised parameters; the global generator is seeded from `generator` and put back."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return modules.values(self.module())

    @cached_property
    def skeleton(self) -> nn.Module:
        """The module whose structure `predict` runs with other values, prepared for that; its own are never used."""
        with torch.random.fork_rng(devices=[]):
            return modules.prepared(self.module())

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The names of what nothing learns: buffers, and parameters that want no gradient."""
        return modules.fixed(self.skeleton)

    @cached_property
    def draws(self) -> bool:
        """Whether the module drops anything at random."""
        return not self.plain and self._tried.dropped > 0

    @cached_property
    def plain(self) -> bool:
        """Whether the module is made of layers alone that need not be written out."""
        return modules.plain(self.skeleton)

    @cached_property
    def _tried(self) -> "_Tried":
        """A prediction for an example, and what is seen on the way."""
        data, params = self.example("query"), self.new_params(_first())
        layers = modules.layers(self.skeleton)
        runs, prediction, dropped = self._watched(layers, params, data)
        # The last rows, where more examples go through the network than are predicted; of layers inside each other the
        # innermost.
        of_kind = (run for run in reversed(runs) if run.output.dtype == prediction.dtype)
        ends = ((run.layer, run.output[-len(prediction) :]) for run in of_kind if _innermost(run.layer, layers))
        found = ((layer, finish) for layer, end in ends for finish in FINISHES if torch.equal(finish(end), prediction))
        last, finish = next(found, (layers[-1] if layers else self.skeleton, None))
        apart = True
        if finish:
            own = set(_names(self.skeleton, last).values())
            moved = {name: 1.5 * p + 1 if name in own else p for name, p in params.items()}
            pair = zip(runs, self._watched(layers, moved, data)[0], strict=False)
            *_, (one, other) = (both for both in pair if both[0].layer is last)
            apart = torch.equal(one.input, other.input)
        return _Tried(prediction, dropped, last, finish, apart)

    def _watched(self, layers: list[nn.Module], params: Params, data: Data) -> "tuple[list[_Run], Tensor, int]":
        """Every run of one of the layers, in the order in which they end; the prediction; how often is dropped."""
        runs: list[_Run] = []

        def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                runs.append(_Run(layer, inputs[0], output))

        handles = [layer.register_forward_hook(note) for layer in layers]
        try:
            with torch.no_grad(), calling(torch.zeros((), dtype=torch.int64)) as call:
                prediction = self.predict(params, data)
        finally:
            for handle in handles:
                handle.remove()
        return runs, prediction, call.dropped

    def call(self, params: Params, *inputs: Any) -> Tensor:
        """The module's output with these parameters instead of its own; nothing is learned through what is `fixed`."""
        if self.fixed:
            params = {name: p.detach() if name in self.fixed else p for name, p in params.items()}
        with contextlib.nullcontext() if self.plain else Written():
            output: Tensor = torch.func.functional_call(self.skeleton, params, inputs)
        return output


class Supervised(Suite):
    """A suite whose data do not depend on the learner: support and query are looked up."""

    @abstractmethod
    def look_up(self, tasks: Tasks, role: Role) -> Data:
        """The tasks' support or query data, leaves [T, ...]."""

    def collect(self, tasks: Tasks, params: Params, role: Role, step: int, generator: Generator) -> Data:
        """The same look-up at every inner step, whatever the learner."""
        return self.look_up(tasks, role)


class Interactive(Suite):
    """A suite whose data depend on the learner: collected anew at every inner step, with each task's parameters."""

    kind: ClassVar[Kind] = "control"
    curve_every: ClassVar[int] = 1  # meta-iterations that share a row of the curve
    of_tensors: ClassVar[bool] = False  # its environments are, and run where the tasks are; others on the CPU

    outer: Literal["trpo", "adam"] = "trpo"  # the outer rule
    kl: float = 0.01  # how far TRPO may move the adapted learners, mean of `divergence`

    def mask(self, data: Data) -> Tensor | None:
        """None: losses are of all time-steps, 0 where none was taken, scaled such that their mean is right."""
        return None

    def targets(self, data: Data) -> Tensor:
        """None there are.

        Raises:
            BenchError: always.
        """
        raise BenchError(
            f"tasks of {type(self).__name__} are acted in: rewards judge what is done, and nothing says what is right. "
            "A learner that reads targets(data) declares suits without 'control'."
        )

    @abstractmethod
    def collect(self, tasks: Tasks, params: Params | Actor, role: Role, step: int, generator: Generator) -> Data:
        """As of `Suite`, acted by the suite's network with parameters [T, ...], or by policies with a memory."""

    def acted(self, data: Data) -> Acted:
        """One task's recorded episodes.

        Raises:
            BenchError: the suite does not say; a learner that wants them cannot meet it.
        """
        raise BenchError(f"{type(self).__name__} does not define acted(data), which this learner reads.")

    def log_prob(self, prediction: Tensor, data: Data) -> Tensor:
        """The log-likelihood of the recorded actions by distributions [B, H, D]: [B, H], nats.

        Raises:
            BenchError: the suite does not say; a learner that wants it cannot meet it.
        """
        raise BenchError(f"{type(self).__name__} does not define log_prob(prediction, data), which this learner reads.")

    def differentiated(self) -> Self:
        """The same suite, with a network whose derivatives are cheapest to take often at the same parameters."""
        return self

    @abstractmethod
    def divergence(self, prediction: Tensor, data: Data) -> Tensor:
        """How far a prediction is from the one with which the data were collected, a scalar; 0 where it is the same."""

    def excerpt(self, data: Data) -> Data:
        """As much of data [T, ...] as tells how far predictions move; all of it by default."""
        return data

    def exploration(self, params: Params, support: Data, query: Data) -> Tensor | None:
        """What a task's meta-loss owes to having collected this support with these parameters; None: nothing."""
        return None

    @abstractmethod
    def tally(self, data: Data) -> dict[str, float]:
        """What is counted of data [T, ...]: `environment_steps`, `return` and whatever else is worth a column."""


@dataclass(frozen=True, kw_only=True)
class Learner(ABC):
    """A meta-learner: fields are hyperparameters, methods are pure functions of ONE task.

    A field without a default is filled from the suite's protocol. Subclass this as a frozen, keyword-only dataclass,
    define `step`, and override what else differs. Its gradient with respect to `meta` of `meta_loss` IS the
    meta-gradient; no algorithm writes an outer loop.
    """

    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training"), Search(1, 5)]
    outer_lr: Annotated[
        float, Field(gt=0, description="Adam's rate in the outer loop"), Search(0.1, 10, log=True, times_protocol=True)
    ]
    meta_batch: Annotated[int, Field(ge=1, description="tasks in one meta-iteration")]

    family: ClassVar[Family] = "others"  # under which `bench list` has it
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification", "control"})  # refused elsewhere
    chases: ClassVar[bool] = False  # whether the query only says where to go: a constant to the meta-gradient
    order_matters: ClassVar[bool] = False  # whether the order of the support may change what is predicted
    # Of which tasks of a stream it learns: of all so far, of the earlier ones, or of the present one alone, in which it
    # begins anew. "": of none, but of tasks that are drawn; a driver may lead it along a stream.
    follows: ClassVar[Follows] = ""
    remembers: ClassVar[bool] = False  # it acts by `act` with a memory of its own, not by the suite's network
    own_outer: ClassVar[bool] = False  # `outer` is part of the method, and goes before the suite's rule
    trains: ClassVar[bool] = True  # False: the initialisation is used as it is
    train_view: ClassVar[str] = ""  # the suite's method that gives what to train on, if not the suite itself
    test_view: ClassVar[str] = ""  # likewise, what to be scored on
    learn2learn: ClassVar[str] = ""  # the wrapper in learn2learn.algorithms that is this method, if there is one

    @classmethod
    def opened(cls, given: dict[str, Any], protocol: dict[str, Any]) -> dict[str, Any]:
        """What fills the fields that are not given: the suite's protocol."""
        return protocol

    @property
    def second_order(self) -> bool:
        """Whether the meta-gradient claims to be exact; `bench certify` holds it to that."""
        return True

    @property
    def outer(self) -> Outer:
        """How Meta follows the meta-gradient, where the suite's own rule does not (`Interactive.outer`)."""
        return Adam(self.outer_lr)

    def at(self, iteration: int) -> Self:
        """The learner as it is after so many meta-iterations; the same throughout by default.

        What differs must be a field, and each change is a new compilation.
        """
        return self

    def init(self, task: Task, generator: Generator) -> Meta:
        """All that is meta-learned, a pytree of tensors; the suite's own network by default."""
        return task.new_params(generator)

    def adapts(self, task: Task, name: str) -> bool:
        """Whether an inner step may change the parameter of this name in `params`; `bench certify` holds it to that."""
        return task.adaptable(name)

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        """Per-task randomness, leaves [T, ...]; none by default.

        `shapes` is Meta on torch's device "meta": shapes without values, since what is drawn must not depend on how far
        the training is. Scale noise by values in `start`.
        """
        return ()

    def start(self, meta: Meta, noise: Data) -> State:
        """The learner before the first inner step."""
        return meta

    @abstractmethod
    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """The learner after ONE inner step: the only inner loop body."""

    def params(self, meta: Meta, state: State) -> Params:
        """The parameters of the suite's network that predict, or act."""
        params: Params = state
        return params

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        """What the learner predicts in a state: by the suite's network, or by whatever else it has."""
        return task.predict(self.params(meta, state), data)

    def act(self, meta: Meta, state: State, task: Task, moment: Moment) -> tuple[Tensor, State]:
        """One time-step of a learner that `remembers`: distributions [B, D] and the state with a newer memory.

        What an episode leaves to the next is for `step` to say: it, and `predict`, do the same on what was recorded.
        """
        raise NotImplementedError

    def adapted(self, meta: Meta, task: Task, episode: Episode) -> State:
        """The learner after all inner steps: state_{k+1} = step(state_k) on the support."""
        state = self.start(meta, episode.noise)
        for k, data in enumerate(episode.support):
            state = self.step(meta, state, task, data, k)
        return state

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        """L_query(θ_K), a scalar."""
        prediction = self.predict(meta, self.adapted(meta, task, episode), task, episode.query)
        return task.mean(task.losses(prediction, episode.query), episode.query)

    @property
    def idle(self) -> frozenset[str]:
        """The fields that mean nothing as it is, or whose values are given by another: not searched by `bench tune`."""
        return frozenset()

    @property
    def made_of(self) -> tuple[type, ...]:
        """The classes whose source decides what it computes."""
        return (type(self),)

    def candidates(self) -> tuple[Self, ...]:
        """The variants among which the validation tasks choose after training; itself alone by default."""
        return (self,)


class _Run(NamedTuple):
    """One run of a layer."""

    layer: nn.Module
    input: Tensor
    output: Tensor


class _Tried(NamedTuple):
    """What one prediction of a suite's network shows of it."""

    prediction: Tensor
    dropped: int  # how often something was dropped on the way
    last: nn.Module  # the last layer
    finish: Callable[[Tensor], Tensor] | None  # what makes it the prediction of the last layer's output, of FINISHES
    apart: bool  # whether nothing before the last layer depends on that layer's parameters


# Functions of a name, which what is compiled can tell apart.
def _as_it_is(output: Tensor) -> Tensor:
    return output


def _log_softmax(output: Tensor) -> Tensor:
    return torch.log_softmax(output, -1)


FINISHES = (_as_it_is, _log_softmax)


def _first() -> Generator:
    return Generator().manual_seed(0)


def _innermost(layer: nn.Module, layers: list[nn.Module]) -> bool:
    return not any(inner is other for inner in layer.modules() if inner is not layer for other in layers)


def _names(module: nn.Module, layer: nn.Module) -> dict[str, str]:
    """A layer's own parameters: name in the layer -> in `module`; of a tensor that several share, the first."""
    first = {id(p): name for name, p in module.named_parameters()}
    return {name: first[id(p)] for name, p in modules.own(layer)}
