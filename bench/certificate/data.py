"""Whether a suite reads what it should: its data by content, and its frozen tasks by their published hashes."""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import NamedTuple, get_args

from bench.core.data import Dataset, cache_dir
from bench.core.discovery import Catalogue, Named, parse
from bench.core.environment import variable
from bench.core.errors import BenchError, DataError, ManifestError, foreign
from bench.core.types import Split, Suite
from bench.learning.evaluate import FROZEN, frozen, manifest
from bench.planning.plan import suite_of


class Verified(NamedTuple):
    """One thing that was looked at."""

    ok: bool
    what: str  # images_background; the test tasks of 5-way 1-shot
    found: str  # how much and by which hash, or what is wrong


def dataset_of(suite: Suite) -> Dataset | None:
    """What a suite downloads, if anything."""
    found = getattr(type(suite), "data", None)
    return found if isinstance(found, Dataset) else None


def fetched(name: str, catalogue: Catalogue) -> list[str]:
    """Where a suite's data lie, after downloading them; nothing where what it reads is at hand by itself.

    Raises:
        DataError: a download failed, or the data can't be downloaded by bench.
    """
    suite = suite_of(catalogue, _one(name))
    if dataset := dataset_of(suite):
        return [str(path) for path in dataset.fetch()]
    with foreign(f"{name} can't be read"):
        suite.check()
    return []


def verified(name: str, catalogue: Catalogue) -> Iterator[Verified]:
    """What a suite downloads, by content; then what it reads of every split, anew, and its frozen tasks.

    Raises:
        DataError: data are missing.
        PluginError: the suite breaks while it reads.
    """
    named = _one(name)
    suite, name = suite_of(catalogue, named), named.name
    dataset = dataset_of(suite)
    rows = dataset.verify() if dataset else ()
    yield from (Verified(row.ok, row.name, f"{row.files} files, SHA-256 {row.sha256}, {row.where}") for row in rows)
    if not all(row.ok for row in rows):
        return
    with contextlib.nullcontext() if dataset else _no_cache(), foreign(f"{name} can't be read"):
        splits: tuple[Split, ...] = get_args(Split)
        for split in splits:
            try:
                suite.check(split)
            except DataError as error:
                if split == splits[0]:
                    raise
                yield Verified(False, f"{split} data", str(error))
                return
        for setting, variant in {variant.setting: variant for variant in suite.evaluations}.items():
            for split in splits:
                if split in FROZEN:
                    yield _tasks(variant, name, setting, split)


def used(text: str, catalogue: Catalogue) -> tuple[list[dict[str, object]], dict[str, str]]:
    """What a suite of somebody's own images would use, a row for each split, and what it leaves out: path -> why.

    Args:
        text: a folder, a zip or a CSV, or a suite such as images[folder=photos,ways=3].
        catalogue: of the suites.

    Raises:
        BenchError: it is none of these, or there is too little for a task.
    """
    named = _one(text) if "[" in text else Named("images", {"folder": text})
    suite = suite_of(catalogue, named)
    if not hasattr(suite, "use"):
        raise BenchError(f"{named} reads no folder of your own. Give a folder, or images[folder=photos].")
    found: tuple[list[dict[str, object]], dict[str, str]] = suite.use()
    return found


def _one(text: str) -> Named:
    named, *others = parse(text)
    if others:
        raise BenchError(f"{text!r} is more than one name. Give one, such as {named.name}.")
    return named


def _tasks(suite: Suite, name: str, setting: str, split: Split) -> Verified:
    what = f"{split} tasks of {setting}"
    try:
        tasks = manifest(suite, name, split)[1]
    except ManifestError as error:
        return Verified(False, what, str(error))
    return Verified(True, what, f"{frozen(suite, split)} frozen tasks, SHA-256 {tasks}")


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """An empty cache meanwhile, so that what is read is read from where it lies."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as empty, variable("BENCH_CACHE_DIR", empty):
        yield
