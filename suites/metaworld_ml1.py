"""Meta-World ML1: one manipulation task, new goals (extra: metaworld).

Yu et al. 2019 (arXiv:1910.10897), section 4; 40 goals to train on, 10 to validate, 50 to test.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from bench.core.errors import unknown
from suites.parts.sawyer import SEED, ArmTasks


@dataclass(frozen=True, kw_only=True)
class MetaworldML1(ArmTasks):
    """The goals of one environment of the package, such as task=reach-v3 or task=push-v3."""

    task: Annotated[str, Field(description="the environment's name in the package")] = "reach-v3"

    @property
    def setting(self) -> str:
        """The environment."""
        return self.task

    def benchmark(self) -> Any:
        """ML1.

        Raises:
            BenchError: there is no such environment.
        """
        from metaworld import ML1

        if self.task not in ML1.ENV_NAMES:
            raise unknown("task of metaworld_ml1", self.task, ML1.ENV_NAMES)
        return ML1(self.task, seed=SEED)
