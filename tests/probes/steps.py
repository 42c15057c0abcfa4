"""Training steps as strangers write them: MAML with and without its second derivatives, and ones that go wrong."""

import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional

Pair = tuple[Tensor, Tensor]
Params = dict[str, Tensor]
RATE, STEPS = 0.1, 3


def error(p: Params, data: Pair) -> Tensor:
    x, y = data
    hidden = torch.tanh(functional.linear(x, p["0.weight"], p["0.bias"]))
    return (functional.linear(hidden, p["2.weight"], p["2.bias"]) - y).square().mean()


def adapted(parameters: Params, support: Pair, create_graph: bool) -> Params:
    for _ in range(STEPS):
        slopes = torch.autograd.grad(error(parameters, support), list(parameters.values()), create_graph=create_graph)
        parameters = {n: p - RATE * g for (n, p), g in zip(parameters.items(), slopes, strict=True)}
    return parameters


def second(parameters: Params, support: Pair, query: Pair) -> Tensor:
    return error(adapted(parameters, support, create_graph=True), query)


def forgotten(parameters: Params, support: Pair, query: Pair) -> Tensor:
    return error(adapted(parameters, support, create_graph=False), query)


def functional_detached(parameters: Params, support: Pair, query: Pair) -> Tensor:
    for _ in range(STEPS):
        slopes = grad(error)(parameters, support)
        parameters = {n: p - RATE * slopes[n].detach() for n, p in parameters.items()}
    return error(parameters, query)


def cut_off(parameters: Params, support: Pair, query: Pair) -> Tensor:
    return error({n: p.detach() for n, p in adapted(parameters, support, create_graph=True).items()}, query)


def by_optimiser(parameters: Params, support: Pair, query: Pair) -> Tensor:
    fast = [p.clone().detach().requires_grad_() for p in parameters.values()]
    optimiser = torch.optim.SGD(fast, RATE)
    for _ in range(STEPS):
        optimiser.zero_grad()
        error(dict(zip(parameters, fast, strict=True)), support).backward()
        optimiser.step()
    return error(dict(zip(parameters, fast, strict=True)), query)


def forgets_a_layer(parameters: Params, support: Pair, query: Pair) -> Tensor:
    last = {n: p.detach() if n.startswith("2") else p for n, p in parameters.items()}
    return second(last | {n: p + 0 * parameters[n] for n, p in last.items()}, support, query)


def in_place(parameters: Params, support: Pair, query: Pair) -> Tensor:
    slopes = torch.autograd.grad(error(parameters, support), list(parameters.values()), create_graph=True)
    loss = error(parameters, query)
    with torch.no_grad():
        for p, g in zip(parameters.values(), slopes, strict=True):
            p -= RATE * g
    return loss


def no_scalar(parameters: Params, support: Pair, query: Pair) -> Tensor:
    return query[1]


def fails(parameters: Params, support: Pair, query: Pair) -> Tensor:
    return parameters["weight"].sum()
