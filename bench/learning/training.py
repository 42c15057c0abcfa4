"""All that meta-training has come to, and its checkpoint."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from bench.core.task import SuiteTask
from bench.core.trees import named_leaves, of_tensors, to, tree_flatten, tree_map, tree_unflatten
from bench.core.types import Learner, Meta, Params, Suite
from bench.learning.outer.descent import Memory

PLAIN = (
    *("iteration", "best_score", "curve", "losses", "notes", "counts", "rejected"),
    *("pace", "train_seconds", "compile_seconds", "pieces", "looks"),
)
SEAL = re.compile(rb'(?<="sha256":")[0-9a-f]{64}(?=")')  # in the header, where quotes of other values are escaped
OPEN = b"0" * 64  # in its place while the file is hashed


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
    looks: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)  # of a stream: round, points, scores
    rejected: int = 0  # steps that the outer rule did not take
    pace: list[float] = field(default_factory=list)  # median seconds per iteration, of each row
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    pieces: int = 1
    whole: bool = True  # False while an iteration is applied: not to be saved

    def chosen(self, best: bool) -> tuple[Meta, Params]:
        """Meta and what is kept beside it: the best on the validation tasks if asked and known, else the last."""
        return (self.best, self.best_kept) if best and self.best is not None else (self.meta, self.kept)

    def save(self, trajectory: str) -> bytes:
        """The checkpoint, as a safetensors file that names its trajectory (`Spec.trajectory`) and its own SHA-256."""
        tensors = {f"meta{name}": leaf for name, leaf in named_leaves(self.meta)}
        tensors |= {f"kept/{name}": value for name, value in self.kept.items()}
        if self.best is not None:
            tensors |= {f"best{name}": leaf for name, leaf in named_leaves(self.best)}
            tensors |= {f"best_kept/{name}": value for name, value in self.best_kept.items()}
        for i, slots in enumerate(self.memory):
            tensors |= {f"outer/{i}/{name}": slot for name, slot in slots.items() if isinstance(slot, Tensor)}
        state = {name: getattr(self, name) for name in PLAIN}
        return _sealed({k: v.contiguous().cpu() for k, v in tensors.items()}, state, trajectory)

    @classmethod
    def load(cls, content: bytes, like: Meta, trajectory: str, device: str = "cpu") -> "Training":
        """The state in a checkpoint of a trajectory whose meta has the structure of `like`.

        Raises:
            Exception: the file is broken, was edited, or is of another trajectory.
        """
        tensors, state = opened(content, trajectory)
        for name, leaf in named_leaves(like):
            if tensors[f"meta{name}"].shape != leaf.shape:
                raise ValueError(f"{name} has shape {tuple(tensors[f'meta{name}'].shape)}, not {tuple(leaf.shape)}")
        names, spec = [name for name, _ in named_leaves(like)], tree_flatten(like)[1]

        def pick(prefix: str) -> Meta:
            return to(tree_unflatten([tensors[f"{prefix}{name}"] for name in names], spec), device)

        def beginning(prefix: str) -> Params:
            found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            return {name: to(value, device) for name, value in found.items()}

        curve = [(int(i), float(loss), score) for i, loss, score in state.pop("curve")]
        notes = [(int(i), columns) for i, columns in state.pop("notes", [])]
        looks = [(int(number), int(amount), scores) for number, amount, scores in state.pop("looks", [])]
        slots = {int(name.split("/")[1]) for name in tensors if name.startswith("outer/")}
        return cls(
            meta=pick("meta"),
            memory=[beginning(f"outer/{i}/") for i in range(max(slots, default=-1) + 1)],
            kept=beginning("kept/"),
            best=pick("best") if state["best_score"] is not None else None,
            best_kept=beginning("best_kept/"),
            curve=curve,
            notes=notes,
            looks=looks,
            **state,
        )


def begun(learner: Learner, suite: Suite, generator: Generator) -> Meta:
    """What a learner begins with: as it draws it, in memory of its own.

    Each tensor moves by itself, in place: what shares memory with another, or is wired to a graph, would not.

    Raises:
        PluginError: not all of it is tensors.
    """
    drawn = of_tensors(learner.init(SuiteTask(suite), generator), f"what init of {type(learner).__name__} gives")
    return tree_map(lambda x: x.detach().clone(memory_format=torch.contiguous_format), drawn)


def opened(content: bytes, trajectory: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the plain values in a checkpoint of a trajectory.

    Raises:
        Exception: the file is broken, was edited, or is of another trajectory.
    """
    from safetensors.torch import load

    seal = SEAL.search(content)
    if seal is None or hashlib.sha256(SEAL.sub(OPEN, content, count=1)).hexdigest().encode() != seal[0]:
        raise ValueError("its SHA-256 is not the one that it was written with")
    tensors = load(content)
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    if about["trajectory"] != trajectory:
        raise ValueError(f"it is of another run, whose trajectory is {about['trajectory']} and not {trajectory}")
    return tensors, json.loads(about["state"])


def bare(content: bytes, trajectory: str, best: bool) -> bytes:
    """A checkpoint of which only what was learned is left, to be adapted and looked at, and never to be trained on.

    Raises:
        Exception: as `opened`.
    """
    tensors, state = opened(content, trajectory)
    left_out = ("outer/",) if best else ("outer/", "best")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    books: dict[str, Any] = {"curve": [], "losses": [], "notes": [], "pace": []}
    return _sealed(kept, state | books | ({} if best else {"best_score": None}), trajectory)


def _sealed(tensors: dict[str, Tensor], state: dict[str, Any], trajectory: str) -> bytes:
    from safetensors.torch import save

    about = {"state": json.dumps(state), "trajectory": trajectory, "sha256": OPEN.decode()}
    content = save(tensors, about)
    return SEAL.sub(hashlib.sha256(content).hexdigest().encode(), content, count=1)
