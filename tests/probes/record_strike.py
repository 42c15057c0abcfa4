"""Kills the first process that writes the record of a cell, as STRIKE says: "signal seconds folder".

Imported at the start of processes, by a `sitecustomize` of the tests. Negative seconds: as soon as the record is there.
"""

import contextlib
import os
import sys
import threading
import time
from pathlib import Path


def strike(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook."""
    if event != "os.rename" or (path := Path(str(arguments[1]))).name != "record.json":
        return
    number, seconds, folder = os.environ["STRIKE"].split(" ", 2)
    with contextlib.suppress(FileExistsError):
        (Path(folder) / path.parent.name).touch(exist_ok=False)
        new = Path(str(arguments[0])).stat().st_ino
        threading.Thread(target=kill, args=(path, new, int(number), float(seconds)), daemon=True).start()


def kill(path: Path, new: int, number: int, seconds: float) -> None:
    """Waits and kills this process."""
    while seconds < 0 and not (path.exists() and path.stat().st_ino == new):
        time.sleep(0)
    time.sleep(max(0.0, seconds))
    os.kill(os.getpid(), number)


sys.addaudithook(strike)
