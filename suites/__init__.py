"""Task distributions: one file is one suite, and its name is the file's."""

import json
from functools import cache
from pathlib import Path


@cache
def published() -> dict[str, dict[str, str]]:
    """Suite -> "<setting>/<split>" -> SHA-256 of the frozen tasks that its present version was published with."""
    path = Path(__file__).parent / "assets" / "manifests.json"
    hashes: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return hashes
