"""What a command says, for programs: `--json` makes one JSON document of its tables and lines, and of nothing else.

Tables give their rows here instead of being drawn; all other words on standard output become lines. So a command has
one way to say a thing, whoever reads.
"""

import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click

from bench.core.errors import BenchError


class _Document(io.TextIOBase):
    """Standard output meanwhile: what is written becomes lines beside the tables."""

    encoding = "utf-8"
    errors = "strict"

    def __init__(self) -> None:
        self.tables: list[dict[str, Any]] = []
        self.text = io.StringIO()

    def write(self, text: str) -> int:
        return self.text.write(text)

    def content(self, error: str) -> str:
        lines = [line.strip() for line in self.text.getvalue().splitlines()]
        whole = {"tables": self.tables, "said": [line for line in lines if line]} | ({"error": error} if error else {})
        return json.dumps(_plain(whole), indent=1, allow_nan=False)


def gathered(title: str, rows: Sequence[Mapping[Any, Any]]) -> bool:
    """Takes the rows of a table for the document; False where people read, for whom it is to be drawn."""
    if not isinstance(sys.stdout, _Document):
        return False
    sys.stdout.tables.append({"title": title, "rows": [dict(row) for row in rows]})
    return True


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with `--json`."""

    @wraps(command)
    def taking(json_: bool, **options: Any) -> Any:
        if not json_:
            return command(**options)
        with _one_document():
            return command(**options)

    return click.option("--json", "json_", is_flag=True, help="Print one JSON document instead, for programs.")(taking)


@contextmanager
def _one_document() -> Iterator[None]:
    before, document, said = sys.stdout, _Document(), ""
    sys.stdout = document
    try:
        yield
    except BenchError as error:
        said = str(error)
        raise
    finally:
        sys.stdout = before
        click.echo(document.content(said))


def value(text: str) -> Any:
    """The number that a text is, or the text."""
    plain = text.replace(",", "")
    for kind in (int, float):
        try:
            return kind(plain)
        except ValueError:
            continue
    return text


def _plain(value: Any) -> Any:
    """The value as JSON has it: null for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if hasattr(value, "item"):  # NumPy's
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
