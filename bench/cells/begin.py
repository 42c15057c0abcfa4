"""What a cell's job calls first: it finds out whether the cell is still to be run before it imports anything heavy."""

from pathlib import Path
from typing import Any

from bench.places.jobs import Emit
from bench.storage.store import Store


def begin(arguments: dict[str, Any], emit: Emit, stop: Any) -> bool:
    """Runs a cell unless somebody else has or does; whether it has a record now.

    Raises:
        HeldError: somebody else is at it.
    """
    store, cell = Store.open(Path(arguments["store"])), arguments["cell"]
    if store.ended(cell, arguments["failure"]):
        return True
    with store.hold(cell):
        pass
    from bench.cells.execute import work

    return work(arguments, emit, stop)
