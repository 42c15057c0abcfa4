"""The system beneath: POSIX, whose processes, signals and renames are relied on, with cores that others use too."""

import os
import platform
from collections.abc import MutableMapping

from bench.core.errors import BenchError


def check_system() -> None:
    """Refuses a system that is not POSIX.

    Raises:
        BenchError: says which system it is and where bench runs instead.
    """
    if os.name != "posix":
        raise BenchError(
            f"bench needs a POSIX system (Linux, macOS) and this is {platform.system() or os.name}: it relies on "
            "process groups, signals and renames over open files. On Windows run it in WSL: "
            "https://learn.microsoft.com/windows/wsl/install"
        )


def wait_politely(environment: MutableMapping[str, str]) -> None:
    """Lets threads that have nothing to do sleep, unless the environment says how they wait; before torch is imported.

    OpenMP's threads spin until the last of them is done. Where another process has that one's core, the others burn a
    whole slice of time at each of thousands of meetings: beside one busy process a run can be several times slower.
    """
    if "GOMP_SPINCOUNT" not in environment:
        environment.setdefault("OMP_WAIT_POLICY", "passive")
