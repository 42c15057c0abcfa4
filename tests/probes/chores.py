"""Jobs for the tests of where jobs run: they import nothing, and so cost a few hundredths of a second."""

import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.places.jobs import Emit


def nap(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Sleeps; whether it was left alone."""
    emit({"event": "begins", "pid": os.getpid()})
    return not stop.wait(arguments.get("seconds", 0))


def crash(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Reads where nothing is, in native code."""
    sys.stderr.write("about to crash\n")
    return ctypes.string_at(0) is None


def crash_at_first(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Crashes as often as it is told to, and then is done."""
    tries = Path(arguments["tries"])
    tries.write_text(f"{tries.read_text() if tries.exists() else ''}x")
    if len(tries.read_text()) <= arguments["crashes"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return True


def chatter(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Prints to where the events go, by Python and past it."""
    print("no event")  # noqa: T201
    os.write(1, b"no event either\n")
    emit({"event": "spoke"})
    return True


def look(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Says which GPUs it sees, and stays until others have come."""
    emit({"event": "looked", "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})
    return not stop.wait(arguments.get("seconds", 0))


def refuse(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Raises what a user can mend."""
    raise BenchError("mend this")


def hang(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Holds the interpreter's lock in native code, deaf to everything."""
    emit({"event": "begins", "pid": os.getpid()})
    ctypes.PyDLL(None).sleep(int(arguments["seconds"]))
    return True


def interrupted(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Sleeps until Ctrl-C."""
    emit({"event": "begins", "pid": os.getpid()})
    time.sleep(60)
    return True


def cell(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Does as a cell does that sleeps (validate_every ms) instead of training, and crashes for every tenth seed."""
    spec, folder = arguments["spec"], Path(arguments["store"]) / "cells" / arguments["cell"]
    emit({"event": "starts", "done": 0})
    if spec["seed"] % 10 == 9 and spec["selection"] == "best":
        ctypes.string_at(0)
    if stop.wait(spec["validate_every"] / 1000):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "record.json", _record(arguments, arguments["cell"] * 4))
    return True


def holding(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Does as `cell` does, unless somebody else has it."""
    from bench.storage.store import Store

    with Store.open(Path(arguments["store"])).hold(arguments["cell"]):
        return cell(arguments, emit, stop)


def digest(seed: int, iterations: int, state: str = "", done: int = 0) -> str:
    """What `trained` must end with."""
    for i in range(done, iterations):
        state = hashlib.sha256(f"{state}{seed}{i}".encode()).hexdigest()
    return state


def trained(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Does as a cell does that trains, a millisecond for an iteration: checkpoints, goes on, ends with a digest."""
    spec, folder = arguments["spec"], Path(arguments["store"]) / "cells" / arguments["cell"]
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "checkpoint.json"
    state, done = json.loads(saved.read_text()) if saved.exists() else ("", 0)
    emit({"event": "starts", "done": done})
    while done < spec["iterations"] and not stop.wait(0.001):
        state, done = digest(spec["seed"], done + 1, state, done), done + 1
        if done % 20 == 0:
            _write(saved, [state, done])
    if done < spec["iterations"]:
        _write(saved, [state, done])
        return False
    _write(folder / "record.json", _record(arguments, state))
    return True


def _record(arguments: dict[str, Any], final: str) -> dict[str, Any]:
    return {
        "cell": arguments["cell"],
        "spec": arguments["spec"],
        "judgement": {
            "metrics": [{"name": "mse", "unit": "", "better": "lower"}],
            "report_steps": [1],
            "floor": 1,
            "caveat": "",
        },
        "outcome": "finished",
        "stopped_at": arguments["spec"]["iterations"],
        "digest": final,
        "finished": "2026-01-01T00:00:00+00:00",
        "environment": {},
    }


def _write(path: Path, content: Any) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def environment(arguments: dict[str, Any], emit: Emit, stop: threading.Event) -> bool:
    """Tells what a variable is in its own process."""
    emit({"value": os.environ.get(arguments["variable"])})
    return True
