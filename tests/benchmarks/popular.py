"""What the popular code computes, measured -> docs/popular-code.md: `python tests/benchmarks/popular.py [PART]`.

On the real Omniglot, which it looks for where `bench` does. The gradients take some three minutes, the accuracy longer.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import bench
from algorithms.fomaml import FOMAML
from algorithms.maml import MAML
from bench.certificate.checks import double, gap
from bench.core import seeds
from bench.core.discovery import Catalogue
from bench.core.task import SuiteTask
from bench.core.trees import part, tree_leaves
from bench.core.types import Episode, Learner, Meta
from bench.learning.batches import episodes
from bench.learning.engines.vectorised import meta_gradient
from suites.omniglot import Omniglot

ROOT = Path(__file__).parents[2]
PAGE, PROBE = ROOT / "docs" / "popular-code.md", ROOT / "tests" / "probes" / "dragen1860.py"
POPULAR: type[Learner] = Catalogue((PROBE,)).load("algorithm", "dragen1860")
START, END = "<!-- {} -->", "<!-- /{} -->"
STEPS, DRAWS, TASKS, RATE, ITERATIONS = (1, 2, 5), 5, 8, 0.4, 100
LAST = "2, only the last task's loss"
GRADIENTS = ["1", "2", "5", LAST]
TRAINED = ["dragen1860", "fomaml", "maml"]
ROWS = {"gradients": GRADIENTS, "accuracy": TRAINED}  # of the page's two tables
Found = list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Whole(Omniglot):
    """Omniglot whose shifts of normalisation adapt for every learner, as they do for the popular code's."""

    def adaptable(self, name: str) -> bool:
        """All there is."""
        return True


def cosine(one: Found, other: Found) -> float:
    """Of the angle between two gradients."""
    a, b = (torch.cat([x.flatten().double() for x in xs]) for xs in (one, other))
    return float(a @ b / (a.norm() * b.norm()))


def span(values: list[float], form: str = ".2g") -> str:
    """The smallest and the largest."""
    low, high = (format(f(values), form) for f in (min, max))
    return low if low == high else f"{low} to {high}"


def gradients(kind: type[Learner], steps: int, draw: int, single: bool = False, last: bool = False) -> Found:
    """The meta-gradient at an initialisation, of a meta-batch or of its last task over as many."""
    suite = Whole(queries=15)
    learner = kind(inner_lr=RATE, steps=steps, outer_lr=0.001, meta_batch=TASKS)
    meta: Meta = learner.init(SuiteTask(suite), seeds.generator("popular", draw))
    batch: Episode = next(episodes(suite, learner, lambda: meta, draw, 0))
    if not single:
        meta, batch = double(meta), double(batch)
    if last:
        batch = part(batch, slice(TASKS - 1, None))
    found = tree_leaves(meta_gradient(suite, learner)(meta, batch)[1])
    return [g.double() / (TASKS if last else 1) for g in found]


def compared(steps: int, last: bool) -> list[str]:
    """A row's cells: to MAML's, to FOMAML's, and float32's distance to float64's, the probe's and MAML's."""
    try:
        ours = [gradients(POPULAR, steps, d, last=last) for d in range(DRAWS)]
    except RuntimeError:
        return ["no gradient"] * 5 + [span(_off(MAML, steps, 100), ".2g") + " %"]
    cells = []
    for kind in (MAML, FOMAML):
        theirs = [gradients(kind, steps, d) for d in range(DRAWS)]
        cells.append(span([cosine(a, b) for a, b in zip(ours, theirs, strict=True)], ".3f"))
        cells.append(span([gap(a, b) for a, b in zip(ours, theirs, strict=True)]))
    if last:
        return [*cells, "", ""]
    return [*cells, *(span(_off(kind, steps, 100)) + " %" for kind in (POPULAR, MAML))]


def _off(kind: type[Learner], steps: int, unit: float) -> list[float]:
    return [unit * gap(gradients(kind, steps, d, single=True), gradients(kind, steps, d)) for d in range(DRAWS)]


def trained() -> list[str]:
    """Accuracy on the test tasks after equally many iterations, as Markdown."""
    fields = f"steps=5,inner_lr={RATE},meta_batch={TASKS}"
    with tempfile.TemporaryDirectory() as folder:
        frame = bench.run(
            "omniglot", [f"{name}[{fields}]" for name in TRAINED], out=folder, plugins=[PROBE], threads=1,
            preset="quick", iterations=ITERATIONS, engine="eager", selection="last",
        )  # fmt: skip
    rows = frame[(frame["metric"] == "accuracy") & (frame["norm"] == "transductive")]
    steps = sorted(rows["step"].unique())
    lines = [f"| step | {' | '.join(map(str, steps))} |", "|---|" + "---|" * len(steps)]
    for name in TRAINED:
        mine = rows[rows["algorithm"].str.startswith(f"{name}[") | (rows["algorithm"] == name)]
        cells = (mine[mine["step"] == step]["value"] for step in steps)
        lines.append(f"| {name} | " + " | ".join(f"{c.mean():.1f} ± {1.96 * c.sem():.1f}" for c in cells) + " |")
    return lines


def compare() -> list[str]:
    """The meta-gradients, as Markdown."""
    head = "| steps | cosine to MAML's | distance to MAML's | cosine to FOMAML's | distance to FOMAML's | "
    rows = [f"| {label} | {' | '.join(compared(int(label[0]), last=label == LAST))} |" for label in GRADIENTS]
    return [head + "its float32 | MAML's float32 |", "|---|---|---|---|---|---|---|", *rows]


PARTS = {"gradients": compare, "accuracy": trained}


def main(*parts: str) -> None:
    """Measures, all or these of PARTS, and writes the page's lines between their markers anew."""
    torch.set_num_threads(1)
    for name in parts or PARTS:
        found = "\n".join(PARTS[name]())
        before, start, rest = PAGE.read_text().partition(START.format(name))
        PAGE.write_text(f"{before}{start}\n{found}\n{END.format(name)}{rest.partition(END.format(name))[2]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
