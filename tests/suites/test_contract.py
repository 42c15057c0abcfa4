"""What every suite tells a learner of its tasks is true of its network and its data, whatever its parameters."""

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core import seeds
from bench.core.discovery import Catalogue, Named, parse
from bench.core.errors import BenchError, MissingExtraError
from bench.core.records import Spec
from bench.core.stream import Stream
from bench.core.task import SuiteTask
from bench.core.types import Data, Interactive, Params, Role, Suite
from bench.planning.plan import Request, plan, planned, suite_of
from suites.gp import GP
from suites.parts.labelled import Classification
from suites.parts.policies import Gaussian
from suites.parts.streams import StreamOf
from suites.sinusoid import Points, Sinusoid
from suites.tabular import Tabular

pytestmark = pytest.mark.slow
CATALOGUE = Catalogue()
SMALL = {"queries": "2", "trajectories": "2", "ways": "3"}  # of those who have such a field


def given(name: str) -> list[str]:
    """A suite as it is, and with each other network, layer and norm that it takes."""
    fields = {field.name: field for field in dataclasses.fields(CATALOGUE.load("suite", name))}
    others = ["net=conv4-64", "norm=inductive"] if "net" in fields else []
    others += ["net=resnet12"] if name == "glyphs" else []
    others += ["net=fc"] if name in ("glyphs", "omniglot") else []
    others += ["hidden=5,7"] if "hidden" in fields else []
    others += ["goal=regression"] if "goal" in fields else []
    others += ["kernel=sawtooth"] if "kernel" in fields else []
    others += ["shots=2-6"] if issubclass(CATALOGUE.load("suite", name), Sinusoid) else []
    small = [f"{key}={value}" for key, value in SMALL.items() if key in fields]
    return [f"{name}[{','.join([*small, *other])}]" for other in ([], *([o] for o in others))]


CHOICES = [text for name in CATALOGUE.names("suite") for text in given(name)]


@cache
def made(text: str) -> Suite:
    """The suite, with random data in place of those that have to be at hand."""
    try:
        return suite_of(CATALOGUE, parse(text)[0]).stand_in()
    except MissingExtraError as error:
        pytest.skip(f"needs an extra: {error}")


def kind_of(suite: Suite) -> str:
    """By what it is, whatever it says."""
    suite = suite.base if isinstance(suite, StreamOf) else suite
    if isinstance(suite, Tabular):
        return suite.goal
    classes = isinstance(suite, Classification)
    return "control" if isinstance(suite, Interactive) else "classification" if classes else "regression"


def test_every_suite_is_tried_and_with_more_layers_wherever_it_has_some() -> None:
    assert {parse(text)[0].name for text in CHOICES} == set(CATALOGUE.names("suite"))
    stacked = {parse(text)[0].name for text in CHOICES if "hidden=" in text}
    pictured = {parse(text)[0].name for text in CHOICES if "net=" in text}
    streams = {name for name in CATALOGUE.names("suite") if issubclass(CATALOGUE.load("suite", name), Stream)}
    assert stacked | pictured | streams == set(CATALOGUE.names("suite"))


def test_every_suite_has_the_budgets_that_are_named_none_below_the_one_before() -> None:
    for name, cls in Catalogue().classes("suite").items():
        assert list(cls.presets) == ["smoke", "quick", "standard", "paper"], name
        iterations = [budget.iterations for budget in cls.presets.values()]
        assert iterations == sorted(iterations), name


@pytest.mark.parametrize("role", ["support", "query"])
@pytest.mark.parametrize("text", CHOICES)
def test_inputs_and_targets_are_as_many_as_there_are_examples(text: str, role: Role) -> None:
    suite = made(text)
    task = SuiteTask(suite)
    data = task.example(role)
    x = task.inputs(data)
    assert task.kind == suite.kind == kind_of(suite)
    if isinstance(suite, Interactive):
        assert torch.equal(x, data.observations)
        assert x.shape[:2] == data.rewards.shape
        with pytest.raises(BenchError, match="are acted in"):
            task.targets(data)
        return
    y, mask = task.targets(data), task.mask(data)
    assert len(x) == len(y) == (len(x) if mask is None else len(mask))
    assert (mask is not None) == (role == "support" and ("shots=2-6" in text or isinstance(suite, GP)))
    if task.kind == "regression":
        assert y.shape == (len(x), task.outputs)
        assert y.is_floating_point()
    else:
        assert y.shape == (len(x),)
        assert y.dtype == torch.int64
        classes = y.unique().tolist()
        assert classes == list(range(task.outputs)) or (isinstance(suite, Stream) and set(classes) < {*range(10)})


@pytest.mark.parametrize("text", CHOICES)
def test_features_under_the_head_give_the_prediction(text: str) -> None:
    suite = made(text)
    task = SuiteTask(suite)
    data, params = task.example("query"), task.new_params(seeds.generator(0))
    with torch.no_grad():
        prediction, features = task.predict(params, data), task.features(params, data)
    assert isinstance(prediction, Tensor)
    x = task.inputs(data)
    examples = x.shape[:2] if task.kind == "control" else x.shape[:1]
    assert prediction.shape == (*examples, task.outputs)
    assert features.shape[:-1] == examples

    shaped = {len(params[name].shape): params[name] for name in task.head}
    assert task.head <= set(params)
    assert set(shaped) == {1, 2}  # a weight and a shift
    # Of a Gaussian policy the head gives the means; the deviations are parameters that depend on nothing.
    answers = task.outputs // 2 if isinstance(suite.skeleton, Gaussian) else task.outputs
    assert shaped[2].shape == (answers, features.shape[-1])
    assert shaped[1].shape == (answers,)
    answered = functional.linear(features, shaped[2], shaped[1])
    if task.kind == "classification":
        answered = torch.log_softmax(answered, -1)
    torch.testing.assert_close(prediction[..., :answers], answered)
    torch.testing.assert_close(prediction, task.answer(params, features))


@pytest.mark.parametrize("role", ["support", "query"])
@pytest.mark.parametrize("text", CHOICES)
def test_a_loss_is_the_mean_of_one_per_example_and_there_is_a_score_per_metric(text: str, role: Role) -> None:
    suite = made(text)
    task = SuiteTask(suite)
    data, params = task.example(role), task.new_params(seeds.generator(0))
    with torch.no_grad():
        prediction = task.predict(params, data)
        losses, scores = task.losses(prediction, data), task.score(prediction, data)
        mask = task.mask(data)
        kept = losses if mask is None else losses[mask]
        torch.testing.assert_close(task.loss(params, data), kept.mean())
    x = task.inputs(data)
    assert losses.shape == ((x.shape[0] * x.shape[1],) if task.kind == "control" else (len(x),))
    assert set(scores) == {metric.name for metric in suite.metrics}
    for metric in suite.metrics:
        assert scores[metric.name].dim() == 0
        assert metric.low <= scores[metric.name].item() <= metric.high


@pytest.mark.parametrize("text", [text for text in CHOICES if "hidden=" in text])
def test_layers_are_as_wide_as_they_are_asked_to_be(text: str) -> None:
    suite = made(text)
    widths = [p.shape for p in suite.skeleton.parameters() if p.dim() == 2]
    (first, _), (second, between), (_, last) = widths
    assert (first, between, second, last) == (5, 5, 7, 7)


@pytest.mark.parametrize(
    "text", ["sinusoid[hidden=5,7]", "sinusoid[shots=1-20]", "bandit[hidden=5]", "glyphs[net=resnet12]"]
)
def test_a_suite_comes_back_from_its_specification_as_it_was(text: str) -> None:
    cell = plan(Request(suites=text, algos="scratch", preset="smoke", engine="eager", threads=1))[0]
    spec = Spec.model_validate_json(cell.spec.model_dump_json())
    again = planned(spec, CATALOGUE)
    assert (spec, spec.id, again.suite) == (cell.spec, cell.id, cell.suite)
    assert spec.suite.label == text
    assert [str(named) for named in parse(spec.suite.label)] == [text]
    assert parse(str(Named(spec.suite.name, spec.suite.parameters)))[0].name == spec.suite.name


def test_layers_as_the_protocol_has_them_are_the_same_cell_typed_or_not() -> None:
    texts = ["sinusoid", "sinusoid[hidden=40,40]", "sinusoid_freq[family=bmaml]"]
    texts += ["sinusoid_freq[family=bmaml,hidden=40,40,40]", "sinusoid[hidden=40,41]"]
    ids = [plan(Request(suites=text, algos="maml", preset="smoke", engine="eager", threads=1))[0].id for text in texts]
    assert (ids[0], ids[2]) == (ids[1], ids[3])
    assert len(set(ids)) == 3


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Sinusoid):
    """Predicts without the network's last layer."""

    def predict(self, params: Params, data: Points) -> Tensor:
        return torch.zeros_like(data.y)


@dataclass(frozen=True, kw_only=True)
class Unlearnable(Sinusoid):
    """Its network has no parameters."""

    def module(self) -> nn.Module:
        return nn.Identity()

    def predict(self, params: Params, data: Points) -> Tensor:
        return torch.zeros_like(data.y)


@dataclass(frozen=True, kw_only=True)
class Bare(Sinusoid):
    """Its data are one tensor."""

    def look_up(self, tasks: Any, role: Role) -> Any:
        return super().look_up(tasks, role).y

    def predict(self, params: Params, data: Data) -> Tensor:
        return self.call(params, data)


@pytest.mark.parametrize(
    ("suite", "what", "said"),
    [
        (Elsewhere(), "features", r"Elsewhere does not run the last layer .*layers\.2\.bias.*features\(params, data\)"),
        (Unlearnable(), "features", r"Unlearnable does not run the last layer .*features\(params, data\) must be"),
        (
            Elsewhere(),
            "answer",
            r"predict of Elsewhere gives is neither the output .* answer\(params, features\) must",
        ),
        (Bare(), "inputs", r"Bare's data are one tensor, so that inputs\(data\) and targets\(data\) must be defined"),
        (Bare(), "targets", r"Bare's data are one tensor"),
    ],
)
def test_what_a_suite_lacks_it_says(suite: Suite, what: str, said: str) -> None:
    task = SuiteTask(suite)
    data, params = task.example("query"), task.new_params(seeds.generator(0))
    with pytest.raises(BenchError, match=said):
        getattr(task, what)(*([params] if what in ("features", "answer") else []), data)


def test_a_network_without_parameters_has_no_head() -> None:
    assert SuiteTask(Unlearnable()).head == frozenset()
