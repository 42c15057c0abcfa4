"""Any module: what of torch's own layers can't be vectorised or differentiated again is written out in plain ones.

`prepared` changes a module's layers in place so that they compute the same under vmap, in any order of derivative and
compiled: batch statistics without running averages, recurrences as loops, attention as products, dropout from a key
that travels with the data (layers/). Parameters keep their names. Letters: C channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import is_parametrized

from bench.core.call import Statistics, statistic
from bench.core.errors import BenchError
from bench.core.layers import WRITTEN

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_PLAIN = {f"torch.nn.modules.{kind}" for kind in ("linear", "conv", "activation", "container", "flatten", "pooling")}


def prepared(module: nn.Module, *, tracks: bool = True) -> nn.Module:
    """The module itself, whose layers are changed where they must be.

    Args:
        module: newly built.
        tracks: whether running statistics are kept of it: of a suite's network, not of a learner's own.

    Raises:
        BenchError: a layer keeps a state that no learner can hold.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _SpectralNorm):
            raise BenchError(
                f"the layer {name.partition('.parametrizations')[0]!r} has spectral_norm, which changes a state of its "
                "own whenever it is run. Use weight_norm or orthogonal of torch.nn.utils.parametrizations instead."
            )
        if getattr(layer, "inplace", None) is True:
            layer.inplace = False  # what it is given may be the learner's data
        for kind, written in WRITTEN.items():
            if isinstance(layer, kind):
                # Somebody's subclass keeps its own methods, whose super() finds what is written out.
                own = type(layer)
                layer.__class__ = written if own is kind else type(own.__name__, (own, written), {})
                layer.place = name
        if isinstance(layer, NORMS):
            layer.tracks = tracks and layer.track_running_stats  # type: ignore[assignment]
            for statistic in STATISTICS:
                if statistic in layer._buffers:
                    layer._buffers.pop(statistic)
                    setattr(layer, statistic, None)
    return module


def values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module as it was built, by name; without what batch normalisation keeps.

    Raises:
        BenchError: a lazy layer's sizes are not known.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise BenchError(
                f"{name!r} has no shape yet: a lazy layer learns it when it is first run. Give the layer its sizes, or "
                "run the module once in module()."
            )
    kept = {f"{name}.{s}".lstrip(".") for name, m in module.named_modules() if isinstance(m, NORMS) for s in STATISTICS}
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if name not in kept}


def layers(module: nn.Module) -> list[nn.Module]:
    """The layers that have parameters of their own, as they were built; a parametrization is a part of its layer."""
    made = (layer.parametrizations.modules() for layer in module.modules() if is_parametrized(layer))  # type: ignore[union-attr]
    parts = {id(part) for each in made for part in each}
    return [m for m in module.modules() if id(m) not in parts and next(own(m), None) is not None]


def own(layer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """A layer's own parameters by their names in it, and what parametrizations make of them is made of."""
    for name, p in layer.named_parameters():
        if "." not in name or name.startswith("parametrizations."):
            yield name, p


def fixed(module: nn.Module) -> frozenset[str]:
    """The names of what nothing learns: buffers, and parameters that want no gradient."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return frozenset(frozen | {name for name, _ in module.named_buffers()})


def batch_norms(module: nn.Module) -> dict[str, bool]:
    """The batch-normalised layers of a prepared module, and whether each tracks running statistics."""
    return {layer.place: layer.tracks for layer in module.modules() if isinstance(layer, NORMS)}  # type: ignore[misc]


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics of a prepared module before its first batch, as torch begins: mean 0, variance 1."""
    found = {}
    for layer in module.modules():
        if isinstance(layer, NORMS) and layer.tracks:
            found[statistic(layer.place, "mean")] = torch.zeros(layer.num_features)
            found[statistic(layer.place, "var")] = torch.ones(layer.num_features)
    return found


def plain(module: nn.Module) -> bool:
    """Whether a module is made of layers alone that call none of the functions which have to be written out."""
    return all(type(m).__module__ in _PLAIN or type(m).__module__.startswith("suites.parts.") for m in module.modules())


def move(kept: dict[str, Tensor], seen: dict[str, Statistics], module: nn.Module, iteration: int) -> dict[str, Tensor]:
    """Running statistics after one more batch, by each layer's momentum (None: the mean of all batches)."""
    moved = dict(kept)
    for name, batch in seen.items():
        momentum = module.get_submodule(name).momentum
        share = 1 / (iteration + 1) if momentum is None else float(momentum)  # type: ignore[arg-type]
        for which, new in zip(("mean", "var"), batch, strict=True):
            key = statistic(name, which)
            moved[key] = (1 - share) * kept[key] + share * new
    return moved
