"""Few-shot classification and regression of tables whose columns differ from task to task.

Three sources: random functions, the tables that scikit-learn ships (extra: tabular), and a CSV of your own with a
column that names the task: `tabular[data=plants.csv,task=site,target=species]`. Rows are padded with zeros to `columns`
features, and beside each stands whether it is there; a table of scikit-learn shows some in an order of its own. The
family is this suite's own. Random functions are the features of Rahimi and Recht, "Random features for large-scale
kernel machines", 2007; the network is that of Finn et al. 2017 (arXiv:1703.03400), A.1, wider.

Letters: T tasks, W ways, S support and Q query rows of a task (of a class, in classification), F features.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.core.data import data_dir
from bench.core.errors import DataError
from bench.core.metric import Metric
from bench.core.types import Budget, Kind, Params, Role, Setting, Split, Supervised
from suites.parts.hidden import Hidden
from suites.parts.nets import MLP
from suites.parts.tables import SHOWN, Table, read, shipped

CHOICE = "a choice of this suite"
BASES = 64  # cosines in a random function
SPLITS: tuple[Split, ...] = get_args(Split)


class Rows(NamedTuple):
    """Tasks: what their support and query show."""

    support: Tensor  # [T, S, F], or [T, W S, F] class by class
    query: Tensor  # [T, Q, F], or [T, W Q, F]
    support_y: Tensor  # [T, S, 1], or labels [T, W S]
    query_y: Tensor  # [T, Q, 1], or labels [T, W Q]
    present: Tensor  # [T, F], 1 where there is such a feature, else 0
    support_mask: Tensor  # [T, S], bool: which rows there are; the others are 0
    query_mask: Tensor  # [T, Q]


class Examples(NamedTuple):
    """Rows of one task, each feature beside whether it is there."""

    x: Tensor  # [N, 2 F]
    y: Tensor  # [N, 1], or labels [N]
    mask: Tensor | tuple[()] = ()  # [N], bool, where tasks differ in size


@dataclass(frozen=True, kw_only=True)
class Tabular(Supervised):
    """Few-shot learning of rows of numbers, of another number of features in each task; an MLP with 2 x 64 units."""

    goal: Annotated[Literal["classification", "regression"], Field(description="what is predicted of a row")] = (
        "classification"
    )
    data: Annotated[
        str,
        Field(description="functions: random ones; sklearn: iris, wine, breast_cancer, digits, diabetes, split by "
              "table; or a CSV, where --data-dir is given also below that"),
    ] = "functions"  # fmt: skip
    ways: Annotated[int, Field(ge=2, description="classes in a task")] = 2
    shots: Annotated[int, Field(ge=1, description="support rows: of each class, or of a regression task")] = 5
    queries: Annotated[int, Field(ge=1, description="query rows, likewise")] = 15
    columns: Annotated[int, Field(ge=1, le=1024, description="features of a task, at most; fewer are padded")] = 16
    task: Annotated[str, Field(description="the column of a CSV that names a row's task")] = "task"
    target: Annotated[str, Field(description="the column of a CSV that is predicted")] = "target"
    validation: Annotated[float, Field(gt=0, lt=0.5, description="share of a CSV's tasks")] = 0.16
    test: Annotated[float, Field(gt=0, lt=0.5, description="share of a CSV's tasks")] = 0.2
    hidden: Hidden = (64, 64)

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(50, 20, 10),
        "quick": Budget(5_000),
        "standard": Budget(10_000),
        "paper": Budget(20_000),
    }
    validate_every: ClassVar[int] = 1_000

    @property
    def kind(self) -> Kind:
        """As asked."""
        return self.goal

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]
        """Accuracy and loss, or the mean squared error of a target of variance 1."""
        if self.goal == "regression":
            return (Metric("mse", "", "lower", low=0),)
        return Metric("accuracy", "%", "higher", low=0, high=100), Metric("loss", "nats", "lower", low=0)

    @property
    def setting(self) -> str:
        """Sizes, and what was read: its name and the first digits of its content's SHA-256."""
        size = f"{self.ways}-way {self.shots}-shot" if self.goal == "classification" else f"K={self.shots}"
        known = "" if self.data == "functions" else f", {self.data}"
        if self._own:
            known = f", {Path(self.data).name} {self._tables[1][:12]}"
        return f"{size}, {self.queries} queries, {self.columns} columns{known}"

    @property
    def caveat(self) -> str:
        """What is not used of a table, and that units are the table's."""
        if self.data == "functions":
            return ""
        few = [table.name for table in self._tables[0] if not self._rows(table)]
        left = (
            f"; {len(few)} of {len(self._tables[0])} tables left out, with too few rows ({_some(few)})" if few else ""
        )
        return f"columns and targets are standardised over all rows of a table{left}"

    @property
    def report_steps(self) -> tuple[int, ...]:
        """One step, those of meta-training, and twice as many."""
        return (1, 5, 10)

    @property
    def protocol(self) -> dict[str, Setting]:
        """There is none that is published."""
        values = {"inner_lr": 0.1, "steps": 5, "outer_lr": 0.001, "meta_batch": 16}
        return {name: Setting(value, CHOICE) for name, value in values.items()}

    @property
    def floor(self) -> float:
        """Chance in percent; the variance of the targets, 1."""
        return 100 / self.ways if self.goal == "classification" else 1.0

    def module(self) -> nn.Module:
        """A perceptron over the features and which of them are there."""
        return MLP(2 * self.columns, self.hidden, self.ways if self.goal == "classification" else 1)

    def sample(self, count: int, split: Split, generator: Generator) -> Rows:
        """`count` tasks; no row stands in both support and query.

        Raises:
            DataError: no table of a split has enough rows.
            MissingExtraError: scikit-learn is missing.
        """
        if self.data == "functions":
            return self._functions(count, generator)
        pool = self._pools[split]
        picked = torch.randint(len(pool), (count,), generator=generator).tolist()
        return Rows(*map(torch.stack, zip(*(self._of_table(pool[i], generator) for i in picked), strict=True)))

    def look_up(self, tasks: Rows, role: Role) -> Examples:
        """The rows, each feature beside whether it is there."""
        x, y, mask = (
            (tasks.support, tasks.support_y, tasks.support_mask)
            if role == "support"
            else (tasks.query, tasks.query_y, tasks.query_mask)
        )
        there = tasks.present.unsqueeze(1).expand_as(x) * mask.unsqueeze(-1)
        whole = self.data == "functions" or self.goal == "classification"
        return Examples(torch.cat([x, there], -1), y, () if whole else mask)

    def predict(self, params: Params, data: Examples) -> Tensor:
        """Log-probabilities [N, W], or ŷ [N, 1]."""
        output = self.call(params, data.x)
        return functional.log_softmax(output, -1) if self.goal == "classification" else output

    def losses(self, prediction: Tensor, data: Examples) -> Tensor:
        """Cross-entropies or squared errors, [N]."""
        if self.goal == "classification":
            return -prediction.gather(-1, data.y.unsqueeze(-1)).squeeze(-1)
        return (prediction - data.y).square().squeeze(-1)

    def score(self, prediction: Tensor, data: Examples) -> dict[str, Tensor]:
        """Accuracy in percent and the mean cross-entropy, or the mean squared error."""
        loss = self.mean(self.losses(prediction, data), data)
        if self.goal == "regression":
            return {"mse": loss}
        right = (prediction.argmax(-1) == data.y).to(prediction.dtype)
        return {"accuracy": 100 * self.mean(right, data), "loss": loss}

    def average(self, predictions: Tensor) -> Tensor:
        """Of classes the logarithm of the members' mean probability, of numbers their mean."""
        if self.goal == "regression":
            return predictions.mean(0)
        return torch.logsumexp(predictions, 0) - float(np.log(len(predictions)))

    def stand_in(self) -> Self:
        """Random functions in place of tables."""
        return replace(self, data="functions")

    def use(self) -> tuple[list[dict[str, object]], dict[str, str]]:
        """What would be used, a row for each split, and what is left out: table -> why."""
        rows: list[dict[str, object]] = [
            {
                "split": split,
                "tasks": len(pool),
                "rows": sum(len(table.columns) for table in pool),
                "fewest features": min(int(table.there.sum()) for table in pool),
                "most features": max(int(table.there.sum()) for table in pool),
            }
            for split, pool in self._pools.items()
        ]
        why = f"no feature that differs, or fewer rows than a task needs: {self._needs}"
        return rows, {table.name: why for table in self._tables[0] if not self._rows(table)}

    def _functions(self, count: int, generator: Generator) -> Rows:
        """Y = √(2 / M) Σ_m cos(w_m · x / √d + b_m), w ~ N(0, 1), b ~ U[0, 2π], x ~ N(0, 1), d ~ U{1..F}; variance 1.

        Classes are equal parts of the rows by their y, numbered at random.
        """
        each = self.shots + self.queries
        rows = each * (self.ways if self.goal == "classification" else 1)
        number = torch.randint(1, self.columns + 1, (count, 1), generator=generator)
        present = (torch.arange(self.columns) < number).float()
        x = torch.randn(count, rows, self.columns, generator=generator) * present.unsqueeze(1)
        weights = torch.randn(count, self.columns, BASES, generator=generator) / number.sqrt().unsqueeze(-1)
        shifts = 2 * torch.pi * torch.rand(count, 1, BASES, generator=generator)
        y = (2 / BASES) ** 0.5 * torch.cos(x.double() @ weights.double() + shifts).sum(-1)
        if self.goal == "classification":
            order = y.argsort(1).view(count, self.ways, each)  # by class
            names = torch.rand(count, self.ways, generator=generator).argsort(1)
            mixed = torch.rand(count, self.ways, each, generator=generator).argsort(-1)
            order = order.gather(2, mixed).gather(1, names.unsqueeze(-1).expand(-1, -1, each))
            parts = [part.flatten(1) for part in order.split([self.shots, self.queries], 2)]
            labels = [
                torch.arange(self.ways).repeat_interleave(n).expand(count, -1) for n in (self.shots, self.queries)
            ]
        else:
            parts = list(torch.arange(rows).expand(count, -1).split([self.shots, self.queries], 1))
            labels = [y.gather(1, part).float().unsqueeze(-1) for part in parts]
        support, query = (x.gather(1, part.unsqueeze(-1).expand(-1, -1, self.columns)) for part in parts)
        masks = [torch.ones(part.shape, dtype=torch.bool) for part in parts]
        return Rows(support, query, labels[0].contiguous(), labels[1].contiguous(), present, masks[0], masks[1])

    @property
    def _own(self) -> bool:
        return self.data not in ("functions", "sklearn")

    @cached_property
    def _tables(self) -> tuple[list[Table], str]:
        if not self._own:
            classes = self.goal == "classification"
            return [table for table in shipped() if classes == (table.labels is not None) or not classes], ""
        path, root = Path(self.data).expanduser(), data_dir()
        below = root / path if root else path
        path = below if not path.exists() and below.exists() else path
        tables, content = read(
            path, self.task, self.target, self.goal == "classification", (self.validation, self.test)
        )
        if (most := tables[0].columns.shape[1]) > self.columns:
            raise DataError(f"{path} has {most} columns of features. Give columns={most}, or a table with fewer.")
        return tables, content

    @property
    def _needs(self) -> str:
        if self.goal == "classification":
            return f"{self.shots + self.queries} of each of {self.ways} classes"
        return "2"

    def _rows(self, table: Table) -> list[NDArray[np.int64]]:
        """The rows of each class that has enough, or all rows; none where that does not make a task."""
        if not table.there.any():
            return []
        if self.goal == "regression":
            return [np.arange(len(table.columns), dtype=np.int64)] if len(table.columns) > 1 else []
        labels = table.labels if table.labels is not None else np.zeros(0, np.int64)
        classes = [np.flatnonzero(labels == label).astype(np.int64) for label in np.unique(labels)]
        enough = [rows for rows in classes if len(rows) >= self.shots + self.queries]
        return enough if len(enough) >= self.ways else []

    @cached_property
    def _pools(self) -> dict[Split, list[Table]]:
        tables = self._tables[0]
        pools = {split: [t for t in tables if t.split == split and self._rows(t)] for split in SPLITS}
        if empty := [split for split, pool in pools.items() if not pool]:
            counts = ", ".join(f"{len(pool)} {split}" for split, pool in pools.items())
            raise DataError(
                f"{self.data} has {len(tables)} tasks ({_some([t.name for t in tables])}), of which there are for use "
                f"{counts}: none for {empty[0]}. A task needs rows: {self._needs}. Lower shots, queries or ways, or "
                "give more tasks."
            )
        return pools

    def _of_table(self, table: Table, generator: Generator) -> tuple[Tensor, ...]:
        """One task's parts of `Rows`: a CSV's columns where they are, others some in an order of their own."""
        there = torch.from_numpy(table.there)
        columns = torch.arange(len(there)) if self._own else there.nonzero()[:, 0]
        values = table.target
        if not self._own:
            columns = columns[torch.randperm(len(columns), generator=generator)]
            if self.goal == "regression" and values is None:  # of a table of classes, one of its columns
                values, columns = table.columns[:, int(columns[0])], columns[1:]
            columns = columns[: self.columns]
        known = [torch.from_numpy(rows) for rows in self._rows(table)]
        mixed = [rows[torch.randperm(len(rows), generator=generator)] for rows in known]
        sizes = self.shots, self.queries
        if self.goal == "classification":
            chosen = torch.randperm(len(mixed), generator=generator)[: self.ways].tolist()
            both = slice(self.shots), slice(self.shots, self.shots + self.queries)
            support, query = (torch.cat([mixed[c][part] for c in chosen]) for part in both)
            targets = [torch.arange(self.ways).repeat_interleave(size) for size in sizes]
        else:
            count = min(self.shots, len(mixed[0]) // 2)
            support, query = mixed[0][:count], mixed[0][count : count + self.queries]
            y = torch.from_numpy(values).float().unsqueeze(-1)
            targets = [_padded(y[rows], size) for rows, size in zip((support, query), sizes, strict=True)]
        masks = [torch.arange(len(y)) < len(rows) for y, rows in zip(targets, (support, query), strict=True)]
        wide = 0, self.columns - len(columns)
        x = functional.pad(torch.from_numpy(table.columns).float()[:, columns], wide)
        shown = [_padded(x[rows], len(mask)) for rows, mask in zip((support, query), masks, strict=True)]
        present = functional.pad(there[columns].float(), wide)
        return (*shown, *targets, present, *masks)


def _padded(rows: Tensor, most: int) -> Tensor:
    return functional.pad(rows, (0, 0, 0, most - len(rows)))


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
