"""Meta-World ML10: ten manipulation tasks to train on, five others to test (extra: metaworld).

Yu et al. 2019 (arXiv:1910.10897), section 4; 40 goals of each training environment to train on, 10 to validate, and 50
of each test environment.
"""

from dataclasses import dataclass
from typing import Any

from suites.parts.sawyer import SEED, ArmTasks


@dataclass(frozen=True, kw_only=True)
class MetaworldML10(ArmTasks):
    """Environments differ between training and test, and so do what success takes and what a return is worth."""

    @property
    def setting(self) -> str:
        """The split."""
        return "ML10"

    def benchmark(self) -> Any:
        """ML10."""
        from metaworld import ML10

        return ML10(seed=SEED)
