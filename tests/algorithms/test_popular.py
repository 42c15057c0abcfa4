"""The popular code's meta-gradient is FOMAML's, from two steps on."""

import pytest
import torch

from algorithms.fomaml import FOMAML
from algorithms.maml import MAML
from bench.certificate.beds import Labels
from bench.certificate.checks import TASKS, case_of, gap, task_of
from bench.core.task import SuiteTask
from bench.core.trees import tree_leaves
from bench.core.types import Learner
from bench.learning.engines.vectorised import meta_gradient
from tests.benchmarks.popular import END, PAGE, ROWS, START
from tests.probes.dragen1860 import Dragen1860


class Whole(Labels):
    """All there is adapts, for MAML and FOMAML as for the popular code."""

    def adaptable(self, name: str) -> bool:
        return True


def found(kind: type[Learner], steps: int) -> list[torch.Tensor]:
    made = case_of(lambda bed: kind(inner_lr=0.4, steps=steps, outer_lr=0.001, meta_batch=TASKS), Whole())
    return tree_leaves(meta_gradient(made.bed, made.algorithm)(made.meta, made.episodes)[1])


def by_autograd(steps: int) -> list[torch.Tensor]:
    """The same with torch.autograd.grad, which keeps no graph unless told to, one task after the other."""
    made = case_of(lambda bed: FOMAML(inner_lr=0.4, steps=steps, outer_lr=0.001, meta_batch=TASKS), Whole())
    theta = {name: p.clone().requires_grad_() for name, p in made.meta.items()}
    task, losses = SuiteTask(made.bed), []
    for episode in (task_of(made.episodes, t) for t in range(TASKS)):
        fast = theta
        for data in episode.support:
            slopes = torch.autograd.grad(task.loss(fast, data), list(fast.values()))
            fast = {name: p - 0.4 * g for (name, p), g in zip(fast.items(), slopes, strict=True)}
        losses.append(task.loss(fast, episode.query))
    return list(torch.autograd.grad(torch.stack(losses).mean(), list(theta.values())))


@pytest.mark.parametrize("steps", [2, 5])
def test_the_probes_meta_gradient_is_fomamls_and_not_mamls(steps: int) -> None:
    ours = found(Dragen1860, steps)
    assert gap(ours, found(FOMAML, steps)) < 1e-12
    assert gap(ours, by_autograd(steps)) < 1e-12
    assert gap(ours, found(MAML, steps)) > 0.01


def test_after_one_step_no_gradient_reaches_the_weights() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        found(Dragen1860, 1)
    assert found(FOMAML, 1)


def test_the_page_has_the_rows_that_the_script_makes() -> None:
    part = "gradients"
    table = PAGE.read_text().partition(START.format(part))[2].partition(END.format(part))[0]
    firsts = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert firsts[1:] == ROWS[part]
