"""Who is at work on what: a file with a heartbeat, which also falls where its host has died.

No `flock`, which some shared file systems lack or take for granted on each host alone: a file that is there belongs to
whoever made it. Its holder touches it as long as it lives. A process of this host that is gone is known at once;
another host's holder is given up when nobody has touched the file for `LEASE` seconds, by the clock of the one who
watches it, so that no two clocks need agree.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.core.errors import HeldError

NAME = "holder"
LEASE = 180.0  # seconds without a heartbeat, of which there are three in that time
LOOK = 0.05  # seconds between two looks at what is held briefly
_ours: set[str] = set()  # tokens of what this process holds


class Hold:
    """A claim to a folder, which one process at a time holds."""

    def __init__(self, folder: Path, what: str) -> None:
        """Of a folder that exists, taken by nobody yet; `what` is its name for people."""
        from filelock import SoftFileLease

        self.path, self.what = folder / NAME, what
        # Whoever waits keeps this object: it remembers since when it has seen no heartbeat.
        self._lock = SoftFileLease(self.path, lease_duration=LEASE, timeout=0, thread_local=False)
        self._token = ""

    def take(self) -> bool:
        """Whether it is ours now; nothing is waited for.

        Raises:
            OSError: the folder cannot be written to.
        """
        from filelock import Timeout

        self._clear()
        try:
            self._lock.acquire()
        except Timeout:
            return False
        self._token = self._lock.token or ""
        _ours.add(self._token)
        return True

    def release(self) -> None:
        """Lets others have it."""
        _ours.discard(self._token)
        with suppress(OSError):  # what can no longer be written to is told of already
            self._lock.release()

    def check(self) -> None:
        """Sees that it is still ours.

        Raises:
            HeldError: somebody took it, since this process was frozen or cut off for longer than a lease.
        """
        owner = self._lock.owner
        if owner is None or owner.token != self._token:
            raise HeldError(f"{self.what} was taken over by {self.holder()}, since no heartbeat came from here.")

    def holder(self) -> str:
        """Whoever has it, for people."""
        owner = self._lock.owner
        return f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"

    def held(self) -> HeldError:
        """The error of whoever cannot wait."""
        return HeldError(f"{self.what} is being run by {self.holder()}. Wait for it, stop it, or give another --out.")

    def _clear(self) -> None:
        """Removes what a process left that was killed while it made the file, or that this one could not remove."""
        owner = self._lock.owner
        with suppress(OSError):
            if owner and self._lock.is_lock_held_by_us and owner.token not in _ours:
                self._lock.force_break()
            elif owner is None and (found := self.path.stat()).st_size == 0:
                probe = self.path.with_name(f".{NAME}-{time.monotonic_ns()}")
                probe.touch()  # the file system's own time
                now = probe.stat().st_mtime
                probe.unlink()
                if now - found.st_mtime > LEASE:
                    self._lock.force_break()


@contextmanager
def briefly(folder: Path, what: str) -> Iterator[None]:
    """Waits for a folder that nobody holds for long, and holds it."""
    hold = Hold(folder, what)
    while not hold.take():
        time.sleep(LOOK)
    try:
        yield
    finally:
        hold.release()
