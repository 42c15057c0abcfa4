"""ANP: a neural process that attends to the support, and whose latent variable says which function it may be.

Kim et al. 2019 (arXiv:1901.05761), figure 2 and equation 2; layers, σ and loss as in the authors' code for regression
in one dimension (google-deepmind/neural-processes, attentive_neural_process.ipynb): no self-attention, targets that
hold the support, one draw of z for a prediction. There the rate is 1e-4 over 100,000 iterations; here rate and query
are the suite's, initial values torch's, and an empty support, which the code never draws, is encoded as 0.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor

from algorithms.cnp import CNP
from algorithms.parts import sets
from algorithms.parts.attention import HEADS, Attentive, Latent
from bench.core.network import new_params, run
from bench.core.types import Data, Episode, Meta, Normal, Task


class Context(NamedTuple):
    """The support, and the task's draw of z in standard deviations."""

    points: sets.Points
    draw: Tensor  # [width]


@dataclass(frozen=True, kw_only=True)
class ANP(CNP):
    """θ ← θ + β ∇ {E_q(z|T) ln p(y_T | x_T, S, z) − KL(q(z|T) ‖ q(z|S))} / |T|; T is the support S and the query."""

    width: Annotated[
        int, Field(ge=HEADS, multiple_of=HEADS, description=f"of the hidden layers and of z; {HEADS} heads")
    ] = 128

    def init(self, task: Task, generator: Generator) -> Meta:
        """The values of the deterministic path with the decoder, and of the latent path."""
        x, y, _ = sets.points(task, task.example("support"))
        sizes = x.shape[-1], y.shape[-1], self.width
        return {"net": new_params((Attentive, *sizes), generator), "latent": new_params((Latent, *sizes), generator)}

    def noise(self, shapes: Meta, count: int, generator: Generator) -> Data:
        """The tasks' draws of z, [T, width]."""
        return torch.randn(count, self.width, generator=generator)

    def start(self, meta: Meta, noise: Tensor) -> Context:
        """An empty support."""
        inputs, last = meta["net"]["embed.0.weight"].shape[-1], meta["net"]["decoder.4.bias"]
        return Context(sets.nothing(inputs, len(last) // 2, last), noise.to(last.dtype))

    def step(self, meta: Meta, state: Context, task: Task, data: Data, k: int) -> Context:
        """The support itself."""
        return state._replace(points=sets.points(task, data))

    def latent(self, meta: Meta, points: sets.Points) -> Normal:
        """q(z | points)."""
        build = Latent, points.x.shape[-1], points.y.shape[-1], self.width
        means, raw = run(build, meta["latent"], *points).chunk(2)
        return Normal(means, 0.1 + 0.9 * torch.sigmoid(raw))

    def answer(self, meta: Meta, support: sets.Points, z: Normal, draw: Tensor, x: Tensor) -> Normal:
        """p(y | x, support, z), z by its draw."""
        build = Attentive, x.shape[-1], support.y.shape[-1], self.width
        return sets.normal(run(build, meta["net"], *support, x, z.mean + z.std * draw), self.least)

    def predict(self, meta: Meta, state: Context, task: Task, data: Data) -> Normal:
        """A normal for each input, all of one z ~ q(z | S)."""
        return self.answer(
            meta, state.points, self.latent(meta, state.points), state.draw, task.inputs(data).flatten(1)
        )

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        """Minus the bound, by one draw of z ~ q(z | T)."""
        support, draw = self.adapted(meta, task, episode)
        x, y, there = map(torch.cat, zip(support, sets.points(task, episode.query), strict=True))
        q, prior = self.latent(meta, sets.Points(x, y, there)), self.latent(meta, support)
        density = (self.answer(meta, support, q, draw, x).log_density(y) * there).sum()
        return (sets.divergence(q, prior) - density) / there.sum()
