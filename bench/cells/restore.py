"""What a finished cell had come to, from its record and checkpoint: to be looked at, drawn and filmed."""

from dataclasses import replace

from bench.core import seeds
from bench.core.discovery import Catalogue, Named
from bench.core.errors import BenchError, unknown
from bench.core.records import Component, Record
from bench.core.types import Learner, Meta, Suite
from bench.learning.train import Training
from bench.planning.plan import algorithm_of, suite_of, view
from bench.storage.store import Store
from reports.frame import label


def finished(store: Store, suite: str | None, algorithm: str | None) -> Record:
    """The finished cell of the least seed, by the names or labels of its suite and its algorithm.

    Raises:
        BenchError: there is none, or a name is left open where the run directory holds several.
    """
    done = sorted((r for r in store.records() if r.outcome == "finished"), key=lambda record: record.spec.seed)
    if not done:
        raise BenchError(f"{store.root} holds no finished cell. `bench run --out {store.root} ...` makes some.")
    for kind, option, asked in (("suite", "--suite", suite), ("algorithm", "--algo", algorithm)):
        labels = list(dict.fromkeys(label(getattr(record.spec, kind)) for record in done))
        if asked is None and len(labels) > 1:
            raise BenchError(f"{store.root} holds several {kind}s. Name one with {option}: {', '.join(labels)}.")
        if asked is not None:
            known = [r for r in done if asked in (label(getattr(r.spec, kind)), getattr(r.spec, kind).name)]
            if not known:
                raise unknown(f"{kind} in this run directory", asked, labels)
            done = known
    return done[0]


def trained(store: Store, record: Record, catalogue: Catalogue) -> tuple[Suite, Learner, Meta]:
    """What a cell was trained on, its learner, and all that was meta-learned, as selected.

    Raises:
        BenchError: the suite or the algorithm is not at hand.
        OSError: it has no checkpoint.
    """
    spec = record.spec
    suite = suite_of(catalogue, _named(spec.suite))
    algorithm = algorithm_of(catalogue, _named(spec.algorithm), suite)
    seen = view(suite, algorithm.train_view, spec.algorithm.name, catalogue)
    like = algorithm.init(seen.new_params, seeds.generator(spec.seed, "init"))
    if not algorithm.trains:
        return seen, algorithm, like
    state = Training.load((store.folder(record.cell) / "checkpoint.safetensors").read_bytes(), like)
    best = spec.selection == "best" and state.best is not None
    return seen, algorithm, state.best if best else state.meta


def tested(store: Store, record: Record, catalogue: Catalogue) -> tuple[Suite, Learner, Meta]:
    """What a cell was tested on, the learner that was chosen for it, and all that it was tested with.

    Raises:
        BenchError, OSError: as `trained`.
    """
    _, algorithm, meta = trained(store, record, catalogue)
    asked = suite_of(catalogue, _named(record.spec.suite))
    suite = view(asked, algorithm.test_view, record.spec.algorithm.name, catalogue)
    if algorithm.train_view == "pretraining":
        meta = suite.replace_head(meta, seeds.generator(record.spec.seed, "head"))
    return suite.evaluations[0], replace(algorithm, **record.selected), meta


def _named(component: Component) -> Named:
    return Named(component.name, {name: value for name, value in component.parameters.items() if value is not None})
