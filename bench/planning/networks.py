"""Whether a network can be trained here, and how: tried on two tasks before anything is planned with it.

What vmap cannot take goes task by task; what cannot be differentiated, draws behind our back or keeps a state of its
own is refused, with the layer's name.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from bench.core import modules, seeds
from bench.core.errors import BenchError, PluginError, told
from bench.core.trees import double, named_leaves, part, raw, tree_leaves, tree_map
from bench.core.types import Interactive, Learner, Suite
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from bench.learning.evaluate import trace
from bench.learning.objective import objective
from bench.learning.training import begun
from bench.planning.culprit import alike, culprit, differentiated, vectorised, without_drawing

OURS = ("algorithms", "suites")  # packages whose networks are tried by their tests


def why_by_task(suite: Suite, algorithm: Learner) -> str:
    """Why tasks must be computed one after the other, "" where they need not.

    Args:
        suite: as the algorithm is trained on it.
        algorithm: that is to meet it.

    Raises:
        PluginError: a layer cannot be trained at all.
    """
    refuse(suite)
    if _ours(suite, algorithm) or not algorithm.trains:
        return ""
    if isinstance(suite, Interactive) and suite.plain:  # acting takes its time, and there is nothing to be found
        return ""
    try:
        trial = _Trial(suite, algorithm)
    except (BenchError, KeyboardInterrupt):
        raise
    except BaseException:  # of a stranger's code: the cell tells of it, and the others go on
        return ""
    try:
        trial.run(by_task=False)
    except (BenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(suite, Interactive):
            return _refused(suite, error)
        reason = f"vmap cannot take {culprit(suite, vectorised) or 'what is computed'}: {_short(error)}"
    else:
        if isinstance(suite, Interactive) or not trial.differs():
            return ""
        where = culprit(suite, vectorised) or "what is computed"
        reason = f"vmap computes another meta-gradient than one task after the other, in {where}"
    try:
        trial.run(by_task=True)
    except (BenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        return _refused(suite, error)
    return reason


def refuse(suite: Suite) -> None:
    """Refuses a network that the suite's tasks cannot be learned with.

    Raises:
        PluginError: running statistics are wanted of layers that keep none, actions depend on what is drawn or on a
            batch, or the network is another whenever it is built.
    """
    layers = modules.batch_norms(suite.skeleton)
    if isinstance(suite, Interactive) and layers:
        raise PluginError(
            f"the layer {next(iter(layers))!r} normalises by the batch, of which a policy has another when it "
            "acts than when it learns. Use LayerNorm or GroupNorm."
        )
    if isinstance(suite, Interactive) and suite.draws:
        raise PluginError(
            "the network drops at random, so that what acts is not what learns. Take dropout out of the policy."
        )
    untracked = [name for name, tracks in layers.items() if not tracks]
    if suite.norm == "inductive" and untracked:
        raise PluginError(
            f"norm = 'inductive' wants running statistics, and the layer {untracked[0]!r} keeps none. Build it with "
            "track_running_stats=True, or declare norm = 'transductive'."
        )
    drawn = ""
    if not _ours(suite):
        with contextlib.suppress(Exception, SystemExit):  # of a stranger's code, of which whoever needs it tells
            drawn = _drawn(suite)
    if drawn:
        raise PluginError(drawn)


def _ours(*some: object) -> bool:
    return all(type(one).__module__.partition(".")[0] in OURS for one in some)


def _drawn(suite: Suite) -> str:
    """What of the network is drawn such that no seed gives it again, or no checkpoint holds it; "" if nothing is."""
    params, again = (suite.new_params(seeds.generator("trial")) for _ in range(2))
    if anew := _other(params, again):
        return (
            f"{anew!r} has other values whenever the network is built from one seed, so that no run could be "
            "repeated. Draw it in module() by torch's global generator, which the cell seeds there (torch.randn, "
            "nn.init), or by a generator that is seeded there, such as numpy's default_rng(0)."
        )
    data, built = suite.example("query"), [_built(suite, seed) for seed in range(2)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = []
        for one in built:
            torch.manual_seed(0)  # what is drawn while it runs is another fault
            found.append(tree_leaves(one.predict(params, data)))
    if alike(*found):
        return ""
    return (
        f"the network predicts otherwise whenever it is built, by the same parameters and buffers: {_beside(*built)} "
        "is drawn in module() that is neither, so that no checkpoint holds it. Keep it by self.register_buffer."
    )


def _other(one: Any, again: Any) -> str:
    """The name of the first leaf of which another tree of the same form has other values; "" if none has."""
    pairs = zip(named_leaves(one), tree_leaves(again), strict=True)
    return next((name.strip("/") for (name, old), new in pairs if raw(old) != raw(new)), "")


def _built(suite: Suite, seed: int) -> Suite:
    """The suite with a network that is built anew, from a seed."""
    other = replace(suite)  # type: ignore[type-var]  # every suite is a dataclass
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vars(other)["skeleton"] = modules.prepared(suite.module())
    return other


def _beside(one: Suite, other: Suite) -> str:
    """Which attribute of a layer differs, that is no parameter and no buffer."""
    pairs = zip(one.skeleton.named_modules(), other.skeleton.modules(), strict=False)
    for (name, layer), same in pairs:
        for key, value in vars(layer).items():
            found = vars(same).get(key)
            if isinstance(value, (Tensor, float)) and not torch.equal(*map(torch.as_tensor, (value, found))):
                return repr(f"{name}.{key}".lstrip("."))
    return "something"


@contextlib.contextmanager
def _replaced(suite: Suite) -> Iterator[list[str]]:
    """The names of the network's buffers in whose place it puts other tensors meanwhile, as it runs."""
    before: dict[str, Tensor] = {}
    found: list[str] = []

    def note(net: nn.Module, *_: Any) -> None:
        before.update(net.named_buffers())

    def compare(net: nn.Module, *_: Any) -> None:
        found.extend(name for name, buffer in net.named_buffers() if buffer is not before.get(name, buffer))

    handles = [suite.skeleton.register_forward_pre_hook(note), suite.skeleton.register_forward_hook(compare)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class _Trial:
    """A meta-gradient and scores of two tasks."""

    def __init__(self, suite: Suite, algorithm: Learner) -> None:
        self.suite, self.algorithm = suite, replace(algorithm, meta_batch=2)
        self.meta, again = (begun(algorithm, suite, seeds.generator("trial")) for _ in range(2))
        if anew := _other(self.meta, again):
            raise PluginError(
                f"the learner begins with other values of {anew!r} whenever its init is given the same generator, so "
                "that no run could be repeated. Draw them by that generator."
            )

    def run(self, *, by_task: bool) -> None:
        """Computes them.

        Raises:
            PluginError: the network has drawn random numbers, or changed its own values.
            Exception: whatever cannot be computed.
        """
        before, drawn = tree_map(torch.clone, self.meta), torch.get_rng_state()
        with torch.random.fork_rng(devices=[]), _replaced(self.suite) as replaced:
            self._gradient(lambda x: x, by_task=by_task)
            if not isinstance(self.suite, Interactive):
                tasks = self.suite.sample(2, "validation", seeds.generator("trial"))
                kept = modules.statistics(self.suite.skeleton)
                trace(self.suite, self.algorithm, self.meta, tasks, 1, kept=kept, by_task=by_task)
            moved = not torch.equal(drawn, torch.get_rng_state())
        if unlearned := self._unlearned():
            raise PluginError(
                f"{unlearned!r} is a complex number, which no outer rule here moves, so that it would stay as it is "
                "drawn. Hold its two parts as real numbers, torch.view_as_real, and make it complex where it is used."
            )
        if moved:
            raise PluginError(
                f"{culprit(self.suite, without_drawing) or 'the learner'} draws from torch's global generator, so "
                "that no run could be repeated or resumed. Use nn.Dropout, whose draws are the cell's, or noise of a "
                "learner."
            )
        if changed := _other(before, self.meta) or next(iter(replaced), ""):
            raise PluginError(
                f"the network changes {changed!r} whenever it is run: a state of its own, which no "
                "learner can hold. Take it out, or compute it from the input."
            )

    def _unlearned(self) -> str:
        """The complex number of Meta that the loss depends on, if there is one; constants of a network are none."""
        named = named_leaves(self.meta)
        found = {name: leaf.requires_grad_() for name, leaf in named if leaf.is_complex()}
        if not found:
            return ""
        batch = next(episodes(self.suite, self.algorithm, lambda: self.meta, 0, 0))
        try:
            loss = objective(self.suite, self.algorithm)(self.meta, part(batch, 0))
            slopes = torch.autograd.grad(loss, list(found.values()), allow_unused=True) if loss.requires_grad else []
        finally:
            for leaf in found.values():
                leaf.requires_grad_(False)
        return next((name.strip("/") for name, slope in zip(found, slopes, strict=False) if slope is not None), "")

    def differs(self) -> bool:
        """Whether vmap gives another meta-gradient than one task after the other, in float64 where that can be."""
        for cast in (double, lambda tree: tree):
            with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]):
                one, other = (self._gradient(cast, by_task=by_task) for by_task in (False, True))
                return not alike(one, other)
        return False

    def _gradient(self, cast: Callable[[Any], Any], *, by_task: bool) -> list[Tensor]:
        meta = cast(self.meta)
        batch = cast(next(episodes(self.suite, self.algorithm, lambda: self.meta, 0, 0)))
        return tree_leaves(meta_gradient(self.suite, self.algorithm, by_task=by_task)(meta, batch))


def _refused(suite: Suite, error: BaseException) -> str:
    """Refuses a network that can't be trained; "" where the fault is not the network's, of which the cell will tell.

    Raises:
        PluginError: a layer fails on its own.
    """
    layer = culprit(suite, differentiated)
    if not layer:
        return ""
    raise PluginError(
        f"{layer} cannot be trained: {_short(error)}. A meta-gradient takes it twice differentiated, and its "
        "values from outside. Replace it with layers of torch.nn, or write it with operations that have both."
    ) from error


def _short(error: BaseException) -> str:
    return shorten(told(error), 200, placeholder=" ...").rstrip(".")
