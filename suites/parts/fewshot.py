"""What every N-way K-shot suite of images shares: how tasks are drawn, looked up and scored.

One class drawn per label, its drawings permuted, each class turned by its own multiple of 90 degrees (the class
augmentation of Finn et al. 2017, code). Letters: T tasks, W ways, S shots, Q queries per class, C classes.
"""

from collections.abc import Sequence
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

from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.images import decode
from bench.core.sheet import Sheet
from bench.core.types import Budget, Kind, Params, Role, Setting, Split, Supervised
from suites.parts.labelled import Classification
from suites.parts.nets import BatchNorm, Conv4, FullyConnected, Pool4, ResNet12
from suites.parts.queries import CONCENTRATION, Unbalanced, unbalanced

FINN = "Finn et al. 2017, A.1"
Queries = Annotated[int, Field(ge=1)] | Literal["dirichlet"] | None
UNBALANCED = 15  # queries of a class on average where they are drawn by proportions, or a third of what there is


class Classes(NamedTuple):
    """Tasks as indices: label w of task t is class `classes[t, w]`, turned `turns[t, w]` times."""

    classes: Tensor  # [T, W]
    turns: Tensor  # [T, W], quarter turns
    drawings: Tensor  # [T, W, S + Q], support first


class Labelled(NamedTuple):
    """Images of one task; those that have no label come first and only give the statistics of normalisation."""

    images: Tensor  # [M, 1, H, W]
    labels: Tensor  # [N], the last N images


@dataclass(frozen=True, kw_only=True)
class Images(Classification):
    """N-way K-shot classification; subclasses give `pixels` and `classes_of`."""

    ways: Annotated[int, Field(ge=2, description="classes in a task")] = 5
    shots: Annotated[int, Field(ge=1, description="support drawings per class")] = 1
    queries: Annotated[
        Queries,
        Field(description="query drawings per class; as many as shots unless given; dirichlet: at test of each class "
              "another number, by proportions from a Dirichlet distribution (Veilleux et al. 2021, arXiv:2204.11181)"),
    ] = None  # fmt: skip
    train_tasks: Annotated[
        int, Field(ge=0, le=100_000, description="training tasks that exist, each with its drawings; 0: without end")
    ] = 0
    norm: Annotated[
        Literal["transductive", "inductive"],
        Field(description="whether the query batch is normalised by its own statistics or by the support's"),
    ] = "transductive"
    net: Annotated[
        Literal["conv", "fc", "conv4-64", "resnet12"],
        Field(
            description="the paper's 4x64 strided convolutions (conv) or 256-128-64-64 (fc); 4x64 with batch norm and "
            "max-pooling (conv4-64); residual blocks of 64-160-320-640 (resnet12)"
        ),
    ] = "conv"

    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(4, 10, 5),
        "quick": Budget(1_000),
        "standard": Budget(10_000),
        "paper": Budget(60_000),
    }

    drawings_per_class: ClassVar[int] = 20
    image_shape: ClassVar[tuple[int, ...]] = (28, 28)

    def __post_init__(self) -> None:
        """Refuses tasks that need more drawings than a class has."""
        available = self.drawings_per_class
        if self.shots + self.per_class_queries > available:
            raise BenchError(
                f"shots={self.shots} and {self.per_class_queries} queries per class need "
                f"{self.shots + self.per_class_queries} drawings of each class, which has {available}. "
                f"Lower shots, or give queries explicitly: shots + queries <= {available}."
            )

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [C, drawings, H, W], dark ink on white."""
        raise NotImplementedError

    def classes_of(self, split: Split) -> Tensor:
        """The indices of a split's classes."""
        raise NotImplementedError

    @property
    def kinds(self) -> Sequence[str]:
        """What each class is one of, such as an alphabet, for a picture of what is confused; by default its own."""
        return [f"class {i}" for i in range(len(self.pixels))]

    @property
    def per_class_queries(self) -> int:
        """Query drawings per class, on average."""
        if self.queries == "dirichlet":
            return max(1, min(UNBALANCED, (self.drawings_per_class - self.shots) // 3))
        return self.queries or self.shots

    @property
    def setting(self) -> str:
        """As papers name it."""
        extra = f", {self.queries} queries" if self.queries else ""
        if self.queries == "dirichlet":
            extra = f", {self.ways * self.per_class_queries} queries by Dirichlet({CONCENTRATION})"
        return f"{self.ways}-way {self.shots}-shot{extra}"

    @property
    def report_steps(self) -> tuple[int, ...]:
        """One step, and the number that the paper took at test."""
        return (1, 3) if self.ways < 20 else (1, 5)

    @property
    def protocol(self) -> dict[str, Setting]:
        """The paper's for 5 ways below 20 ways, and for 20 ways from there; its rates are in its own loss's units."""
        published, steps, batch = (0.4, 1, 32) if self.ways < 20 else (0.1, 5, 16)
        return {
            "inner_lr": self.rate(published),
            "steps": Setting(steps, FINN),
            "outer_lr": Setting(0.001, "Finn et al. 2017, code"),
            "meta_batch": Setting(batch, FINN),
        }

    def rate(self, published: float) -> Setting:
        """The inner rate of the paper's network, in units of the mean loss; of another network one that suits it."""
        if self.net == "resnet12":
            return Setting(0.01, "a choice of this suite: the paper's is of a smaller network, whose loss it lowers")
        if self.net == "conv4-64":
            published = 0.01  # of the paper's own network with max-pooling, which has half the filters
        source = f"published {published}, which multiplies the gradient of N = {self.ways} times the mean loss ({FINN})"
        return Setting(published * self.ways, source)

    @property
    def floor(self) -> float:
        """Chance, in percent."""
        return 100 / self.ways

    @property
    def evaluations(self) -> tuple[Self, ...]:
        """Normalised as declared, then the other way."""
        other: Literal["transductive", "inductive"] = "inductive" if self.norm == "transductive" else "transductive"
        return (self, replace(self, norm=other))

    def module(self) -> nn.Module:
        """The network that `net` names."""
        return self.network(self.ways)

    def network(self, outputs: int) -> nn.Module:
        """Likewise, with another number of outputs."""
        *colours, height, width = self.image_shape
        channels = colours[0] if colours else 1
        if self.net == "resnet12":
            return ResNet12(outputs, channels)
        if self.net == "conv4-64":
            return Pool4(outputs, 64, (height // 16) * (width // 16), channels, BatchNorm)
        return Conv4(outputs) if self.net == "conv" else FullyConnected(outputs)

    def adaptable(self, name: str) -> bool:
        """All but the shifts (and scales) of normalisation, which the paper's code leaves out of the inner loop."""
        return "norms" not in name.split(".")

    def sample(self, count: int, split: Split, generator: Generator) -> Classes | Unbalanced:
        """`count` tasks; no class stands twice in a task, no drawing both in support and query."""
        if split == "train" and self.train_tasks:
            picked = torch.randint(self.train_tasks, (count,), generator=generator)
            return Classes(*(leaf[picked] for leaf in self._training_tasks))
        return self.drawn(count, split, generator)

    @cached_property
    def _training_tasks(self) -> Classes | Unbalanced:
        """All that exist, where their number is finite."""
        return self.drawn(self.train_tasks, "train", seeds.generator("pool", type(self).__name__))

    def drawn(self, count: int, split: Split, generator: Generator) -> Classes | Unbalanced:
        """`count` new tasks."""
        classes, turns = self.chosen(count, split, generator)
        order = permutations(count * self.ways, self.drawings_per_class, generator).view(count, self.ways, -1)
        return self.dealt(split, classes, turns, order, torch.tensor(self.drawings_per_class), generator)

    def chosen(self, count: int, split: Split, generator: Generator) -> tuple[Tensor, Tensor]:
        """The classes of `count` tasks and how they are turned, [T, W] each."""
        classes = self.classes_of(split)
        self.check_ways(len(classes), split)
        places = permutations(count, len(classes), generator)[:, : self.ways]
        return classes[places], torch.randint(4, (count, self.ways), generator=generator)

    def check_ways(self, classes: int, split: Split) -> None:
        """Refuses tasks of more classes than a split has."""
        if self.ways > classes:
            raise BenchError(f"ways={self.ways}, but the {split} split has {classes} classes. Give ways <= {classes}.")

    def dealt(
        self, split: Split, classes: Tensor, turns: Tensor, order: Tensor, there: Tensor, generator: Generator
    ) -> Classes | Unbalanced:
        """Drawings as support and query of the tasks.

        Args:
            split: whose tasks they are: in training, classes are equally frequent.
            classes: [T, W].
            turns: [T, W].
            order: [T, W, most]: the numbers of each class's drawings, shuffled.
            there: how many of those there are, [] or [T, W]; the others come last.
            generator: of proportions.
        """
        if self.queries != "dirichlet" or split == "train":
            return Classes(classes, turns, order[..., : self.shots + self.per_class_queries])
        room = (there - self.shots).expand(classes.shape)
        return unbalanced(classes, turns, order, room, self.shots, self.ways * self.per_class_queries, generator)

    def look_up(self, tasks: Classes | Unbalanced, role: Role) -> Labelled:
        """The images, ink 1 on paper 0, class by class; an inductive query brings the support along."""
        support = tasks.drawings[..., : self.shots]
        if role == "support":
            return Labelled(self.images(tasks, support), self._labels(support))
        if isinstance(tasks, Unbalanced):  # each query as a class of its own, of one drawing
            classes, turns = (leaf.gather(1, tasks.labels) for leaf in (tasks.classes, tasks.turns))
            shown = tasks.shown.unsqueeze(-1)
            images, labels = self.images(Classes(classes, turns, shown), shown), tasks.labels
        else:
            query = tasks.drawings[..., self.shots :]
            images, labels = self.images(tasks, query), self._labels(query)
        if self.norm == "inductive":
            images = torch.cat([self.images(tasks, support), images], 1)
        return Labelled(images, labels)

    @property
    def outputs(self) -> int:
        """The ways."""
        return self.ways

    def inputs(self, data: Labelled) -> Tensor:
        """The images that have a label, [N, 1, H, W]."""
        return data.images[len(data.images) - len(data.labels) :]

    def features(self, params: Params, data: Labelled) -> Tensor:
        """What the network computes of them before its head, [N, F]."""
        return super().features(params, data)[len(data.images) - len(data.labels) :]

    def answer(self, params: Params, features: Tensor) -> Tensor:
        """The head's log-probabilities, [N, W]."""
        return functional.log_softmax(self.end(params, features), -1)

    def predict(self, params: Params, data: Labelled) -> Tensor:
        """Log-probabilities [N, W]."""
        unlabelled = len(data.images) - len(data.labels)
        logits = self.call(params, data.images, unlabelled or None)[unlabelled:]
        return functional.log_softmax(logits, -1)

    def pretraining(self) -> "Pretraining":
        """All training classes at once, under one wide head."""
        return Pretraining(self)

    def replace_head(self, params: Params, generator: Generator) -> Params:
        """The pretrained body under a fresh head for `ways` classes, drawn as pretraining's was."""
        weight = params["head.weight"].new_empty(self.ways, params["head.weight"].shape[1])
        nn.init.xavier_uniform_(weight, generator=generator)
        return {**params, "head.weight": weight, "head.bias": weight.new_zeros(self.ways)}

    def stand_in(self) -> Self:
        """Random pixels in place of the data set's, the same for every class."""
        other = replace(self)
        count = max(int(self.classes_of(split).max()) for split in get_args(Split)) + 1
        shape = (self.drawings_per_class, *self.image_shape)
        noise = torch.randint(256, shape, generator=Generator().manual_seed(0), dtype=torch.uint8)
        vars(other)["_tensor"] = noise.expand(count, *shape)
        return other

    def sheet(self) -> Sheet:
        """Twelve test classes, all their drawings."""
        classes = self.classes_of("test")
        rows = classes[torch.linspace(0, len(classes) - 1, 12).long()]
        return Sheet("images", 1 - self.pixels[rows.numpy()] / 255.0)

    def images(self, tasks: Classes | Unbalanced, drawings: Tensor) -> Tensor:
        """[T, W, S] drawings of the tasks' classes -> [T, W S, 1, H, W], turned, ink 1 on paper 0."""
        images = self._tensor[tasks.classes.unsqueeze(-1), drawings]  # [T, W, S, H, W]
        turns = tasks.turns
        for quarter in (1, 2, 3):
            turned = turns == quarter
            images[turned] = torch.rot90(images[turned], quarter, (-2, -1))
        return 1 - images.flatten(1, 2).unsqueeze(2).float() / 255

    def picture(self, path: Path) -> Tensor:
        """An image file, dark ink on light paper, as the network sees it: [1, H, W], ink 1 on paper 0.

        Raises:
            DataError: it is no image.
        """
        height, width = self.image_shape
        return 1 - torch.from_numpy(decode(path, (height, width), "L").copy()).unsqueeze(0).float() / 255

    def _labels(self, drawings: Tensor) -> Tensor:
        count, ways, each = drawings.shape
        return torch.arange(ways).repeat_interleave(each).expand(count, -1)

    @cached_property
    def _tensor(self) -> Tensor:
        return torch.from_numpy(self.pixels)


class Pretraining(Supervised):
    """Plain classification of all training classes by one wide head, on the same images that meta-training sees.

    A class in one of its four orientations is a class of its own here.
    """

    kind: ClassVar[Kind] = "classification"

    def __init__(self, suite: Images) -> None:
        """The view of `suite` under which a network is pretrained."""
        self.suite = suite
        self.classes = suite.classes_of("train")

    @property
    def protocol(self) -> dict[str, Setting]:
        """The suite's."""
        return self.suite.protocol

    @property
    def report_steps(self) -> tuple[int, ...]:
        """The suite's."""
        return self.suite.report_steps

    @property
    def floor(self) -> float:
        """Accuracy in percent by chance."""
        return 100 / (4 * len(self.classes))

    def module(self) -> nn.Module:
        """The suite's network with one output per class and orientation; its head starts small, since it is wide."""
        network = self.suite.network(4 * len(self.classes))
        nn.init.xavier_uniform_(network.get_parameter("head.weight"))
        return network

    def sample(self, count: int, split: Split, generator: Generator) -> Classes | Unbalanced:
        """The suite's tasks."""
        return self.suite.sample(count, split, generator)

    def look_up(self, tasks: Classes, role: Role) -> Labelled:
        """All the images of all tasks in one batch [1, T N, ...], with labels that mean the same in every task."""
        labels = 4 * torch.searchsorted(self.classes, tasks.classes) + tasks.turns
        each = tasks.drawings.shape[-1]
        images = self.suite.images(tasks, tasks.drawings).flatten(0, 1)
        return Labelled(images.unsqueeze(0), labels.flatten().repeat_interleave(each).unsqueeze(0))

    def predict(self, params: Params, data: Labelled) -> Tensor:
        """Log-probabilities [N, 4 C]."""
        return functional.log_softmax(self.call(params, data.images), -1)

    def losses(self, prediction: Tensor, data: Labelled) -> Tensor:
        """Cross-entropy per image, [N]."""
        return self.suite.losses(prediction, data)

    def score(self, prediction: Tensor, data: Labelled) -> dict[str, Tensor]:
        """Accuracy in percent and the mean cross-entropy, over all classes."""
        return self.suite.score(prediction, data)


def permutations(rows: int, length: int, generator: Generator) -> Tensor:
    """[rows, length]: the numbers below `length`, each row in an order of its own."""
    # Sorting uniform draws, not randperm: one call for all rows, and a stream that torch's versions share.
    return torch.rand(rows, length, generator=generator, dtype=torch.float64).argsort(1)
