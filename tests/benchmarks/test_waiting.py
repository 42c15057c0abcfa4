"""What threads that wait cost where another process has their core: asleep, as bench has them, against spinning."""

import os
import subprocess
import sys
from typing import Any

from bench.core import system
from tests.benchmarks.test_speed import report

MEETINGS = """
import time, torch
torch.set_num_threads(2)
x = torch.randn(40_000)
x.sin_()
began = time.perf_counter()
for _ in range(200):
    x.sin_()
print(time.perf_counter() - began)
"""


def test_beside_a_process_that_has_the_same_cores(benchmark: Any) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    polite = dict(plain)
    system.wait_politely(polite)
    cores = sorted(os.sched_getaffinity(0))[:2]
    ratios = []

    def seconds(environment: dict[str, str]) -> float:
        code = f"import os; os.sched_setaffinity(0, {set(cores)})\n{MEETINGS}"
        return float(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))

    busy = [
        subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
        for core in cores
    ]
    try:
        benchmark.pedantic(lambda: ratios.append(seconds(plain) / seconds(polite)), rounds=4)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    report(benchmark, "200 meetings of two threads, a process busy on each core", "threads that spin", "≥ 2x", ratios)
