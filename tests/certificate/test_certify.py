"""The certificate passes what is sound and finds faults planted in what is not."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor, nn

from algorithms.cnp import CNP
from algorithms.maml import MAML
from bench.certificate.algorithms import algorithm_checks, certificate, compiled_checks, stages
from bench.certificate.beds import Curved
from bench.certificate.checks import Check
from bench.certificate.suites import suite_checks
from bench.certificate.tasks import task_checks
from bench.core.discovery import Catalogue
from bench.core.gradients import descend
from bench.core.types import Data, Meta, Metric, Params, Prediction, Role, Split, State, Task
from bench.planning.plan import Named, algorithm_of, suite_of
from bench.testing import check_algorithm, check_suite
from suites.glyphs import Glyphs
from suites.parts.fewshot import Labelled
from suites.sinusoid import Points, Sinusoid, Waves
from tests.conftest import ROOT
from tests.probes.prototypes import Prototypes

ALGORITHMS = list(Catalogue().names("algorithm"))


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


CLOSED, MIXED = "quadratic task: (I − αA)ᴷ ∇L(θ_K)", "mixed = reverse"
FLAT, ORDERS = "no curvature: first_order = reverse", "order as claimed: plain central differences"
ENGINES, TRACES = "engines agree: loss and meta-gradient", "engines agree: scores while adapting"
HEAD, LABELS = "labels and head permuted together: change", "labels permuted alone: change"
SURROGATE = "bandit: surrogate = central differences, stop-gradients frozen"
RECORDED = "bandit: recorded episodes evaluated again: change of the loss"
FROZEN, ALONE = "meta-gradient = central differences, stop-gradients frozen", "a task adapted alone = among others"
PADDED = "padding taken away: change of the prediction"
LOOPED, REPLAYED = "bandit: vmap = loop over tasks", "bandit: predicted of recorded episodes = what acted"
AGAIN, ADAPTS = (
    "bandit: the same tasks met again: other bits",
    "bandit: another task's support: change of the prediction",
)
WEIGHED, OTHERS = (
    "bandit: acted by another policy: change of the loss",
    "bandit: a trial changed: change of the others' predictions",
)
CREDITED = "bandit: what a last episode earned: change of the first's credit"
ACTING = (SURROGATE, RECORDED, LOOPED, REPLAYED, AGAIN, ADAPTS, WEIGHED, OTHERS, CREDITED)
SHARED = "noise: the same for every task"
CHANGED = "parameters changed that do not adapt"
UNNAMED = {CHANGED: "n/a: its state has no parameters by name"}
DRAWING = ("mtnet", "anp")  # what draws noise for its tasks
STILL = "n/a: it does not meta-train"
OPERATORLESS = dict.fromkeys((MIXED, FLAT), "n/a: it has no field `gradient`")
PEERLESS = dict.fromkeys((ENGINES, TRACES), "n/a: learn2learn does not have it")
OWN = "n/a: it has no inner step with one rate on the suite's own parameters"
IDLE = dict.fromkeys(ACTING, "n/a: it does not suit control")
FORGETS = dict.fromkeys((OTHERS, CREDITED), "n/a: it has no memory of its own")
STEPLESS = {ADAPTS: "n/a: it takes no inner step"}
NUMBERS = dict.fromkeys((ENGINES, TRACES, HEAD, LABELS), "n/a: it does not suit classification")
BOTH, EITHER = (
    "n/a: it does not suit regression or classification",
    "n/a: it does not suit classification or regression",
)
ONLY_ACTS = (
    dict.fromkeys((ENGINES, TRACES, HEAD, LABELS), "n/a: it does not suit classification")
    | dict.fromkeys((CLOSED, FLAT), "n/a: it does not suit regression")
    | dict.fromkeys(("vmap = loop over tasks", "chunks of tasks = all at once", MIXED), EITHER)
    | {"trace at step 0 = unadapted score": EITHER}
    | dict.fromkeys((FROZEN, ORDERS, ALONE, "inputs modified", "what a task leaves to the next"), BOTH)
    | {"same seed, other bits after 20 iterations": BOTH, "support in another order: change of the prediction": BOTH}
    | {"query targets changed: predictions that change": BOTH}
    | {"a query input changed: change of the other predictions": BOTH}
    | {RECORDED: "n/a: its meta-loss is its own", PADDED: "n/a: it does not suit regression"}
    | {SHARED: BOTH, CHANGED: EITHER}
)
COMPARING = OPERATORLESS | PEERLESS | IDLE | dict.fromkeys((CLOSED, PADDED), "n/a: it does not suit regression")
NAMELESS = "n/a: it does not care what a class is called"
# What says nothing of each, and why; everything else passes.
NOTHING_SAID: dict[str, dict[str, str]] = {
    "maml": FORGETS,
    "fomaml": FORGETS | {CLOSED: "n/a: it claims first order"},
    "metasgd": FORGETS | {CLOSED: OWN},
    "tnet": FORGETS | PEERLESS,
    "anil": FORGETS | PEERLESS,
    "boil": FORGETS | PEERLESS | {CLOSED: "n/a: its inner step is not θ − α ∇L(θ)"},
    "cavia": IDLE | NUMBERS | {CLOSED: OWN, FLAT: "n/a: its network is not the suite's"},
    "reptile": OPERATORLESS | PEERLESS | IDLE | {CLOSED: "n/a: it claims first order"},
    "metacurvature": FORGETS | PEERLESS | {CLOSED: OWN},
    "imaml": OPERATORLESS | PEERLESS | IDLE | {CLOSED: OWN},
    "finetune": FORGETS | STEPLESS | OPERATORLESS | PEERLESS | {CLOSED: OWN},
    "scratch": OPERATORLESS
    | dict.fromkeys((FROZEN, ORDERS, CLOSED, ENGINES, TRACES, HEAD, LABELS, *ACTING), STILL)
    | dict.fromkeys(
        (
            "vmap = loop over tasks",
            "chunks of tasks = all at once",
            "what a task leaves to the next",
            "same seed, other bits after 20 iterations",
        ),
        STILL,
    ),
    "ensemble": PEERLESS | IDLE | {CLOSED: OWN},
    "bmaml": OPERATORLESS | PEERLESS | IDLE | {CLOSED: OWN},
    "oracle": FORGETS | STEPLESS | OPERATORLESS | PEERLESS | {CLOSED: OWN},
    **dict.fromkeys(("protonet", "matching", "simpleshot", "prototypes"), UNNAMED | COMPARING | {LABELS: NAMELESS}),
    "r2d2": UNNAMED | OPERATORLESS | PEERLESS | IDLE | {CLOSED: OWN, LABELS: NAMELESS},
    "baselinepp": UNNAMED | COMPARING,
    "cnp": UNNAMED | OPERATORLESS | IDLE | NUMBERS | {CLOSED: OWN},
    "anp": UNNAMED | OPERATORLESS | IDLE | NUMBERS | {CLOSED: OWN, ALONE: "n/a: its tasks draw noise"},
    "transformer": UNNAMED
    | OPERATORLESS
    | PEERLESS
    | IDLE
    | {CLOSED: OWN, HEAD: "n/a: it does not answer by the suite's head"},
    "mamlpp, at first": PEERLESS | IDLE | {CLOSED: OWN},
    "mamlpp, in the end": PEERLESS | IDLE | {CLOSED: OWN},
    "annealed, at first": FORGETS | PEERLESS | {CLOSED: "n/a: it claims first order"},
    "annealed, in the end": FORGETS | PEERLESS,
    "mtnet": FORGETS
    | PEERLESS
    | {
        CLOSED: OWN,
        ALONE: "n/a: its tasks draw noise",
        HEAD: "n/a: its tasks draw noise, which would have to be permuted too",
    },
    "ftml": OPERATORLESS | PEERLESS | IDLE,
    **dict.fromkeys(("toe", "ftl", "from_scratch"), OPERATORLESS | PEERLESS | IDLE | {CLOSED: OWN}),
    "promp": ONLY_ACTS | FORGETS,
    "rl2": ONLY_ACTS | OPERATORLESS,
}


QUICK = (
    "maml",
    "fomaml",
    "finetune",
    "protonet",
    "cnp",
    "promp",
)  # one of each family; the others take longer together


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NOTHING_SAID])
def test_each_verdict_of_each_algorithm_and_probe_is_as_it_was(name: str) -> None:
    stem, _, stage = name.partition(", ")
    catalogue = Catalogue(() if stem in ALGORITHMS else (probe(stem),))
    found = dict(stages(lambda bed: algorithm_of(catalogue, Named(stem, {}), bed)))
    checks = list(algorithm_checks(found[f", {stage}" if stage else ""]))
    without = {} if stem in DRAWING else {SHARED: "n/a: its tasks draw no noise"}
    assert {check.name: check.verdict for check in checks if check.verdict != "pass"} == without | NOTHING_SAID[name]
    assert len(checks) == 31


def probe(stem: str) -> Path:
    """The file of a probe or of an example."""
    return next(
        path for path in (ROOT / "tests/probes" / f"{stem}.py", ROOT / "examples" / f"{stem}.py") if path.exists()
    )


def test_every_algorithm_has_its_verdicts_pinned() -> None:
    assert set(ALGORITHMS) <= {name.partition(", ")[0] for name in NOTHING_SAID}


@pytest.mark.forms(4)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml", "metasgd"])
@pytest.mark.parametrize("operator", ["reverse", "mixed", "first_order"])
def test_every_operator_is_certified(name: str, operator: str) -> None:
    catalogue = Catalogue()
    named = Named(name, {"gradient": operator, "steps": "3"})
    checks = list(algorithm_checks(lambda bed: algorithm_of(catalogue, named, bed)))
    assert not [check for check in checks if check.verdict == "FAULT"]


CLIPPING = ("maml", "fomaml", "metasgd", "finetune", "anil", "boil", "metacurvature", "ensemble")
CLIPPED = [(name, clip) for clip in ("0.3", "2.0") for name in CLIPPING]  # most entries, few


@pytest.mark.forms(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "clip"), [pytest.param(*case, marks=() if case == CLIPPED[0] else pytest.mark.slow) for case in CLIPPED]
)
def test_a_method_that_clips_its_inner_gradient_is_certified(name: str, clip: str) -> None:
    catalogue = Catalogue(() if name in ALGORITHMS else (probe(name),))
    given = {"inner_clip": clip} | ({"inner_lr": "0.1"} if name == "finetune" else {})
    checks = list(algorithm_checks(lambda bed: algorithm_of(catalogue, Named(name, given), bed)))
    assert not [check for check in checks if check.verdict == "FAULT"]
    if name in ("maml", "metasgd"):
        assert verdicts(checks)["claims second order: plain central differences"] == "pass"
        assert verdicts(checks)["mixed = reverse"] == "pass"
        assert verdicts(checks)["engines agree: loss and meta-gradient"].startswith("n/a")  # learn2learn does not clip


@pytest.mark.forms(1)  # the operators that a method may choose are compiled in tests/learning/engines too
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["fomaml", "metasgd"])
def test_the_compiler_leaves_every_operator_as_it_was(name: str) -> None:
    for check in compiled_checks(lambda bed: algorithm_of(Catalogue(), Named(name, {"steps": "1"}), bed)):
        assert check.verdict == "pass", check


def test_the_whole_certificate_applies_to_maml() -> None:
    catalogue = Catalogue()
    checks = list(algorithm_checks(lambda bed: algorithm_of(catalogue, Named("maml", {}), bed)))
    saying_nothing = {check.name for check in checks if check.verdict != "pass"}
    assert saying_nothing == {SHARED, *FORGETS}


@pytest.mark.parametrize(
    "name",
    [
        *("glyphs", "sinusoid", "sinusoid_freq", "sinusoid_freq[family=bmaml]", "glyphs[net=fc]", "tabular"),
        "sinusoid_stream",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("tabular[goal=regression]", "glyphs[queries=dirichlet]", "stream")
        ),
    ],
)
def test_every_suite_that_needs_no_download_is_certified(name: str) -> None:
    stem, _, rest = name.partition("[")
    given = dict([rest.rstrip("]").split("=")]) if rest else {}
    check_suite(suite_of(Catalogue(), Named(stem, given)))


@dataclass(frozen=True, kw_only=True)
class Posing(MAML):
    """First order, though it claims second."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        slopes = torch.func.grad(lambda p: task.loss(p, data))(state)
        return descend(state, {name: g.detach() for name, g in slopes.items()}, self.inner_lr)


@dataclass(frozen=True, kw_only=True)
class Leaking(MAML):
    """Starts where the last task ended."""

    last: ClassVar[list[Params]] = []

    def start(self, meta: Params, noise: Data) -> Params:
        return self.last[-1] if self.last else meta

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        adapted = super().step(meta, state, task, data, k)
        if not any(torch._C._functorch.is_functorch_wrapped_tensor(p) for p in adapted.values()):
            self.last.append({name: p.detach() for name, p in adapted.items()})
        return adapted


@dataclass(frozen=True, kw_only=True)
class Overwriting(MAML):
    """Adapts the meta-learned parameters in place."""

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        adapted = super().step(meta, state, task, data, k)
        with torch.no_grad():
            for name, p in state.items():
                p.add_(0.01 * torch.ones_like(p)) if name else None
        return adapted


@dataclass(frozen=True, kw_only=True)
class WrongBatch(Glyphs):
    """Says inductive, and normalises the query by its own statistics."""

    def predict(self, params: Params, data: Labelled) -> Tensor:
        return nn.functional.log_softmax(self.call(params, data.images)[-len(data.labels) :], -1)


def faults_of(algorithm: type[MAML]) -> set[str]:
    def make(bed: object) -> MAML:
        return algorithm(inner_lr=0.1, steps=2, outer_lr=0.01, meta_batch=4)

    return {check.name for check in algorithm_checks(make) if check.verdict == "FAULT"}


@pytest.mark.slow
def test_first_order_posing_as_second_is_found() -> None:
    found = faults_of(Posing)
    assert "claims second order: plain central differences" in found
    assert "quadratic task: (I − αA)ᴷ ∇L(θ_K)" in found


def test_an_adapted_weight_that_leaks_into_the_next_task_is_found() -> None:
    found = faults_of(Leaking)
    Leaking.last.clear()
    assert "what a task leaves to the next" in found


def test_a_learner_that_changes_its_input_is_found() -> None:
    assert "inputs modified" in faults_of(Overwriting)


@dataclass(frozen=True, kw_only=True)
class Peeping(Prototypes):
    """Its prototypes see the query's labels."""

    def predict(self, meta: Params, state: State, task: Task, data: Data) -> Prediction:
        return super().predict(meta, self.step(meta, state, task, data, 0), task, data)


@dataclass(frozen=True, kw_only=True)
class Eavesdropping(CNP):
    """What it predicts for a query depends on the other queries."""

    def predict(self, meta: Meta, state: Tensor, task: Task, data: Data) -> Prediction:
        return super().predict(meta, state + 0.01 * task.inputs(data).mean(), task, data)


@dataclass(frozen=True, kw_only=True)
class Sorting(CNP):
    """Weighs the support by its order, and does not say so."""

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        rising = torch.arange(1, len(data.x) + 1).unsqueeze(-1) / 10
        return super().step(meta, state, task, data._replace(x=rising * data.x), k)


@dataclass(frozen=True, kw_only=True)
class Saying(Sorting):
    """The same, but says so."""

    order_matters: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("learner", "fault"),
    [
        (Peeping, "query targets changed: predictions that change"),
        (Eavesdropping, "a query input changed: change of the other predictions"),
        (Sorting, "support in another order: change of the prediction"),
    ],
)
def test_a_learner_that_uses_what_it_must_not_is_found(learner: Any, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_algorithm(learner)


def test_a_learner_that_says_that_order_matters_is_not_held_to_it() -> None:
    assert verdicts(check_algorithm(Saying))["support in another order: change of the prediction"].startswith("n/a")


@dataclass(frozen=True, kw_only=True)
class Flattering(Sinusoid):
    """Its floor is that of somebody worse than who knows nothing."""

    @property
    def floor(self) -> float:
        return 2 * super().floor


@dataclass(frozen=True, kw_only=True)
class Reversed(Sinusoid):
    """Says that more error is better."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("mse", "", "higher"),)


@dataclass(frozen=True, kw_only=True)
class Telling(Sinusoid):
    """Its oracle meets other tasks."""

    def oracle_view(self) -> "Sinusoid":
        return dataclasses.replace(self, view="oracle", shots=self.shots + 1)


@dataclass(frozen=True, kw_only=True)
class Shifted(Sinusoid):
    """A floor that is sound, though zeros do not reach it: all targets are about 10."""

    def look_up(self, tasks: Waves, role: Role) -> Points:
        points = super().look_up(tasks, role)
        return points._replace(y=points.y + 10)


@pytest.mark.parametrize(
    ("suite", "fault"), [(Flattering, "floor"), (Reversed, "better"), (Telling, "oracle_view"), (Shifted, "")]
)
def test_what_a_suite_says_of_its_scores_is_held_to_the_scores(suite: type[Sinusoid], fault: str) -> None:
    found = [check.name for check in suite_checks(suite(), "said") if check.verdict == "FAULT"]
    assert [name.startswith(fault) for name in found] == [True] * bool(fault)


@dataclass(frozen=True, kw_only=True)
class Careless(Sinusoid):
    """Pads its tasks and counts the padding."""

    def mean(self, losses: Tensor, data: Data) -> Tensor:
        return losses.mean()


@dataclass(frozen=True, kw_only=True)
class Unmasked(Sinusoid):
    """Leaves padding out of its losses and not of its scores."""

    def score(self, prediction: Tensor, data: Points) -> dict[str, Tensor]:
        return {"mse": self.losses(prediction, data).mean()}


PADDING = "padding filled with noise: change of losses, gradients and scores"


@pytest.mark.parametrize(("suite", "verdict"), [(Sinusoid, "pass"), (Careless, "FAULT"), (Unmasked, "FAULT")])
def test_padding_that_matters_is_found(suite: type[Sinusoid], verdict: str) -> None:
    found = verdicts(list(suite_checks(suite(shots="2-6"), "ragged")))
    assert found.pop(PADDING) == verdict
    assert "FAULT" not in found.values()


def test_suites_whose_tasks_are_all_of_one_size_have_no_padding_to_check() -> None:
    assert verdicts(list(suite_checks(Sinusoid(), "sinusoid")))[PADDING] == "n/a: its tasks do not differ in size"


def test_batch_statistics_from_the_wrong_set_are_found() -> None:
    found = {check.name for check in suite_checks(WrongBatch(norm="inductive"), "wrong") if check.verdict == "FAULT"}
    assert "inductive: other predictions when one query changes" in found


@dataclass(frozen=True, kw_only=True)
class Peeking(Glyphs):
    """Draws a class of the test split in training now and then."""

    def drawn(self, count: int, split: Split, generator: Generator) -> Any:
        tasks = super().drawn(count, split, generator)
        if split == "train":
            tasks.classes[0, 0] = self.classes_of("test")[0]
        return tasks


@dataclass(frozen=True, kw_only=True)
class Fickle(Sinusoid):
    """Looks the same task up with other noise each time."""

    def look_up(self, tasks: Waves, role: Role) -> Points:
        points = super().look_up(tasks, role)
        return points._replace(y=points.y + 1e-3 * torch.rand(points.y.shape))


@dataclass(frozen=True, kw_only=True)
class Neighbourly(Sinusoid):
    """A task's labels depend on which tasks come along."""

    def look_up(self, tasks: Waves, role: Role) -> Points:
        points = super().look_up(tasks, role)
        return points._replace(y=points.y - 1e-3 * points.y.mean())


@dataclass(frozen=True, kw_only=True)
class Holed(Sinusoid):
    """Has a label that is no number."""

    def look_up(self, tasks: Waves, role: Role) -> Points:
        points = super().look_up(tasks, role)
        points.y[3, 0] = torch.nan
        return points


@dataclass(frozen=True, kw_only=True)
class Uncounted(Glyphs):
    """Numbers its classes from 1."""

    def look_up(self, tasks: Any, role: Role) -> Labelled:
        data = super().look_up(tasks, role)
        return data._replace(labels=data.labels + 1)


@dataclass(frozen=True, kw_only=True)
class Growing(Sinusoid):
    """Shows one more input at test."""

    def sample(self, count: int, split: Split, generator: Generator) -> Waves:
        tasks = super().sample(count, split, generator)
        return tasks if split != "test" else tasks._replace(query=tasks.query.repeat(1, 1, 2))


HASHING = """
from dataclasses import dataclass

from suites.sinusoid import Sinusoid


@dataclass(frozen=True, kw_only=True)
class Hashing(Sinusoid):
    \"\"\"Its frozen tasks go by the hash of a string, which is another in each process.\"\"\"

    def sample(self, count, split, generator):
        tasks = super().sample(count, split, generator)
        return tasks._replace(amplitude=tasks.amplitude + WHAT)
"""


@dataclass(frozen=True, kw_only=True)
class Greedy(Sinusoid):
    """Takes 120 MB for a look-up."""

    def look_up(self, tasks: Waves, role: Role) -> Points:
        points = super().look_up(tasks, role)
        return points._replace(x=points.x + 0 * torch.ones(30_000_000).sum())


HASHES, LOST = "frozen tasks drawn in another process: other hashes", "data that are no numbers (NaN, infinite)"
OF_OTHERS = "classes of other splits among the tasks drawn"
SECOND = "the same tasks looked up again, alone and after others: change"
BEYOND = "classes beyond the network's outputs, and splits of other shapes"
GREED = "GB of memory to draw and look up 8 tasks of each split"


@pytest.mark.parametrize(
    ("suite", "fault"),
    [
        *((Peeking, OF_OTHERS), (Fickle, SECOND), (Neighbourly, SECOND), (Holed, LOST), (Uncounted, BEYOND)),
        *((Growing, BEYOND), (Greedy, GREED), (Sinusoid, ""), (Glyphs, "")),
    ],
)
def test_a_fault_of_tasks_is_found_by_its_own_check(
    suite: type[Any], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.certificate.tasks.MOST", 0.06)
    found = [check.name for check in task_checks(suite(), suite.__name__.lower()) if check.verdict == "FAULT"]
    assert (fault in found) if fault else found == []


def test_suites_are_certified_by_name_with_parameters() -> None:
    groups = dict(certificate("sinusoid[shots=3],images"))
    assert list(groups) == ["sinusoid[shots=3] (suite)", "images (suite)"]
    assert verdicts(groups["sinusoid[shots=3] (suite)"])[HASHES] == "pass"
    [said] = groups["images (suite)"]
    assert (said.verdict, "no folder was given" in said.name) == ("n/a", True)


@pytest.mark.parametrize(
    ("what", "verdict"), [("hash('a string') % 1000", "FAULT"), ("1", "pass"), ("1 / (hash('x') == 0)", "FAULT")]
)
def test_tasks_that_another_process_draws_otherwise_are_found(tmp_path: Path, what: str, verdict: str) -> None:
    (tmp_path / "hashing.py").write_text(HASHING.replace("WHAT", what))
    suite = suite_of(Catalogue((tmp_path / "hashing.py",)), Named("hashing", {}))
    [found] = [check for check in task_checks(suite, "hashing") if check.name == HASHES]
    assert found.verdict == verdict


def test_what_the_other_process_cannot_find_is_no_fault() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Local(Sinusoid):
        pass

    found = verdicts(list(task_checks(Local(), "local")))
    assert found[HASHES] == "n/a: its class stands within a function, where no other process finds it"


def test_check_algorithm_names_the_faults() -> None:
    with pytest.raises(AssertionError, match="claims second order"):
        check_algorithm(Posing)


@pytest.mark.slow
def test_a_check_that_does_not_apply_never_passes() -> None:
    maml = MAML(inner_lr=0.1, steps=2, outer_lr=0.01, meta_batch=4)
    first = dataclasses.replace(maml, gradient="first_order")
    checks = verdicts(list(algorithm_checks(lambda bed: first)))
    assert checks["quadratic task: (I − αA)ᴷ ∇L(θ_K)"].startswith("n/a")
    assert Curved().sample(2, "train", torch.Generator().manual_seed(0)).support.x.shape == (2, 5, 1)
