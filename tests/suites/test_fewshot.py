"""Few-shot image tasks: what is drawn, how it is normalised, and whose rates are whose."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from algorithms.maml import MAML
from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.task import SuiteTask
from bench.learning.evaluate import FROZEN, manifest
from suites.glyphs import Glyphs
from suites.omniglot import Omniglot
from suites.parts.fewshot import Classes, Labelled
from suites.parts.labelled import calibration_error
from suites.parts.nets import CentredNorm
from suites.parts.queries import Unbalanced, frequencies


def test_no_drawing_is_both_support_and_query_and_no_class_stands_twice() -> None:
    tasks = Glyphs(ways=20, shots=5, queries=15).sample(50, "train", seeds.generator(0))
    for t in range(50):
        assert len(tasks.classes[t].unique()) == 20
        assert all(len(row.unique()) == 20 for row in tasks.drawings[t])


def test_drawings_are_permuted_within_a_class() -> None:
    tasks = Glyphs().sample(4000, "train", seeds.generator(0))
    share = torch.bincount(tasks.drawings[..., 0].flatten(), minlength=20) / 20_000
    assert share.min() > 0.04
    assert share.max() < 0.06


def test_each_class_is_turned_by_its_own_multiple_of_90_degrees() -> None:
    suite = Glyphs(ways=4, shots=2, queries=1)
    tasks = Classes(torch.full((1, 4), 3), torch.tensor([[0, 1, 2, 3]]), torch.arange(3).repeat(1, 4, 1))
    images = suite.look_up(tasks, "support").images[0, :, 0].view(4, 2, 28, 28)
    for quarter in range(4):
        assert torch.equal(images[quarter], torch.rot90(images[0], quarter, (-2, -1)))
    assert torch.equal(images[0, 1], 1 - torch.from_numpy(suite.pixels[3, 1]).float() / 255)


def test_labels_and_images_belong_together() -> None:
    suite = Glyphs(ways=3, shots=2)
    tasks = suite.sample(5, "test", seeds.generator(0))
    still = tasks._replace(turns=torch.zeros_like(tasks.turns))
    images, labels = suite.look_up(still, "query")
    assert labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
    for t in range(5):
        for n, label in enumerate(labels[t].tolist()):
            pixels = suite.pixels[tasks.classes[t, label], tasks.drawings[t, label, 2 + n % 2]]
            assert torch.equal(images[t, n, 0], 1 - torch.from_numpy(pixels).float() / 255)


def test_one_inner_step_is_the_official_one() -> None:
    # cbfinn/maml: cross-entropies divided by K, summed by tf.gradients, times 0.4; ours: the mean's gradient times 2.0.
    suite = Glyphs(ways=5, shots=2)
    rate = suite.protocol["inner_lr"].value
    assert rate == 2.0
    params = {name: p.double() for name, p in suite.new_params(seeds.generator(0)).items()}
    data = suite.look_up(suite.sample(1, "train", seeds.generator(1)), "support")
    one = type(data)(data.images[0].double(), data.labels[0])
    algorithm = MAML(inner_lr=rate, steps=1, outer_lr=0.001, meta_batch=1)
    ours = algorithm.step(params, params, SuiteTask(suite), one, 0)

    live = {name: p.clone().requires_grad_() for name, p in params.items()}
    logits = torch.func.functional_call(suite.skeleton, live, (one.images,))
    official = (functional.cross_entropy(logits, one.labels, reduction="none") / suite.shots).sum()
    for name, slope in zip(live, torch.autograd.grad(official, list(live.values())), strict=True):
        expected = params[name] if name.startswith("norms.") else params[name] - 0.4 * slope
        torch.testing.assert_close(ours[name], expected)


@pytest.mark.parametrize(("ways", "rate", "steps"), [(5, 2.0, 1), (20, 2.0, 5)])
def test_the_protocol_follows_the_number_of_ways(ways: int, rate: float, steps: int) -> None:
    protocol = Glyphs(ways=ways).protocol
    assert (protocol["inner_lr"].value, protocol["steps"].value) == (pytest.approx(rate), steps)
    assert "published" in protocol["inner_lr"].source


def test_shifts_of_normalisation_are_not_adapted() -> None:
    suite = Glyphs()
    assert [n for n in suite.new_params(seeds.generator(0)) if not suite.adaptable(n)] == [
        f"norms.{i}.shift" for i in range(4)
    ]


def test_an_inductive_query_is_normalised_by_the_support() -> None:
    x = torch.randn(6, 3, 4, 4, generator=seeds.generator(0))
    norm = CentredNorm(3)
    support, query = x[:4], x[4:]
    mean, var = support.mean((0, 2, 3), keepdim=True), support.var((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(norm(x, 4)[4:], (query - mean) / torch.sqrt(var + 1e-3))
    suite = Glyphs(norm="inductive")
    data = suite.look_up(suite.sample(1, "test", seeds.generator(0)), "query")
    assert (data.images.shape[1], data.labels.shape[1]) == (10, 5)


def test_pretraining_labels_mean_the_same_in_every_task() -> None:
    suite = Glyphs()
    view = suite.pretraining()
    tasks = suite.sample(64, "train", seeds.generator(0))
    data = view.look_up(tasks, "query")
    ranks = {int(c): i for i, c in enumerate(suite.classes_of("train"))}
    for t in (0, 63):
        expected = [4 * ranks[int(c)] + int(k) for c, k in zip(tasks.classes[t], tasks.turns[t], strict=True)]
        assert data.labels[0, 10 * t : 10 * t + 10].tolist() == [label for label in expected for _ in range(2)]
    assert view.new_params(seeds.generator(0))["head.weight"].shape == (4 * len(ranks), 64)


def test_a_pretrained_body_gets_a_fresh_head() -> None:
    suite = Glyphs()
    wide = suite.pretraining().new_params(seeds.generator(0))
    params = suite.replace_head(wide, seeds.generator(1))
    assert params["head.weight"].shape == (5, 64)
    assert torch.equal(params["convs.1.weight"], wide["convs.1.weight"])


def test_more_drawings_than_a_class_has_are_refused() -> None:
    with pytest.raises(BenchError, match=r"shots=11 and 11 queries.*has 20"):
        Glyphs(shots=11)
    assert Glyphs(shots=19, queries=1).per_class_queries == 1


def test_more_ways_than_classes_are_refused() -> None:
    with pytest.raises(BenchError, match=r"ways=400.*test split has 302"):
        Glyphs(ways=400).sample(1, "test", seeds.generator(0))


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 5), (20, 1), (20, 5)])
@pytest.mark.parametrize("suite", [Glyphs, Omniglot])
def test_manifests_are_the_published_ones(suite: type[Glyphs], ways: int, shots: int) -> None:
    made = suite(ways=ways, shots=shots)
    for split in FROZEN:
        assert f"{made.setting}/{split}" in made.manifests
        manifest(made, suite.__name__.lower(), split)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ways", "shots"), [(5, 1), (5, 5), (20, 1), (20, 5)])
def test_vinyals_tasks_are_the_published_ones(ways: int, shots: int) -> None:
    made = Omniglot(ways=ways, shots=shots, split="vinyals")
    for split in FROZEN:
        assert f"{made.setting}/{split}" in made.manifests
        manifest(made, "omniglot", split)  # type: ignore[arg-type]


def test_in_vinyals_split_a_character_and_its_quarter_turn_are_two_classes() -> None:
    tasks = Omniglot(ways=60, split="vinyals").sample(100, "test", seeds.generator(0))
    pairs = 4 * tasks.classes + tasks.turns
    assert all(len(row.unique()) == 60 for row in pairs)
    assert any(len(row.unique()) < 60 for row in tasks.classes)
    assert len(pairs.unique()) > 0.9 * 4 * 423


def test_proportions_of_queries_are_dirichlet_and_their_number_is_fixed() -> None:
    room = torch.full((4000, 5), 1000)
    counts = frequencies(room, 75, seeds.generator(0))
    assert (counts.sum(1) == 75).all()
    shares = counts[:, 0] / 75  # of Dirichlet(2, 2, 2, 2, 2): mean 1/5, variance 2 * 8 / (10^2 * 11)
    assert shares.mean().item() == pytest.approx(0.2, abs=0.005)
    assert shares.var().item() == pytest.approx(16 / 1100, rel=0.1)
    few = torch.tensor([[3, 75, 75, 75, 75]]).expand(200, -1)
    capped = frequencies(few, 75, seeds.generator(0))
    assert (capped <= few).all()
    assert (capped.sum(1) == 75).all()
    assert (capped[:, 0] == 3).any()


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_unbalanced_queries_are_of_their_classes_and_not_of_the_support(norm: Any) -> None:
    suite = Glyphs(ways=3, shots=2, queries="dirichlet", norm=norm)
    assert suite.setting == "3-way 2-shot, 18 queries by Dirichlet(2)"
    tasks = suite.sample(40, "test", seeds.generator(0))
    assert isinstance(tasks, Unbalanced)
    data = suite.look_up(tasks, "query")
    assert data.labels.shape == (40, 18)
    counts = [tuple(torch.bincount(row, minlength=3).tolist()) for row in data.labels]
    assert len(set(counts)) > 20
    images = data.images[:, -18:]
    for t in range(40):
        seen = {(int(label), int(drawing)) for label, drawing in zip(tasks.labels[t], tasks.shown[t], strict=True)}
        assert len(seen) == 18
        assert not seen & {(w, int(d)) for w in range(3) for d in tasks.drawings[t, w]}
        for label, drawing, image in zip(tasks.labels[t], tasks.shown[t], images[t], strict=True):
            still = torch.from_numpy(suite.pixels[tasks.classes[t, label], drawing])
            turned = torch.rot90(still, int(tasks.turns[t, label]), (-2, -1))
            assert torch.equal(image[0], 1 - turned.float() / 255)
    trained = suite.look_up(suite.sample(2, "train", seeds.generator(0)), "query")
    assert trained.labels.tolist() == [[0] * 6 + [1] * 6 + [2] * 6] * 2


def test_a_finite_number_of_training_tasks_is_the_same_at_every_draw_and_leaves_the_others() -> None:
    few = Glyphs(train_tasks=3)
    seen = {tuple(leaf.flatten().tolist()) for i in range(2) for leaf in few.sample(50, "train", seeds.generator(i))[2]}
    assert len(seen) == 3
    tasks = [suite.sample(9, "test", seeds.generator(0)) for suite in (few, Glyphs())]
    assert all(torch.equal(*pair) for pair in zip(*tasks, strict=True))
    assert few.setting == Glyphs().setting


@pytest.mark.parametrize(
    "suite",
    [
        Glyphs(ways=3, shots=2),
        Glyphs(ways=3, shots=2, norm="inductive"),
        Glyphs(net="fc"),
        Glyphs(queries="dirichlet", norm="inductive"),
    ],
)
def test_what_a_learner_is_told_of_images_is_of_the_labelled_ones(suite: Glyphs) -> None:
    task = SuiteTask(suite)
    data, params = task.example("query"), task.new_params(seeds.generator(0))
    assert (task.kind, task.outputs, task.head) == ("classification", suite.ways, {"head.weight", "head.bias"})
    assert len(task.inputs(data)) == len(task.targets(data)) == len(data.labels)
    logits = functional.linear(task.features(params, data), params["head.weight"], params["head.bias"])
    torch.testing.assert_close(torch.log_softmax(logits, -1), task.predict(params, data))


def test_the_calibration_error_is_the_gap_in_each_bin_weighed_by_who_is_in_it() -> None:
    generator = seeds.generator("bins")
    confidence, right = torch.rand(200, generator=generator), (torch.rand(200, generator=generator) < 0.5).float()
    confidence[0] = 1.0  # the upper end belongs to the last bin
    by_hand = 0.0
    for b in range(15):
        inside = [i for i in range(200) if b / 15 <= confidence[i] < (b + 1) / 15 or (b == 14 and confidence[i] == 1)]
        if inside:
            gap = sum(float(right[i]) for i in inside) - sum(float(confidence[i]) for i in inside)
            by_hand += abs(gap) / 200
    assert calibration_error(confidence, right).item() == pytest.approx(by_hand, abs=1e-6)


def test_a_model_that_is_sure_and_right_is_calibrated_and_one_that_is_sure_and_wrong_is_not() -> None:
    data = Labelled(torch.zeros(3, 1, 28, 28), torch.tensor([0, 1, 2]))
    sure = torch.log_softmax(100 * functional.one_hot(data.labels, 3).float(), -1)
    assert Glyphs(ways=3).score(sure, data)["ece"].item() == pytest.approx(0)
    assert Glyphs(ways=3).score(sure[[1, 2, 0]], data)["ece"].item() == pytest.approx(100)
