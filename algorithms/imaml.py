"""iMAML: what adaptation solves is differentiated, not how it was solved; memory does not grow with inner steps.

Rajeswaran, Finn, Kakade, Levine 2019 (arXiv:1909.04630), algorithms 1 and 2, equations 3 and 6, with the constants of
their code for Omniglot (aravindr93/imaml_dev), which differs: it takes plain inner steps, then one back to θ, none at
test (pull=once), and has δ = 1, η = 10 where the paper has 0. Its Adam has ε = 0.001; ours torch's own.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import vjp

from algorithms.parts.conjugate import conjugate_gradient
from bench.core.gradients import descend, gradient
from bench.core.types import Data, Episode, Family, Kind, Learner, Params, Search, Task


@dataclass(frozen=True, kw_only=True)
class IMAML(Learner):
    """θ ← θ − β ((1 + δ) I + H / (λ + η))⁻¹ ∇L_query(φ), with φ ≈ argmin L_support(φ) + λ/2 ‖φ − θ‖².

    φ is reached by K gradient steps from θ; H is L_support's Hessian there; conjugate gradient solves for the inverse.
    """

    steps: Annotated[int, Field(ge=1, description="inner steps in meta-training"), Search(5, 25)] = 16
    inner_lr: Annotated[
        float | None,
        Field(gt=0, description="α; unless given, 0.1 as published for classes, and 0.001 for numbers: our choice"),
        Search(0.003, 0.2, log=True),
    ] = None
    strength: Annotated[float, Field(gt=0, description="λ"), Search(0.1, 5, log=True)] = 2.0
    pull: Annotated[
        Literal["always", "once"], Field(description="to θ: in each inner step, or after all of them and not at test")
    ] = "always"
    cg_steps: Annotated[int, Field(ge=1, description="iterations of conjugate gradient"), Search(1, 10)] = 5
    damping: Annotated[float, Field(ge=0, description="δ, added to the identity")] = 1.0
    hessian_damping: Annotated[float, Field(ge=0, description="η, added to λ below the Hessian")] = 10.0

    family: ClassVar[Family] = "gradient-based"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    second_order: ClassVar[bool] = False  # exact of what the steps approach, not of the steps

    def step(self, meta: Params, state: Params, task: Task, data: Data, k: int) -> Params:
        """φ − α (∇L(φ) + λ (φ − θ))."""
        slopes = gradient("first_order", task)(state, data)
        if self.pull == "always":
            slopes = {name: g + self.strength * (state[name] - meta[name]) for name, g in slopes.items()}
        return descend(state, slopes, self._rate(task))

    def _rate(self, task: Task) -> float:
        return self.inner_lr or (0.1 if task.kind == "classification" else 0.001)

    def meta_loss(self, meta: Params, task: Task, episode: Episode) -> Tensor:
        """L_query(φ), whose gradient is the implicit function's: no graph of the inner steps is kept."""
        still, support = {name: p.detach() for name, p in meta.items()}, episode.support[-1]
        found = self.adapted(still, task, episode)
        pulled = gradient("first_order", task)(found, episode.query)
        moved = {name: found[name] for name in pulled}
        if self.pull == "once":
            moved = {name: p - self._rate(task) * self.strength * (p - still[name]) for name, p in moved.items()}
            pulled = gradient("first_order", task)({**found, **moved}, episode.query)
        slope = gradient("reverse", task)
        hessian = vjp(lambda p: slope({**still, **p}, support), moved)[1]  # one graph of one gradient, for all products

        def product(v: Params) -> Params:
            curved, share = hessian(v)[0], 1 / (self.strength + self.hessian_damping)
            return {name: (1 + self.damping) * v[name] + share * curved[name] for name in v}

        solved = conjugate_gradient(product, pulled, self.cg_steps)
        # What is 0 where φ is optimal, as a function of θ: that implies how φ moves, also with what does not adapt.
        here = {**meta, **moved}
        optimal = {name: g / self.strength + moved[name] - meta[name] for name, g in slope(here, support).items()}
        implied = torch.stack([(solved[name] * gap).sum() for name, gap in optimal.items()]).sum()
        return task.loss(here, episode.query) - (implied - implied.detach())
