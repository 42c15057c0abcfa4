"""Against JAX: the same meta-gradients of the same nets on the same data, by jit and vmap, `lax.map` or patches.

`tox -e peers` installs JAX. Every variant must first agree with ours.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bench.core.trees import tree_map
from bench.core.types import Suite
from bench.learning.engines import vectorised
from suites.omniglot import Omniglot
from suites.sinusoid import Sinusoid
from tests.benchmarks.test_speed import ROUNDS, in_alternation, inputs, maml, report

Params = dict[str, Any]


def mlp_loss(p: Params, x: Any, y: Any) -> Any:
    for i in (0, 1):
        x = jax.nn.relu(x @ p[f"layers.{i}.weight"].T + p[f"layers.{i}.bias"])
    return jnp.mean((x @ p["layers.2.weight"].T + p["layers.2.bias"] - y) ** 2)


def convolution(x: Any, w: Any) -> Any:
    return jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))


def product(x: Any, w: Any) -> Any:
    patches = jax.lax.conv_general_dilated_patches(
        x, (3, 3), (2, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NHWC")
    )
    return (patches @ w.reshape(len(w), -1).T).transpose(0, 3, 1, 2)


def conv_loss(conv: Callable[[Any, Any], Any]) -> Callable[[Params, Any, Any], Any]:
    def loss(p: Params, x: Any, y: Any) -> Any:
        for i in range(4):
            x = conv(x, p[f"convs.{i}.weight"]) + p[f"convs.{i}.bias"][:, None, None]
            centred = x - x.mean((0, 2, 3), keepdims=True)
            scale = jax.lax.rsqrt((centred**2).mean((0, 2, 3), keepdims=True) + 1e-3)
            x = jax.nn.relu(centred * scale + p[f"norms.{i}.shift"][:, None, None])
        logits = x.mean((2, 3)) @ p["head.weight"].T + p["head.bias"]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    return loss


def meta_gradient(
    loss: Callable[..., Any], rate: float, steps: int, first: bool, adapts: Callable[[str], bool], one_by_one: bool
) -> Callable[..., Any]:
    def task(p: Params, episode: Any) -> Any:
        (xs, ys), (xq, yq) = episode
        q = p
        for _ in range(steps):
            g = jax.grad(loss)(q, xs, ys)
            g = jax.lax.stop_gradient(g) if first else g
            q = {name: v - rate * g[name] if adapts(name) else v for name, v in q.items()}
        return loss(q, xq, yq)

    def total(p: Params, batch: Any) -> Any:
        if one_by_one:
            return jax.lax.map(lambda episode: task(p, episode), batch).mean()
        return jax.vmap(task, in_axes=(None, 0))(p, batch).mean()

    return jax.jit(jax.value_and_grad(total))


CASES: dict[str, tuple[Suite, int, int, dict[str, tuple[Callable[..., Any], bool]], str]] = {
    "sinusoid, 25 tasks, K=10, 1 step": (Sinusoid(), 25, 1, {"vmap": (mlp_loss, False)}, "≥ 1x"),
    "sinusoid, 25 tasks, K=10, 5 steps": (Sinusoid(), 25, 5, {"vmap": (mlp_loss, False)}, "≥ 1x"),
    "Omniglot 5-way 1-shot, 32 tasks, 1 step": (
        Omniglot(), 32, 1,
        {"vmap": (conv_loss(convolution), False), "lax.map": (conv_loss(convolution), True),
         "im2col": (conv_loss(product), False)},
        "≥ 2x",
    ),
}  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.parametrize("gradient", ["reverse", "first_order"])
@pytest.mark.parametrize("work", CASES)
def test_against_jax(benchmark: Any, work: str, gradient: str) -> None:
    suite, tasks, steps, variants, goal = CASES[work]
    suite = suite.stand_in()
    algorithm = maml(suite, gradient, steps, tasks)
    meta, batch = inputs(suite, algorithm)
    ours = vectorised.meta_gradient(suite, algorithm, compiled=True)
    expected = ours(meta, batch)
    there = lambda tree: tree_map(lambda x: jnp.asarray(np.asarray(x)), tree)  # noqa: E731
    arguments = there(meta), tuple(tuple(there(x) for x in data) for data in (batch.support[0], batch.query))
    functions = {
        name: meta_gradient(loss, algorithm.inner_lr, steps, gradient == "first_order", suite.adaptable, one_by_one)
        for name, (loss, one_by_one) in variants.items()
    }
    times = {}
    for name, function in functions.items():
        value, found = jax.block_until_ready(function(*arguments))
        assert float(value) == pytest.approx(expected[0].item(), rel=1e-3)
        distance = sum(float(((np.asarray(found[k]) - v.numpy()) ** 2).sum()) for k, v in expected[1].items())
        assert distance < 1e-4 * sum(float(v.square().sum()) for v in expected[1].values())
        times[name] = min(_seconds(function, arguments) for _ in range(3))
    name = min(times, key=times.__getitem__)
    fastest, of = functions[name], 20 if isinstance(suite, Sinusoid) else 1
    torch.set_num_threads(2)
    mine, other = in_alternation(
        benchmark, lambda: ours(meta, batch), lambda: jax.block_until_ready(fastest(*arguments)), ROUNDS, of
    )
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    order = "1st order" if gradient == "first_order" else "2nd order"
    among = "" if len(variants) == 1 else f", the fastest of {', '.join(variants)}: {name}"
    report(benchmark, f"{work}, {order} (compiled)", f"JAX jit{among}", goal, ratios)


def _seconds(function: Callable[..., Any], arguments: Any) -> float:
    from bench.reporting.costing import timed

    return timed(lambda: jax.block_until_ready(function(*arguments)))
