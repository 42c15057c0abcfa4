"""Cells on a Dask cluster: Dask alone assigns them; a worker runs each as a process of its own.

Where a worker sees the run directory (a shared file system), the cell runs in it, so that it goes on from its
checkpoint wherever it is sent next. Where it doesn't, the checkpoint travels there and the files travel back. Imports
nothing heavy: the worker's own process never needs torch.
"""

import contextlib
import importlib
import logging
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from bench.core.errors import BenchError
from bench.places.jobs import Child, Ending, Event, Job

EXTRA = 'pip install "meta-bench[dask]"'
PATIENCE = 30.0  # seconds in which a scheduler must answer, and a first worker may come
LOOK = 0.5  # seconds between two looks at whether a job is still wanted
FRESH = 5.0  # seconds for which what the workers offer is taken for known
TELL = 2.0  # seconds between two words of a cell in training, through the scheduler
BACK = ("spec.json", "log.txt", "checkpoint.safetensors", "scores.parquet", "curve.parquet", "record.json")
log = logging.getLogger("bench")


class Cluster:
    """A Place (`bench.cells.execute`): whatever workers the cluster has, which may come and go."""

    def __init__(
        self, address: str | None, spec: Path | None, root: Path, messages: "SimpleQueue[tuple[str, Event | Ending]]"
    ) -> None:
        """Of the scheduler at `address`, or made by the file `spec`; nothing is started yet."""
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise BenchError(f"Dask is not installed. `{EXTRA}` brings it.") from None
        self.address, self.made = address, _cluster_class(spec) if spec else None
        self.root, self.messages, self.token = root.absolute(), messages, f"bench-{uuid.uuid4().hex[:12]}"
        self.sign = self.root / f".{self.token}"  # a worker that sees it sees the run directory
        self.futures: dict[str, Any] = {}  # of the jobs that have not ended
        self.lock = threading.Lock()
        self.offers: list[dict[str, float]] = []  # of each worker, when it was last asked
        self.asked = -FRESH

    def __enter__(self) -> Self:
        """Connects.

        Raises:
            BenchError: nobody answers.
        """
        from distributed import Client

        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.sign.touch()
            stack.callback(self.sign.unlink, missing_ok=True)
            target = stack.enter_context(self.made()) if self.made else self.address
            try:
                self.client = stack.enter_context(Client(target, timeout=PATIENCE, set_as_default=False))
            except (OSError, ValueError, TypeError) as error:
                raise BenchError(
                    f"no Dask scheduler answers at {target}: {error}. `dask scheduler` starts one and prints its "
                    "address, such as tcp://host:8786."
                ) from None
            self.client.subscribe_topic(self.token, self._told)
            try:
                self.client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError:  # it may make workers only when there is work
                log.warning("the Dask cluster has no worker yet: cells wait for one")
            self.shared = all(self.client.run(_sees, str(self.sign)).values())
            over = threading.Event()
            stack.callback(over.set)
            threading.Thread(target=self._watch, args=(over,), daemon=True).start()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of what still runs, which the workers then stop, and of a cluster that was made for this run."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self.client.cancel(list(self.futures.values()), force=True)
        self._open.close()

    def start(self, job: Job) -> None:
        """Submits it.

        Raises:
            BenchError: the scheduler is gone, or no worker offers what the job needs.
        """
        self._reconnect()
        future = self.client.submit(
            on_worker, job, str(self.sign), self._checkpoint(job),
            key=f"{job.key}-{uuid.uuid4().hex[:8]}", pure=False, resources=self._resources(job.needs),
        )  # fmt: skip
        self.futures[job.key] = future
        future.add_done_callback(lambda future: self._ends(job.key, future, _ending(future)))

    def stop(self, at_once: bool) -> None:
        """Tells the workers, and takes back what none of them has."""
        with contextlib.suppress(Exception):  # without a scheduler, the workers stop by themselves
            self.client.run(tell, self.token, at_once, on_error="ignore")
            taken = {key for keys in self.client.processing().values() for key in keys}
            self.client.cancel([future for future in self.futures.values() if future.key not in taken], force=True)

    def _ends(self, key: str, future: Any, ending: Ending) -> None:
        with self.lock:  # whoever comes first, Dask or the watch
            if self.futures.get(key) is not future:
                return
            del self.futures[key]
        self.messages.put((key, ending))

    def _watch(self, over: threading.Event) -> None:
        """Ends what a lost scheduler took along: a future that was made at that very moment is never told by Dask."""
        since = None
        while not over.wait(LOOK):
            status = self.client.status
            since = None if status == "running" else since or time.monotonic()
            if since and (status == "closed" or time.monotonic() - since > PATIENCE):
                for key, future in list(self.futures.items()):
                    self._ends(key, future, Ending("stopped", "the connection to the scheduler was lost"))

    def _told(self, event: tuple[float, dict[str, Any]]) -> None:
        self.messages.put((event[1]["key"], event[1]["message"]))

    def _checkpoint(self, job: Job) -> bytes | None:
        if self.shared:
            return None
        cells = (job.key, *job.arguments["about"]["goes_on_from"])
        paths = (self.root / "cells" / cell / "checkpoint.safetensors" for cell in cells)
        return next((path.read_bytes() for path in paths if path.exists()), None)

    def _reconnect(self) -> None:
        """Waits while the client looks for its scheduler."""
        until = time.monotonic() + PATIENCE
        lost = self.client.status == "connecting"
        while self.client.status == "connecting" and time.monotonic() < until:
            time.sleep(LOOK)
        if self.client.status != "running":
            raise BenchError(
                f"the connection to the Dask scheduler {self.address or ''} is lost. What is finished is kept; start "
                "the scheduler again and give the same command."
            )
        if lost:
            self.client.subscribe_topic(self.token, self._told)

    def _resources(self, needs: dict[str, float]) -> dict[str, float]:
        """Of what the job needs, that which this cluster's workers declare to have."""
        if time.monotonic() - self.asked > FRESH:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
            self.offers, self.asked = [worker["resources"] for worker in workers], time.monotonic()
        offers = self.offers
        asked = {name: amount for name, amount in needs.items() if any(name in offer for offer in offers)}
        if offers and not any(all(offer.get(name, 0) >= amount for name, amount in asked.items()) for offer in offers):
            raise BenchError(
                f"a cell needs {_listed(asked)}, and no worker offers that; the nearest offers "
                f"{_listed(max(offers, key=lambda offer: sum(offer.values())))}. Start workers with --resources, or "
                "ask for fewer --threads."
            )
        return asked


def on_worker(job: Job, sign: str, checkpoint: bytes | None) -> Ending:
    """Runs a job as a process of this worker, for as long as it is wanted.

    Args:
        job: what to run; its argument `store` is the run directory.
        sign: a file in the run directory, hidden and named by the run's token.
        checkpoint: where to go on from, if this worker does not see the run directory.
    """
    from distributed import get_worker

    worker = get_worker()
    token = Path(sign).name[1:]
    last = 0.0

    def emit(event: Event) -> None:
        nonlocal last
        if event.get("event") != "trains" or time.monotonic() - last > TELL:
            last = time.monotonic()
            worker.log_event(token, {"key": job.key, "message": event})

    emit({"event": "begins"})
    if _stops(worker).get(token) is not None:
        return Ending("stopped")
    if Path(sign).exists():
        return _run(job, worker, token, emit)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch) / "cells" / job.key
        folder.mkdir(parents=True)
        (Path(scratch) / "store.json").write_bytes(job.arguments["mark"].encode())
        if checkpoint:
            (folder / "checkpoint.safetensors").write_bytes(checkpoint)
        ending = _run(replace(job, arguments=job.arguments | {"store": scratch}), worker, token, emit)
        files = {name: (folder / name).read_bytes() for name in BACK if (folder / name).exists()}
        return replace(ending, files=files)


def _sees(sign: str) -> bool:
    return Path(sign).exists()


def tell(token: str, at_once: bool, dask_worker: Any) -> None:
    """Called on every worker by Dask: the run's jobs there are to end."""
    _stops(dask_worker)[token] = at_once


def _stops(worker: Any) -> dict[str, bool]:
    """Token of a run -> whether its jobs are to end at once; of the runs that were told to end."""
    if not hasattr(worker, "bench_stops"):
        worker.bench_stops = {}
    stops: dict[str, bool] = worker.bench_stops
    return stops


def _run(job: Job, worker: Any, token: str, emit: Any) -> Ending:
    key, over = worker.get_current_task(), threading.Event()
    child = Child(job)

    def look() -> None:
        told = None
        while not over.wait(LOOK):
            task, wish = worker.state.tasks.get(key), _stops(worker).get(token)
            if (
                task is None
                or task.state in ("cancelled", "released")
                or worker.status.name not in ("running", "paused")
            ):
                wish = True  # whoever wanted it is gone, or the scheduler is
            if wish is not None and wish is not told:
                child.stop(at_once=wish)
                told = wish

    threading.Thread(target=look, daemon=True).start()
    try:
        return child.listen(emit)
    finally:
        over.set()


def _ending(future: Any) -> Ending:
    if future.status == "finished":
        ending: Ending = future.result()
        return ending
    if future.status == "cancelled":
        return Ending("stopped", "the connection to the scheduler was lost, or the task was cancelled")
    error = future.exception()
    return Ending(
        "crashed", f"its worker was lost or could not run it: {type(error).__name__}: {error}".splitlines()[0]
    )


def _listed(amounts: dict[str, float]) -> str:
    return ", ".join(f"{name}={amount:g}" for name, amount in amounts.items()) or "nothing"


def _cluster_class(path: Path) -> Any:
    """What makes the cluster that a file describes, in the words of dask-ctl: module, class, args, kwargs.

    Raises:
        BenchError: the file cannot be read, or names what is not installed.
    """
    import yaml

    example = "such as {module: dask_jobqueue, class: SLURMCluster, kwargs: {cores: 4, memory: 16GB, n_workers: 10}}"
    try:
        spec = yaml.safe_load(path.read_bytes())
        module, name = spec["module"], spec["class"]
        args, kwargs = spec.get("args") or [], spec.get("kwargs") or {}
        if strangers := set(spec) - {"version", "module", "class", "args", "kwargs"}:
            raise ValueError(f"it has {', '.join(sorted(strangers))}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise BenchError(f"{path} describes no Dask cluster ({reason}). Write YAML {example}.") from None
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BenchError(f"{path} names {module}.{name}, which is not installed ({error}). Install it.") from None
    return lambda: made(*args, **kwargs)
