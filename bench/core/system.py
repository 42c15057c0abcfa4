"""Which systems this bench runs on: those that keep POSIX, whose processes, signals and renames it relies on."""

import os
import platform

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
