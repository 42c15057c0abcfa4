"""What goes wrong by a user's hand: a message, what to do next, and the exit code; never a traceback."""

import difflib
from collections.abc import Iterable


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
