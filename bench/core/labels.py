"""How a name with its parameters is written, so that it can be typed again, and how long something takes."""

from collections.abc import Mapping
from typing import Any


def written(name: str, given: Mapping[str, Any]) -> str:
    """name[parameter=value,...], as `parse` reads it."""
    inside = ",".join(f"{key}={shown(value)}" for key, value in given.items())
    return f"{name}[{inside}]" if inside else name


def shown(value: Any) -> str:
    """A parameter's value as it is typed: several with commas between them."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def span(seconds: float | None) -> str:
    """Seconds as people say them: 1h02m, 3m04s, 5s."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
