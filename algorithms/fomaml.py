"""FOMAML: MAML whose inner gradient is taken for a constant, so that no second derivative is needed.

Finn, Abbeel, Levine 2017 (arXiv:1703.03400), section 5.2, "first-order approximation".
"""

from dataclasses import dataclass

from algorithms.maml import MAML
from bench.core.gradients import GradientName


@dataclass(frozen=True, kw_only=True)
class FOMAML(MAML):
    """θ ← θ − β ∇L_query(θ_K): MAML's meta-gradient with ∂θ_K/∂θ replaced by the identity."""

    gradient: GradientName = "first_order"
