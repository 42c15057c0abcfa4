"""A benchmark of meta-learners: `bench run --suite omniglot --algos maml,fomaml,metasgd`."""

from typing import TYPE_CHECKING, Any

from bench.core.beside import find_ours_first

if TYPE_CHECKING:
    from bench.api import audit, export, import_, load, merge, predict, report, reproduce, run, score, tune
    from bench.reporting.costing import cost

__all__ = [
    "audit", "cost", "export", "import_", "load", "merge", "predict", "report", "reproduce", "run", "score", "tune",
]  # fmt: skip
find_ours_first()


def __getattr__(name: str) -> Any:
    # Not imported before it is used: `bench --help` must not wait for torch and pandas.
    if name in __all__:
        from bench.core.system import check_system
        from bench.core.torch_version import check_torch

        check_system()
        check_torch()
        from bench import api
        from bench.reporting import costing

        return getattr(costing if name == "cost" else api, name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
