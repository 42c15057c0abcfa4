"""Where a sweep looks: what an algorithm declares by `Search` beside its fields, and what is typed instead."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from bench.core.discovery import Named, allowed, options, parse, typed
from bench.core.errors import BenchError, unknown
from bench.core.types import Learner, Search, Suite

DIGITS = 4  # significant ones of a proposed value, so that people can type it
FORM = 'Write --search "maml[inner_lr=0.01..1 log, steps=1|3|5]".'


def searched(text: str | None) -> dict[str, dict[str, str]]:
    """Algorithm -> field -> the range or the choices typed, as `maml[inner_lr=0.01..1 log, steps=1|3|5]` says.

    Raises:
        BenchError: it is of another form.
    """
    found: dict[str, dict[str, str]] = {}
    for named in parse(text) if text else []:
        if not named.given or named.name in found:
            raise BenchError(f"--search says {'nothing of' if not named.given else 'twice'} {named.name}. {FORM}")
        found[named.name] = named.given
    return found


def space(algorithm: Learner, suite: Suite, named: Named, asked: Mapping[str, str]) -> dict[str, BaseDistribution]:
    """Where an algorithm's hyperparameters are looked for: as typed, else as it declares, less what was given.

    The fields of an algorithm that does not train are those of its adaptation alone.

    Args:
        algorithm: with the suite's protocol.
        suite: whose protocol it is.
        named: as typed.
        asked: what `searched` gives for it.

    Raises:
        BenchError: a declaration or a range that makes no sense, or nothing to search.
    """
    hints = get_type_hints(type(algorithm), include_extras=True)
    fields = [field.name for field in dataclasses.fields(algorithm)]
    still = set() if algorithm.trains else {field.name for field in dataclasses.fields(Learner)}
    idle = still | algorithm.idle
    for name in asked:
        if name not in fields:
            raise unknown(f"parameter of {named.name}", name, fields, f"`bench show {named.name}` explains them.")
        if name in named.given or name in idle:
            why = "but it does not meta-train" if name in still else "where it means nothing or is fixed"
            why = "which --algos fixes" if name in named.given else why
            raise BenchError(f"--search looks for {name} of {named}, {why}. Take it out of one of them.")
    found: dict[str, BaseDistribution] = {}
    for name in fields:
        hint = hints[name]
        search = next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Search)), None)
        if name in asked:
            found[name] = _asked(named.name, name, hint, asked[name])
        elif search is not None and name not in named.given and name not in idle:
            found[name] = _declared(named, name, hint, search, suite)
    if not found:
        raise BenchError(
            f"{named} has nothing to tune. Leave it out or fix fewer of its parameters; or say where to look, with "
            f"--search or, in an algorithm of yours, beside a field: Annotated[float, Field(gt=0), Search(0.001, 1, "
            "log=True)]."
        )
    return found


def within(value: Any, found: Any) -> Any:
    """The value, or the nearest one that is looked at."""
    if isinstance(found, CategoricalDistribution):
        return value if value in found.choices else found.choices[0]
    return found.low if value is None else min(max(value, found.low), found.high)


def rounded(value: Any) -> Any:
    """The value with few enough digits to be typed."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def spaced(found: Any, points: int) -> list[Any]:
    """All choices; of a range at most so many values, evenly spaced, ends included; the middle if there is but one."""
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    shares = [i / (points - 1) for i in range(points)] if points > 1 else [0.5]
    if found.log:
        low, high = math.log(found.low), math.log(found.high)
        values = [math.exp(low + share * (high - low)) for share in shares]
    else:
        values = [found.low + share * (found.high - found.low) for share in shares]
    whole = isinstance(found, IntDistribution)
    return list(dict.fromkeys(round(v) if whole else within(rounded(float(v)), found) for v in values))


def described(found: Any) -> str:
    """A range or choices in words."""
    if isinstance(found, CategoricalDistribution):
        return " | ".join(map(str, found.choices))
    return f"{found.low:g} to {found.high:g}{' (logarithmic)' if found.log else ''}"


def _asked(algorithm: str, name: str, hint: Any, text: str) -> BaseDistribution:
    """The range or the choices of `0.01..1 log` or `1|3|5`."""

    def value(part: str) -> Any:
        try:
            return typed(hint, part.strip())
        except ValueError:
            raise BenchError(f"{algorithm} does not take {name}={part.strip()}. Allowed: {allowed(hint)}.") from None

    if "|" in text:
        return CategoricalDistribution(list(dict.fromkeys(value(part) for part in text.split("|"))))
    match = re.fullmatch(r"(.+?)\.\.(.+?)(\s+log)?", text.strip())
    if match is None:
        raise BenchError(
            f"--search {algorithm}[{name}={text}] is neither a range nor choices. {FORM} A single value is fixed in "
            f"--algos: {algorithm}[{name}={text}]."
        )
    low, high = value(match[1]), value(match[2])
    return _range(f"--search {algorithm}[{name}={text}]", hint, low, high, bool(match[3]))


def _declared(named: Named, name: str, hint: Any, search: Search, suite: Suite) -> BaseDistribution:
    what = f"{named.name} declares {search} for {name}"
    if search.times_protocol and name not in suite.protocol:
        raise BenchError(
            f"{named.name} searches {name} in multiples of the suite's protocol value, but this suite's "
            f"protocol has none. Give the value: {named.name}[{name}=...]."
        )
    try:
        if search.low is None or search.high is None:
            choices = [typed(hint, choice) for choice in search.choices or options(hint)]
            if not choices:
                raise ValueError("nothing is listed")
            return CategoricalDistribution(choices)
        unit = suite.protocol[name].value if search.times_protocol else 1
        low, high = (rounded(float(unit * bound)) for bound in (search.low, search.high))
        if not options(hint):
            low, high = (typed(hint, round(end) if int in _kinds(hint) else end) for end in (low, high))
    except (ValueError, TypeError):
        raise BenchError(
            f"{what}, which takes {allowed(hint)}. Declare Search(low, high), Search(choices=(...)), or Search() "
            "beside a Literal or a bool."
        ) from None
    return _range(what, hint, low, high, search.log)


def _range(what: str, hint: Any, low: Any, high: Any, log: bool) -> BaseDistribution:
    kinds = _kinds(hint)
    if not kinds & {int, float} or options(hint):
        raise BenchError(f"{what}, which takes {allowed(hint)} and has no range. List the values to try: a|b.")
    try:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{low:g} to {high:g} has no end")
        if not low < high:
            raise ValueError(f"{low:g} is not below {high:g}")
        if int in kinds and float not in kinds:
            return IntDistribution(low, high, log)
        return FloatDistribution(low, high, log)
    except (ValueError, TypeError) as error:
        raise BenchError(f"{what}, which is no range: {error}. {FORM}") from None


def _kinds(hint: Any) -> set[Any]:
    """The types that an annotation names, without what goes with them."""
    kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return set(get_args(kind)) or {kind}
