"""Which class a stored learner takes images of one's own for, after it has seen some of each."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.cells.adapt import learner
from bench.core.discovery import Catalogue
from bench.core.errors import BenchError
from bench.core.images import IMAGES, image_files
from bench.core.types import Normal
from bench.storage.store import Store


class Answer(NamedTuple):
    """What one image is taken for."""

    file: str  # below the query's folder
    answer: str  # a folder of the support
    probability: float


class Answers(NamedTuple):
    """What all images of a query are taken for."""

    rows: list[Answer]
    caveat: str  # what a reader must know of them, if anything


def classify(root: Path, cell: str, support: Path, query: Path, plugins: tuple[Path, ...] = ()) -> Answers:
    """The classes of the images in a folder, by a finished cell's learner, adapted to images in folders of classes.

    Args:
        root: the run directory.
        cell: its id.
        support: a folder with a folder of images for each class.
        query: a folder of images.
        plugins: plug-in files.

    Raises:
        BenchError: there is no such cell, its suite is not one of images, or the folders do not hold what they must.
    """
    catalogue = Catalogue(plugins)
    trained = learner(Store.open(root), cell, catalogue)
    suite: Any = trained.suite
    if not hasattr(suite, "picture"):
        able = ", ".join(catalogue.having("picture")) or "none"
        raise BenchError(
            f"{trained.label} does not read image files. Suites that do: {able}. For others, "
            f"`bench.load({str(root)!r}).learner({cell!r}).adapt((x, y))(x_query)` predicts from Python."
        )
    classes = _classes(support)
    if len(classes) != suite.outputs:
        raise BenchError(
            f"{support} holds images of {len(classes)} classes ({', '.join(classes) or 'none'}), but {trained.label} "
            f"tells {suite.outputs} apart. Give {suite.outputs} folders, or a cell of another number of ways."
        )
    shown = [(path, label) for label, files in enumerate(classes.values()) for path in files]
    asked = list(image_files(_folder(query), IMAGES))
    if not asked:
        raise BenchError(f"{query} holds no image to name. Put files there: {', '.join(IMAGES)}.")
    adapted = trained.adapt((_pictures(suite, [p for p, _ in shown]), torch.tensor([label for _, label in shown])))
    prediction = adapted(_pictures(suite, asked))
    values = prediction.mean if isinstance(prediction, Normal) else prediction
    probabilities, answers = values.exp().max(-1)
    names = list(classes)
    together = suite.normalisation == "transductive"
    return Answers(
        [
            Answer(path.relative_to(query).as_posix(), names[answer], probability)
            for path, answer, probability in zip(asked, answers.tolist(), probabilities.tolist(), strict=True)
        ],
        "the images are normalised together: what one is taken for depends on which others are asked about"
        if together
        else "",
    )


def _pictures(suite: Any, files: list[Path]) -> torch.Tensor:
    return torch.stack([suite.picture(path) for path in files])


def _classes(support: Path) -> dict[str, list[Path]]:
    """Class -> its images, sorted by name."""
    found: dict[str, list[Path]] = {}
    for path in image_files(_folder(support), IMAGES):
        first, *rest = path.relative_to(support).parts
        if not rest:
            raise BenchError(f"{path} is in no class's folder. Put it into one: {support}/CLASS/{first}.")
        found.setdefault(first, []).append(path)
    return found


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise BenchError(f"{path} is no folder. Give one that holds images.")
    return path
