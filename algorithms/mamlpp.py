"""MAML++: MAML with a loss at every step, rates and normalisation of each step's own, and two schedules.

Antoniou, Edwards, Storkey 2019 (arXiv:1810.09502), section 4; defaults of the authors' configurations for miniImagenet
(AntreasAntoniou/HowToTrainYourMAMLPytorch@0cbec87), where the order of the gradient and the outer rate stay as they
are. Its running statistics per step change nothing, since that code always normalises by the batch's. Beyond the steps
of training the last step's rates and shifts go on: our choice, that code takes no more steps.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Generator, Tensor

from algorithms.maml import MAML
from bench.core.gradients import descend, gradient
from bench.core.outer import Adam
from bench.core.types import Data, Episode, Family, Kind, Meta, Params, Search, Task

LEAST = 0.03  # what is left of the weights of all steps but the last, over K, until only the last one counts


@dataclass(frozen=True, kw_only=True)
class MAMLPlusPlus(MAML):
    """θ, α, s ← −β ∇ Σ_k w_k(iteration) L_query(θ_{k+1}, s_k), θ_{k+1} = θ_k − α_k ∇L_support(θ_k, s_k).

    α_k: a rate per tensor and step; s_k: what the inner loop leaves alone, such as shifts of normalisation.
    """

    multi_step_until: Annotated[
        int, Field(ge=0, description="meta-iterations in which every step's loss counts, less and less; 0: none")
    ] = 7_500
    learned_rates: Annotated[bool, Field(description="a learned rate per tensor and step"), Search()] = True
    norm_per_step: Annotated[bool, Field(description="what does not adapt is learned per step"), Search()] = True
    second_from: Annotated[int, Field(ge=0, description="meta-iteration up to which it is of first order")] = 0
    cosine: Annotated[
        float | None, Field(ge=0, le=1, description="share of the outer rate left at the end; None: it stays")
    ] = None

    family: ClassVar[Family] = "gradient-based"
    suits: ClassVar[frozenset[Kind]] = frozenset({"regression", "classification"})
    learn2learn: ClassVar[str] = ""

    @property
    def outer(self) -> Adam:
        """Adam, whose rate may fall along a cosine."""
        return Adam(self.outer_lr) if self.cosine is None else Adam(self.outer_lr, schedule="cosine", least=self.cosine)

    def at(self, iteration: int) -> Self:
        """Of first order at first, and with the last loss alone in the end."""
        now = replace(self, gradient="first_order") if iteration < self.second_from else self
        return replace(now, multi_step_until=0) if iteration >= self.multi_step_until > 0 else now

    def init(self, task: Task, generator: Generator) -> Meta:
        """θ, all rates alike, and as many copies of what does not adapt as there are steps."""
        params = task.new_params(generator)
        still = {n: p for n, p in params.items() if not self.adapts(task, n) and p.is_floating_point()}
        rates = {n: p.new_full((self.steps,), self.inner_lr) for n, p in params.items() if self.adapts(task, n)}
        shifts = {n: torch.stack([p] * self.steps) for n, p in still.items()} if self.norm_per_step else {}
        kept = {n: p for n, p in params.items() if n not in shifts}
        return {"params": kept, "rates": rates if self.learned_rates else {}, "shifts": shifts}

    def start(self, meta: Meta, noise: Data) -> Params:
        """θ with the first step's shifts."""
        return {**meta["params"], **{name: s[0] for name, s in meta["shifts"].items()}}

    def step(self, meta: Meta, state: Params, task: Task, data: Data, k: int) -> Params:
        """θ_{k+1}, with the shifts s_k by which it is judged, too."""
        k = min(k, self.steps - 1)
        state = {**state, **{name: s[k] for name, s in meta["shifts"].items()}}
        rates = {name: r[k] for name, r in meta["rates"].items()} or self.inner_lr
        return descend(state, gradient(self.gradient, task)(state, data), rates, self.inner_clip)

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        """Σ_k w_k L_query(θ_{k+1}); L_query(θ_K) where only the last counts."""
        if not self.multi_step_until or not isinstance(episode.iteration, Tensor):
            return super().meta_loss(meta, task, episode)
        state, losses, count = self.start(meta, episode.noise), [], len(episode.support)
        for k, data in enumerate(episode.support):
            state = self.step(meta, state, task, data, k)
            losses.append(task.loss(state, episode.query))
        gone = (episode.iteration / self.multi_step_until).clamp(max=1)
        others = (1 - gone).clamp(min=LEAST) / count
        return others * torch.stack(losses[:-1] or [losses[-1] * 0]).sum() + (1 - (count - 1) * others) * losses[-1]
