"""What learners share that follow a clipped policy gradient. Letters: B episodes, H time-steps, D parameters."""

from torch import Tensor

from bench.core.types import Data, Task


def ratio(task: Task, prediction: Tensor, data: Data) -> Tensor:
    """π / π_old of the recorded actions, [B, H], where π_old is what they were drawn from."""
    old = task.log_prob(task.acted(data).behaviour, data)
    return (task.log_prob(prediction, data) - old).exp()


def clipped(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """min(r A, clip(r, 1 − ε, 1 + ε) A) (Schulman et al. 2017, arXiv:1707.06347, equation 7)."""
    return (ratio * advantages).minimum(ratio.clamp(1 - clip, 1 + clip) * advantages)
