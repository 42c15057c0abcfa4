"""Train from scratch: a random initialisation, adapted by plain gradient descent. What pretraining must beat."""

from dataclasses import dataclass
from typing import ClassVar

from algorithms.finetune import Finetune


@dataclass(frozen=True, kw_only=True)
class Scratch(Finetune):
    """θ_{k+1} = θ_k − α ∇L_support(θ_k) from a fresh θ_0; nothing is learned across tasks."""

    trains: ClassVar[bool] = False
    train_view: ClassVar[str] = ""
