"""A function compiled in two stages: what some arguments decide, once, and the rest for each value of the others.

Between the stages lies what a derivative keeps: of a product with a matrix that is never made, the first stage holds
all that does not depend on the vector.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from bench.learning.engines.vectorised import Leaves, Specs, built, signature_of, traced


class InStages:
    """A function (again, fixed, specs) -> tensors whose every call with equal `fixed` is but the second stage."""

    def __init__(self, function: Callable[[Leaves, Leaves, Specs], Leaves]) -> None:
        """Nothing is compiled before the first call."""
        self.function = function
        self.compiled: dict[Hashable, tuple[Specs, Callable[..., Any], Callable[..., Any]]] = {}

    def stages(
        self, again: Leaves, fixed: Leaves, specs: Specs, threads: int
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """(*fixed) -> what is kept, and (*again, *kept) -> the function's value; compiled once per shape."""
        signature = signature_of((*again, *fixed), threads)
        known, *stages = self.compiled.get(signature, (None,))
        if not stages or known != specs:
            stages = list(self._compile(again, fixed, specs, threads))
            self.compiled[signature] = (specs, stages[0], stages[1])
        return stages[0], stages[1]

    def _compile(
        self, again: Leaves, fixed: Leaves, specs: Specs, threads: int
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        cut = len(again)
        graph, shapes = traced(
            lambda *x: self.function(list(x[:cut]), list(x[cut:]), specs), (*again, *fixed), thorough=True
        )
        first, rest, kept = _cut(graph, cut)
        shapes_kept = [node.meta["val"] for node in kept]
        return built(first, shapes[cut:], threads), built(rest, [*shapes[:cut], *shapes_kept], threads)


def _cut(graph: GraphModule, count: int) -> tuple[GraphModule, GraphModule, list[Node]]:
    """What the first `count` inputs have no part in, the rest, and what the first hands over to it."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    *body, output = (node for node in graph.graph.nodes if node.op != "placeholder")
    depends = set(inputs[:count])
    for node in body:
        if not depends.isdisjoint(node.all_input_nodes):
            depends.add(node)
    kept, made_again = _between(body, output, depends)

    first, rest = Graph(), Graph()
    here: dict[Node, Node] = {}
    for node in (*inputs, *body):
        if node not in depends:
            here[node] = first.node_copy(node, here.__getitem__)
    first.output([here[node] for node in kept])
    first.eliminate_dead_code()

    there = {node: rest.node_copy(node) for node in inputs[:count]}
    for node in kept:
        there[node] = rest.placeholder(f"kept_{node.name}")
        there[node].meta = {"val": node.meta["val"]}  # from which the compiler reads its shape
    for node in body:
        if node in depends or node in made_again:
            there[node] = rest.node_copy(node, there.__getitem__)
    rest.output([there[node] if isinstance(node, Node) else node for node in cast(list[Any], output.args[0])])
    return GraphModule(graph, first), GraphModule(graph, rest), kept


def _between(body: Sequence[Node], output: Node, depends: set[Node]) -> tuple[list[Node], set[Node]]:
    """What is handed over, and what is cheaper made again: views of that, and what is made of nothing."""
    kept: dict[Node, None] = {}
    made_again: set[Node] = set()

    def visit(node: Node) -> None:
        if node in depends or node in kept or node in made_again:
            return
        view = getattr(node.target, "is_view", False) or node.target is torch.ops.aten._unsafe_view.default
        if node.op != "placeholder" and (view or not node.all_input_nodes):
            made_again.add(node)
            for source in node.all_input_nodes:
                visit(source)
        else:
            kept[node] = None

    for node in (*(n for n in body if n in depends), output):
        for source in node.all_input_nodes:
            visit(source)
    return list(kept), made_again
