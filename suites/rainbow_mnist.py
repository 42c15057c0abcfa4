"""Rainbow MNIST: digits on 7 colours, at 2 scales, turned 4 ways, one combination after the other.

The stream of Finn, Rajeswaran, Kakade, Levine 2019 (arXiv:1902.08438), section 5.1, of the digits of LeCun, Cortes,
Burges. No script that made theirs is public; here the 70,000 digits are shared among the 56 tasks, 1,250 each, and an
image is turned, at half scale shrunk to 14x14 and framed, and its paper coloured; the ink is white. Protocol and
network are those of the authors' code, but for the known tasks, which have given all their points, not 200 of them.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.core import seeds
from bench.core.data import Archive, Dataset
from bench.core.errors import BenchError, DataError
from bench.core.sheet import Sheet
from bench.core.stream import Stream
from bench.core.types import Budget, Params, Setting, Split
from suites import published
from suites.parts.labelled import Classification, cross_entropy
from suites.parts.nets import Conv6

FINN = "Finn et al. 2019, code"
SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist"
FILES = {
    "train-images-idx3-ubyte": "3aab8a940ce7f5e0c005184437f54c558736e9a62e680d62f4fb203a3195cd40",
    "train-labels-idx1-ubyte": "4a7a7fac92d4e18761b5f950d3014f08c999e28f5f7a4d35b66ade313e90df0d",
    "t10k-images-idx3-ubyte": "6aa2c2d68c9d85d6ac880b441a3a073cce93d7fce7e96568be948e81c547a42b",
    "t10k-labels-idx1-ubyte": "7b2afe4c8f51df802be72075bf2804c89292d56d9e78a05c03844cb4e9dcf5f7",
}
DATA = Dataset(
    "rainbow_mnist",
    tuple(Archive(name, f"{SOURCE}/{name}.gz", sha256, 2**26, "gz") for name, sha256 in FILES.items()),
    "MNIST: CC BY-SA 3.0, Yann LeCun, Corinna Cortes, Christopher Burges",
    folder="mnist",
)
DIGITS, SIDE, WAYS = 70_000, 28, 10
COLOURS = torch.tensor(  # red, orange, yellow, green, blue, indigo, violet
    [(255, 0, 0), (255, 127, 0), (255, 255, 0), (0, 255, 0), (0, 0, 255), (75, 0, 130), (148, 0, 211)]
)
KINDS = torch.tensor(list(product(range(len(COLOURS)), range(2), range(4))))  # [56, 3]: colour, half scale, turns
SMOOTHING = 0.1  # of the labels in what is minimised


class Kinds(NamedTuple):
    """Tasks: how images look, and which they are, in the order in which they come."""

    kind: Tensor  # [T, 3], of KINDS
    images: Tensor  # [T, 1250], of which the first are met


class Coloured(NamedTuple):
    """Images of one task and the digits that they show."""

    images: Tensor  # [N, 3, 28, 28], from 0 to 1
    labels: Tensor  # [N]


@dataclass(frozen=True, kw_only=True)
class RainbowMNIST(Stream, Classification):
    """10-way classification of digits, 900 images in each of 56 tasks, which differ in colour, scale and turn."""

    points: Annotated[int, Field(ge=2, description="images that a task gives in its round, one after the other")] = 900
    unseen: int = 100
    shots: int = 10
    known: int = 20

    length: ClassVar[int] = len(KINDS)
    norm: ClassVar[str] = "transductive"  # type: ignore[misc]  # a fact of the authors' network
    presets: ClassVar[dict[str, Budget]] = {
        "smoke": Budget(4, 2, 2),
        "quick": Budget(1_460, 36, 12),
        "standard": Budget(24_090, 36, 12),
        "paper": Budget(73_000, 36, 12),
    }
    data: ClassVar[Dataset] = DATA
    manifests: ClassVar[dict[str, str]] = published()["rainbow_mnist"]

    def __post_init__(self) -> None:
        """Refuses more images than there are."""
        super().__post_init__()
        if (most := DIGITS // len(KINDS)) < self.points + self.unseen:
            raise BenchError(f"a task has {most:,} images: give points + unseen <= {most:,}.")

    @property
    def setting(self) -> str:
        """How much comes."""
        return f"10-way, {self.points} points"

    @property
    def protocol(self) -> dict[str, Setting]:
        """The code's, in whose loss 10 images are averaged."""
        return {
            "inner_lr": Setting(0.1, FINN),
            "steps": Setting(5, FINN),
            "outer_lr": Setting(0.001, FINN),
            "meta_batch": Setting(25, FINN),
        }

    @property
    def floor(self) -> float:
        """Chance, in percent."""
        return 100 / WAYS

    @property
    def outputs(self) -> int:
        """The digits."""
        return WAYS

    def module(self) -> nn.Module:
        """The code's network."""
        return Conv6(WAYS)

    def adaptable(self, name: str) -> bool:
        """All but the shifts of normalisation, as in the code of Finn et al. 2017, from which this one's comes."""
        return "norms" not in name.split(".")

    def sample(self, count: int, split: Split, generator: Generator) -> Kinds:
        """The 56 tasks, each with images of its own, in some order; beyond 56 once more with other images."""
        passes = -(-count // len(KINDS))
        orders = [torch.rand(len(KINDS), generator=generator, dtype=torch.float64).argsort() for _ in range(passes)]
        shares = [torch.rand(DIGITS, generator=generator, dtype=torch.float64).argsort() for _ in range(passes)]
        own = torch.cat([share.view(len(KINDS), -1) for share in shares])
        return Kinds(KINDS[torch.cat(orders)[:count]], own[:count])

    def show(self, tasks: Kinds, places: Tensor) -> Coloured:
        """The images at these places, turned, shrunk and coloured."""
        rows = self._rows[tasks.images.gather(1, places)]
        ink = rows[..., :-1].unflatten(-1, (SIDE, SIDE)).float() / 255
        for task, (_, half, turns) in enumerate(tasks.kind.tolist()):
            ink[task] = torch.rot90(ink[task], turns, (-2, -1))
            if half:
                ink[task] = functional.pad(functional.avg_pool2d(ink[task], 2), (SIDE // 4,) * 4)
        paper = COLOURS[tasks.kind[:, 0]].view(-1, 1, 3, 1, 1) / 255
        ink = ink.unsqueeze(2)
        return Coloured(ink + (1 - ink) * paper, rows[..., -1].long())

    def predict(self, params: Params, data: Coloured) -> Tensor:
        """Log-probabilities [N, 10]."""
        return functional.log_softmax(self.call(params, data.images), -1)

    def losses(self, prediction: Tensor, data: Any) -> Tensor:
        """Cross-entropy of smoothed labels per image, [N]."""
        return (1 - SMOOTHING) * cross_entropy(prediction, data.labels) - SMOOTHING * prediction.mean(-1)

    def stand_in(self) -> Self:
        """Random pixels in place of the digits."""
        other = replace(self)
        noise = torch.randint(256, (DIGITS // len(KINDS), SIDE * SIDE + 1), generator=seeds.generator("stand-in"))
        noise[:, -1] %= WAYS
        vars(other)["_rows"] = noise.byte().repeat(len(KINDS), 1)
        return other

    def sheet(self) -> Sheet:
        """Twelve tasks, twenty images of each."""
        tasks = self.sample(12, "test", seeds.generator("sheet"))
        shown = self.show(tasks, torch.arange(20).expand(12, -1)).images
        return Sheet("images", shown.movedim(2, -1).numpy())

    @cached_property
    def _rows(self) -> Tensor:
        return torch.from_numpy(digits())


@cache
def digits() -> NDArray[np.uint8]:
    """uint8 [70000, 785], the training digits, then the test digits: 784 pixels, ink 255, and the digit."""
    return DATA.array("digits", _read_digits)


def _read_digits() -> NDArray[np.uint8]:
    content = {archive.name: data for archive in DATA.archives for _, data in DATA.files(archive)}
    parts = []
    for name in ("train", "t10k"):
        images = np.frombuffer(content[f"{name}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, SIDE * SIDE)
        labels = np.frombuffer(content[f"{name}-labels-idx1-ubyte"], np.uint8, offset=8).reshape(-1, 1)
        parts.append(np.concatenate([images, labels], 1))
    whole = np.concatenate(parts)
    if len(whole) != DIGITS:
        raise DataError(f"the files of {DATA.name} hold {len(whole)} digits, not {DIGITS}.")
    return whole
