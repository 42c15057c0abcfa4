"""What all algorithms of a sweep have in common. Apart from the sweep, which imports Optuna and its databases."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all algorithms of a sweep have in common; with the request's iterations and seeds, the budget."""

    trials: int = 30
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0  # the sampler's
    batch: int = 5  # trials proposed at once, and so the most that can run side by side
    storage: str | None = None  # postgresql://...; a journal file in the run directory by default
    search: str | None = None  # where to look, instead of where algorithms declare: maml[inner_lr=0.01..1 log]
