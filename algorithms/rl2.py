"""RL²: a recurrent policy that remembers earlier episodes of a task, so that running it is the adaptation.

Duan et al. 2016 (arXiv:1611.02779), section 2.2, from the paper alone. Width, clipping and epochs are of the PPO in
varibad's code (Zintgraf et al. 2020); the paper follows TRPO. The baseline is the mean over a task's trials at each
time-step, not a fitted one.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from algorithms.parts.acting import clipped, of_trials, ratio
from bench.core.network import new_params, run
from bench.core.outer import Outer, Proximal
from bench.core.types import Data, Episode, Family, Kind, Learner, Meta, Moment, Prediction, Search, State, Task


@dataclass(frozen=True, kw_only=True)
class RL2(Learner):
    """h_{t+1} = GRU(h_t, [o_t, a_{t−1}, r_{t−1}, first_t]), a_t ~ π(W h_{t+1} + b); h lasts for a trial.

    A trial is K + 1 episodes. Follows mean min(r A, clip(r) A) over all of them, A: what is still to come in the trial,
    minus its mean over trials.
    """

    width: Annotated[int, Field(ge=1, description="of the memory"), Search(32, 256, log=True)] = 128
    discount: Annotated[float, Field(gt=0, le=1, description="γ, throughout a trial")] = 0.99
    clip: Annotated[float, Field(gt=0, lt=1, description="ε"), Search(0.05, 0.3)] = 0.1
    epochs: Annotated[int, Field(ge=1, description="outer steps on one batch"), Search(1, 10)] = 2

    family: ClassVar[Family] = "recurrent"
    suits: ClassVar[frozenset[Kind]] = frozenset({"control"})
    remembers: ClassVar[bool] = True
    own_outer: ClassVar[bool] = True

    @property
    def outer(self) -> Outer:
        """Adam, several times on one batch."""
        return Proximal(self.outer_lr, epochs=self.epochs)

    def init(self, task: Task, generator: Generator) -> Meta:
        """The network's values."""
        seen = task.acted(task.example("query"))
        inputs = seen.observations.shape[-1] + seen.actions.shape[-1] + 2
        return {
            "cell": new_params((nn.GRUCell, inputs, self.width), generator),
            "head": new_params((nn.Linear, self.width, task.outputs), generator),
        }

    def start(self, meta: Meta, noise: Data) -> State:
        """A trial's beginning: nothing is remembered, nothing was done. Memory [1, width], of every trial alike."""
        nothing = meta["head"]["weight"].new_zeros(1, 1)
        return {"memory": nothing.expand(1, self.width), "action": nothing, "reward": nothing}

    def act(self, meta: Meta, state: State, task: Task, moment: Moment) -> tuple[Tensor, State]:
        """π's parameters [B, D], and h_{t+1} [B, width]; an episode begins with what ended the one before it."""
        first = moment.first.unsqueeze(-1)
        action = torch.where(first, state["action"], moment.action)
        reward = torch.where(first, state["reward"], moment.reward.unsqueeze(-1))
        x = torch.cat([moment.observation, action, reward, first.to(reward.dtype)], -1)
        memory = run((nn.GRUCell, x.shape[-1], self.width), meta["cell"], x, state["memory"].expand(len(x), -1))
        return run((nn.Linear, self.width, task.outputs), meta["head"], memory), {**state, "memory": memory}

    def watched(self, meta: Meta, state: State, task: Task, data: Data) -> tuple[Tensor, State]:
        """π's parameters [B, H, D] in recorded episodes, and the state after them."""
        seen, predictions = task.acted(data), []
        action, reward = torch.zeros_like(seen.actions[:, 0]), torch.zeros_like(seen.rewards[:, 0])
        for t, taken in enumerate(seen.mask.unbind(1)):
            first = torch.full_like(taken, t == 0)
            prediction, after = self.act(meta, state, task, Moment(seen.observations[:, t], action, reward, first))
            predictions.append(prediction)
            action, reward = seen.actions[:, t], seen.rewards[:, t]
            after = {"memory": after["memory"], "action": action, "reward": reward.unsqueeze(-1)}
            state = {name: torch.where(taken.unsqueeze(-1), x, state[name]) for name, x in after.items()}
        return torch.stack(predictions, 1), state

    def step(self, meta: Meta, state: State, task: Task, data: Data, k: int) -> State:
        """What is remembered after episode k: no gradient, nothing but the memory adapts."""
        return self.watched(meta, state, task, data)[1]

    def predict(self, meta: Meta, state: State, task: Task, data: Data) -> Prediction:
        """π's parameters, [B, H, D]."""
        return self.watched(meta, state, task, data)[0]

    def meta_loss(self, meta: Meta, task: Task, episode: Episode) -> Tensor:
        """Minus the clipped surrogate over all steps of a trial, its last episode no more than the first."""
        trial, state, weights = (*episode.support, episode.query), self.start(meta, episode.noise), []
        for data in trial:
            prediction, state = self.watched(meta, state, task, data)
            weights.append(ratio(task, prediction, data))
        seen = [task.acted(data) for data in trial]
        gains = [clipped(w, a, self.clip) for w, a in zip(weights, of_trials(seen, self.discount), strict=True)]
        mask = torch.cat([e.mask for e in seen], 1)
        return -(torch.cat(gains, 1) * mask).sum() / mask.sum()
