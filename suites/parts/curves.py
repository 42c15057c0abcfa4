"""What suites of curves share: a network from x to y, judged by squared errors. Letters: N examples."""

from typing import Any

from torch import Tensor

from bench.core.types import Params, Supervised


class Regression(Supervised):
    """Regression of y [N, 1] on x [N, 1], the first two parts of the data."""

    def predict(self, params: Params, data: Any) -> Tensor:
        """ŷ, [N, 1]."""
        return self.call(params, data.x)

    def losses(self, prediction: Tensor, data: Any) -> Tensor:
        """Squared errors, [N]."""
        squares: Tensor = (prediction - data.y).square().squeeze(-1)
        return squares

    def score(self, prediction: Tensor, data: Any) -> dict[str, Tensor]:
        """The mean squared error."""
        return {"mse": self.mean(self.losses(prediction, data), data)}
