"""Rainbow MNIST: 56 tasks that share the 70,000 digits, by stand-ins and by the real ones where they are at hand."""

import os
from pathlib import Path

import pytest
import torch

from bench.core.errors import BenchError
from suites.rainbow_mnist import DATA, KINDS, RainbowMNIST
from tests.conftest import ROOT


def test_no_two_tasks_share_an_image_or_a_look() -> None:
    tasks = RainbowMNIST().sample(56, "test", torch.Generator().manual_seed(0))
    assert len(KINDS) == len(tasks.kind.unique(dim=0)) == 56
    assert len(tasks.images.unique()) == 70_000


def test_more_images_than_a_task_has_are_refused() -> None:
    with pytest.raises(BenchError, match=r"a task has 1,250 images: give points \+ unseen <= 1,250"):
        RainbowMNIST(points=1200)


def test_an_image_is_turned_then_shrunk_then_coloured() -> None:
    suite = RainbowMNIST().stand_in()
    tasks = suite.sample(56, "test", torch.Generator().manual_seed(0))
    kinds = torch.tensor([(3, 0, 0), (3, 0, 1), (0, 1, 0)])
    some = tasks._replace(kind=kinds, images=tasks.images[:1].expand(3, -1))
    plain, turned, small = suite.show(some, torch.arange(5).expand(3, -1)).images
    torch.testing.assert_close(torch.rot90(plain, 1, (-2, -1)), turned)
    assert torch.equal(plain[:, 1], torch.ones(5, 28, 28))  # green paper and white ink
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[7:21, 7:21] = False
    assert torch.equal(small[:, :, frame].unique(dim=2)[0, :, 0], torch.tensor([1.0, 0.0, 0.0]))  # red paper


def test_the_real_digits_are_as_many_of_each_as_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (os.environ.get("BENCH_DATA_DIR"), ROOT.parent / "shared" / "data")
    found = next((Path(f) for f in folders if f and (Path(f) / "mnist").is_dir()), None)
    if found is None:
        pytest.skip("real MNIST not found: set BENCH_DATA_DIR")
    monkeypatch.setenv("BENCH_DATA_DIR", str(found))
    assert all(row.ok for row in DATA.verify())
    labels = RainbowMNIST()._rows[:, -1]
    assert labels.bincount().tolist() == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
