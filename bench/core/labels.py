"""How a name with its parameters is written, so that it can be typed again."""

from collections.abc import Mapping
from typing import Any


def written(name: str, given: Mapping[str, Any]) -> str:
    """name[parameter=value,...], as `parse` reads it."""
    inside = ",".join(f"{key}={shown(value)}" for key, value in given.items())
    return f"{name}[{inside}]" if inside else name


def shown(value: Any) -> str:
    """A parameter's value as it is typed: several with commas between them."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
