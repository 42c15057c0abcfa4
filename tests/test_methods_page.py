"""docs/methods.md lists what is registered, as the code has it; BENCH_METHODS_PAGE names the page to be written."""

import os
import re
import sys
from itertools import groupby
from pathlib import Path

from bench.core.discovery import Catalogue
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "methods.md"
MARKED = re.compile(r"(?<=<!-- catalogue -->\n).*?(?=<!-- /catalogue -->)", re.S)
ALL = 3  # kinds of suites


def catalogue() -> str:
    """A table for each family: what a method is, in its own words, what it meets, and its paper."""
    found = Catalogue()
    tables = []
    names = sorted(found.names("algorithm"), key=lambda name: (found.stated(name, "family")[0].casefold(), name))
    for family, members in groupby(names, lambda name: found.stated(name, "family")[0]):
        rows = [f"**{family}**", "", "| method | what it is | meets | source |", "|---|---|---|---|"]
        for name in members:
            cls = found.load("algorithm", name)
            papers = dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{5})", sys.modules[cls.__module__].__doc__ or ""))
            links = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers)
            kinds = found.stated(name, "suits")
            meets = "any suite" if len(kinds) == ALL else ", ".join(kinds)
            meets = "streams" if any(found.stated(name, "follows")) else meets
            rows.append(
                f"| [`{name}`](../algorithms/{name}.py) | {found.names('algorithm')[name]} | {meets} | {links} |"
            )
        tables.append("\n".join(rows))
    return "\n\n".join(tables) + "\n"


def test_the_page_of_methods_lists_what_is_registered() -> None:
    made = catalogue()
    if page := os.environ.get("BENCH_METHODS_PAGE"):
        Path(page).write_text(MARKED.sub(lambda _: made, PAGE.read_text()))
    [shown] = MARKED.findall(PAGE.read_text())
    assert shown == made, "write it anew: BENCH_METHODS_PAGE=docs/methods.md pytest tests/test_methods_page.py"
