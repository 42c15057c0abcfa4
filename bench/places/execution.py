"""Where and how cells are to run, as it was asked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from bench.core.errors import BenchError

if TYPE_CHECKING:  # the command asks for this before it knows whether anything runs
    from bench.places.jobs import Job, Messages

RETRIES = 2  # times that a lost cell is sent again


class Place(Protocol):
    """Somewhere that jobs run; what they say and how they end comes by the queue that it was made with."""

    shared: bool  # its jobs see the run directory; else what they make comes back with their ending

    def __enter__(self) -> Self:
        """Ready to start jobs."""

    def __exit__(self, *_: object) -> None:
        """Whatever still runs is killed."""

    def start(self, job: "Job") -> None:
        """Sends a job on its way, and returns at once."""

    def stop(self, at_once: bool) -> None:
        """Lets every job end where it can go on later, or interrupts it; none that waits is begun."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One after the other in this process, unless workers or a cluster are named."""

    workers: int | None = None  # cells at a time on this machine, each in a process of its own
    dask: str | None = None  # the address of a scheduler
    dask_spec: Path | None = None  # a YAML file that describes a cluster
    retries: int = RETRIES

    @property
    def threads(self) -> int | None:
        """Of a cell for which none were asked: an equal share of the cores, one on a cluster; None in this process."""
        if self.dask or self.dask_spec:
            return 1
        return max(1, cores() // self.workers) if self.workers else None

    def place(self, root: Path) -> "Callable[[Messages], Place] | None":
        """What makes the place where cells are to run whose run directory is `root`; None for this process.

        Raises:
            BenchError: more than one place is named, or Dask is not installed.
        """
        asked = {"--workers": self.workers, "--dask": self.dask, "--dask-spec": self.dask_spec}
        named = [name for name, given in asked.items() if given]
        if len(named) > 1:
            raise BenchError(f"{' and '.join(named)} are given, but cells run in one place. Give one of them.")
        if self.dask or self.dask_spec:
            from bench.places.cluster import Cluster

            return partial(Cluster, self.dask, self.dask_spec, root)
        from bench.places.jobs import Local

        return partial(Local, self.workers, gpus=gpus()) if self.workers else None


def gpus() -> tuple[str, ...]:
    """Those that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # which whoever has planned cells has loaded

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = allowed.split(",") if allowed else [str(i) for i in range(torch.cuda.device_count())]
    return tuple(name.strip() for name in names[: torch.cuda.device_count()])


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
