"""What a shell is offered for the name of a suite or an algorithm; nothing heavy is imported."""

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from bench.core.discovery import Catalogue, Kind

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names_of(*kinds: Kind) -> Completion:
    """Completes the last name of a list such as "maml,fom"; nothing inside brackets."""

    def complete(_: click.Context, __: click.Parameter, text: str) -> list[CompletionItem]:
        if text.count("[") > text.count("]"):
            return []
        before, comma, last = text.rpartition(",")
        catalogue = Catalogue()
        found = {name: line for kind in kinds for name, line in catalogue.names(kind).items()}
        return [CompletionItem(before + comma + name, help=found[name]) for name in found if name.startswith(last)]

    return complete
