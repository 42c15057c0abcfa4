"""What the pages show is what the files say, and what they name is there."""

import re

import pytest

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_the_page_of_your_own_algorithm_shows_the_probe_that_is_tested() -> None:
    page = (ROOT / "docs" / "your-own-algorithm.md").read_text()
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert shown == (ROOT / "tests" / "probes" / "prototypes.py").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(page: object) -> None:
    text = (ROOT / "docs" / page.name).read_text()  # type: ignore[attr-defined]
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
