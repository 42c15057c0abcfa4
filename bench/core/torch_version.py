"""Which versions of torch this bench is made for: it uses parts of it that torch does not promise to keep."""

import re
from importlib.metadata import PackageNotFoundError, version

from bench.core.errors import BenchError

OLDEST, TOO_NEW = "2.11", "2.15"  # as pyproject.toml


def check_torch() -> None:
    """Refuses a torch that is too old, too new or missing, without importing it.

    Raises:
        BenchError: says what is installed and what to install.
    """
    try:
        found = version("torch")
    except PackageNotFoundError:
        found = "none"
    if not _numbers(OLDEST) <= _numbers(found) < _numbers(TOO_NEW):
        raise BenchError(
            f"torch {found} is installed, and this bench is made for torch {OLDEST} up to, not including, {TOO_NEW}: "
            f"it uses parts that change. Install one, pip install 'torch>={OLDEST},<{TOO_NEW}', or a newer bench."
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
