"""What all tests share: a cache of their own, one thread, the real data if it is at hand."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SMALL = ["--threads", "1", "--iterations", "20", "--preset", "smoke"]


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BENCH_CACHE_DIR"] = str(tmp_path_factory.getbasetemp().parent / "cache")
    os.environ.pop("BENCH_PRESET", None)
    torch.set_num_threads(1)  # two workers share two cores


@pytest.fixture(scope="session")
def omniglot_dir() -> Path:
    """The folder that holds the real Omniglot."""
    for folder in (os.environ.get("BENCH_DATA_DIR"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "omniglot").is_dir():
            return Path(folder)
    pytest.skip("real Omniglot not found: set BENCH_DATA_DIR")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, None, None]:
    """Where the data must be there, a skip for want of it is a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("BENCH_REQUIRE_DATA") and "BENCH_DATA_DIR" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped for want of data that lies beside the checkout: {report.longrepr}"
