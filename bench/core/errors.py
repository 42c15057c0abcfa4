"""What goes wrong by a user's hand: a message, what to do next, and the exit code; never a traceback."""

import contextlib
import difflib
import traceback
from collections.abc import Iterable, Iterator

OURS = ("bench.", "torch", "pydantic", "contextlib", "functools")  # modules in which nobody's own mistake is


class BenchError(Exception):
    """A mistake that the user can mend; `str(error)` says what was given, what is allowed and what to do."""

    exit_code = 2


class DataError(BenchError):
    """Data that is missing, cannot be fetched, or is not what its hash says."""


class ManifestError(BenchError):
    """Frozen tasks that are not the ones a suite was published with."""


class MissingExtraError(BenchError):
    """A package that is missing, and the extra of bench that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        """One line that names both."""
        super().__init__(f'{package} is not installed. Install it with: pip install "meta-bench[{extra}]"')


class PluginError(BenchError):
    """Somebody's own suite or algorithm that breaks where it is called: what it raised, and where."""


class StoreError(BenchError):
    """A run directory that cannot be read or written."""


class HeldError(StoreError):
    """Somebody else is at it."""


def unknown(kind: str, given: str, allowed: Iterable[str], advice: str = "") -> BenchError:
    """The error for a name that does not exist, with the nearest match and the list of those that do."""
    names = sorted(allowed)
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
    nearest = f" Did you mean {folded[close[0]]!r}?" if close else ""
    listing = ", ".join(names) if names else "none"
    return BenchError(f"unknown {kind} {given!r}.{nearest} Allowed: {listing}.{' ' + advice if advice else ''}")


@contextlib.contextmanager
def foreign(what: str) -> Iterator[None]:
    """Whatever somebody's own code raises meanwhile, as a message that begins with `what`.

    Raises:
        PluginError: says what was raised, in which line of whose code, and what finds the mistake.
    """
    try:
        yield
    except (BenchError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # SystemExit too, and what a library in Rust panics with
        advice = "bench.testing.check_suite and check_algorithm find what is missing."
        raise PluginError(f"{what}: {told(error)} ({_place(error)}). {advice}") from error


def told(error: BaseException) -> str:
    """An exception in one line, of characters that every file and terminal can take."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {printable(first)}".rstrip(": ").rstrip(".")


def printable(text: str) -> str:
    """The text with whatever moves a cursor, colours a terminal or fits no encoding written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _place(error: BaseException) -> str:
    """Where it was raised, or else the last line of somebody's on the way there."""
    frames = list(traceback.walk_tb(error.__traceback__))
    theirs = [(f, n) for f, n in frames if not str(f.f_globals.get("__name__")).startswith(OURS)]
    frame, line = (theirs or frames)[-1]
    return f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
