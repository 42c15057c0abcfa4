"""What a learner of one suite is scored on in another domain: same inputs, other tasks."""

from torch import Tensor

from bench.core.stream import Stream
from bench.core.trees import tree_leaves
from bench.core.types import Interactive, Suite


def pairs(tested: Suite, domain: Suite) -> list[tuple[Suite, Suite]]:
    """Each of the domain's evaluations, after that of the suite's which sees as much of a query and so predicts there.

    None for one of which the suite has no like.
    """
    alike: dict[str, Suite] = {}
    for own in tested.evaluations:
        alike.setdefault(own.norm, own)
    return [(alike[other.norm], other) for other in domain.evaluations if other.norm in alike]


def misfit(tested: Suite, domain: Suite) -> str:
    """What keeps a learner of one suite from another's tasks, in words; "" where nothing does."""
    one, other = tested.stand_in(), domain.stand_in()
    if isinstance(one, Stream) or isinstance(other, Stream):
        return "the scores of a stream are those of its own rounds"
    if one.kind != other.kind:
        return f"its tasks are {other.kind}, not {one.kind}"
    if (theirs := other.metrics[0]) != (ours := one.metrics[0]):
        return f"it is judged by {theirs.name} {theirs.unit}".rstrip() + f", not by {ours.name} {ours.unit}".rstrip()
    if isinstance(one, Interactive):
        sizes = [{name: p.shape for name, p in suite.skeleton.named_parameters()} for suite in (one, other)]
        return "" if sizes[0] == sizes[1] else "its network has other parameters: other observations, actions or layers"
    shape, its = (_shape(suite.inputs(suite.example("query"))) for suite in (one, other))
    if shape != its:
        return f"its inputs are {its}, not {shape}"
    if one.outputs != other.outputs:
        what = "classes" if one.kind == "classification" else "outputs"
        return f"its tasks have {other.outputs} {what}, not {one.outputs}"
    parts, its_parts = ([_shape(leaf) for leaf in tree_leaves(suite.example("support"))] for suite in (one, other))
    if parts != its_parts:
        return f"a support consists of {' and '.join(its_parts)}, not of {' and '.join(parts)}"
    return "" if pairs(tested, domain) else "it normalises otherwise"


def familiar(trained: Suite, domain: Suite) -> str:
    """How many of a domain's test classes were trained on, in words; "" where none was, or nobody can know."""
    suites = [suite for suite in (trained, domain) if hasattr(suite, "classes_of") and hasattr(suite, "pixels")]
    if len(suites) < 2 or suites[0].pixels is not suites[1].pixels:
        return ""
    test = set(suites[1].classes_of("test").tolist())
    seen = test & set(suites[0].classes_of("train").tolist())
    return f"{len(seen):,} of the {len(test):,} test classes there were trained on" if seen else ""


def _shape(leaf: Tensor) -> str:
    """Of one example."""
    return f"{str(leaf.dtype).removeprefix('torch.')} [{', '.join(map(str, leaf.shape[1:]))}]"
