"""All that meta-training has come to, and its checkpoint."""

import json
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bench.core.trees import named_leaves, to, tree_flatten, tree_unflatten
from bench.core.types import Meta, Params
from bench.learning.outer.descent import Memory

PLAIN = (
    *("iteration", "best_score", "curve", "losses", "notes", "counts", "rejected"),
    *("pace", "train_seconds", "compile_seconds", "pieces"),
)


@dataclass
class Training:
    """What a checkpoint holds."""

    meta: Meta
    memory: Memory = field(default_factory=list)  # the outer optimiser's
    kept: Params = field(default_factory=dict)  # what no gradient changes: running statistics
    iteration: int = 0
    best: Meta = None
    best_kept: Params = field(default_factory=dict)
    best_score: float | None = None
    curve: list[tuple[int, float, float | None]] = field(default_factory=list)  # iteration, loss, validation
    losses: list[float] = field(default_factory=list)  # since the last row
    notes: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # of interactive suites: iteration, columns
    counts: dict[str, float] = field(default_factory=dict)  # so far: environment_steps, unstable
    rejected: int = 0  # steps that the outer rule did not take
    pace: list[float] = field(default_factory=list)  # median seconds per iteration, of each row
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    pieces: int = 1
    whole: bool = True  # False while an iteration is applied: not to be saved

    def chosen(self, best: bool) -> tuple[Meta, Params]:
        """Meta and what is kept beside it: the best on the validation tasks if asked and known, else the last."""
        return (self.best, self.best_kept) if best and self.best is not None else (self.meta, self.kept)

    def save(self) -> bytes:
        """The checkpoint, as a safetensors file."""
        from safetensors.torch import save

        tensors = {f"meta{name}": leaf for name, leaf in named_leaves(self.meta)}
        tensors |= {f"kept/{name}": value for name, value in self.kept.items()}
        if self.best is not None:
            tensors |= {f"best{name}": leaf for name, leaf in named_leaves(self.best)}
            tensors |= {f"best_kept/{name}": value for name, value in self.best_kept.items()}
        for i, slots in enumerate(self.memory):
            tensors |= {f"outer/{i}/{name}": slot for name, slot in slots.items() if isinstance(slot, Tensor)}
        state = {name: getattr(self, name) for name in PLAIN}
        return save({k: v.contiguous().cpu() for k, v in tensors.items()}, {"state": json.dumps(state)})

    @classmethod
    def load(cls, content: bytes, like: Meta, device: str = "cpu") -> "Training":
        """The state in a checkpoint whose meta has the structure of `like`."""
        from safetensors.torch import load

        tensors = load(content)
        for name, leaf in named_leaves(like):
            if tensors[f"meta{name}"].shape != leaf.shape:
                raise ValueError(f"{name} has shape {tuple(tensors[f'meta{name}'].shape)}, not {tuple(leaf.shape)}")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        state: dict[str, Any] = json.loads(header["__metadata__"]["state"])
        names, spec = [name for name, _ in named_leaves(like)], tree_flatten(like)[1]

        def pick(prefix: str) -> Meta:
            return to(tree_unflatten([tensors[f"{prefix}{name}"] for name in names], spec), device)

        def beginning(prefix: str) -> Params:
            found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            return {name: to(value, device) for name, value in found.items()}

        curve = [(int(i), float(loss), score) for i, loss, score in state.pop("curve")]
        notes = [(int(i), columns) for i, columns in state.pop("notes", [])]
        slots = {int(name.split("/")[1]) for name in tensors if name.startswith("outer/")}
        return cls(
            meta=pick("meta"),
            memory=[beginning(f"outer/{i}/") for i in range(max(slots, default=-1) + 1)],
            kept=beginning("kept/"),
            best=pick("best") if state["best_score"] is not None else None,
            best_kept=beginning("best_kept/"),
            curve=curve,
            notes=notes,
            **state,
        )
