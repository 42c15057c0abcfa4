"""The page works in a browser without network, and takes nothing from outside for markup."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bench.core.findings import Audit, Finding
from reports.page import Picture, Report, html, inline, publish
from reports.views import Entry, View

EVIL = "<script>document.title='broken'</script>&\"'"
PROBE = """<script type="module">
const wait = ms => new Promise(done => setTimeout(done, ms));
for (let i = 0; i < 100 && !document.documentElement.dataset.ready; i++) await wait(50);
const table = document.querySelector("#first ~ .wide table") ?? document.querySelector("table.sortable");
const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent.trim());
const found = { before: column() };
table.tHead.rows[0].cells[1].click(); await wait(50); found.ascending = column();
table.tHead.rows[0].cells[1].click(); await wait(50); found.descending = column();
const box = table.closest(".dt-container").querySelector("input");
box.value = "maml"; box.dispatchEvent(new Event("input", { bubbles: true })); await wait(600);
found.filtered = column();
found.figures = [...document.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect().height > 50);
found.title = document.title;
const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((a, c) => a + Number(c), 0) / 765;
const under = e => { const c = getComputedStyle(e).backgroundColor;
  return /, 0\\)$/.test(c) ? under(e.parentElement) : c; };
const cell = table.tBodies[0].rows[0].cells[0];
found.ink = light(getComputedStyle(cell).color); found.paper = light(under(cell));
found.wider = document.documentElement.scrollWidth > innerWidth + 1;
const out = document.createElement("pre"); out.id = "probe"; out.textContent = JSON.stringify(found);
document.body.append(out);
</script>"""


def report(name: str = "maml") -> Report:
    figure = Figure(figsize=(3, 2))
    figure.subplots().set_title(name)
    scores = [("scratch", 10.5), (name, 9.25), ("finetune", 100.0), ("maml2", -3.0), ("oracle", 0.5)]
    rows = tuple((Entry(n, n), Entry(f"{v:.2f} ± 0.10", v, "best" if v < 0 else "", link=f"x/{n}")) for n, v in scores)
    view = View("first", f"{name} scores", ("algorithm", "mse @1"), rows, (f"a note on {name}",))
    finding = Finding("fault", name, "differ", f"{name} differs", "mend it")
    return Report(
        title=name,
        subtitle=name,
        audit=Audit((finding,), ()),
        summary=[f"{name} is best"],
        scores=[view],
        analyses=[],
        pictures=[Picture("one", f"a figure of {name}", figure)],
        cells=View("cells", "Cells", ("cell", "message"), ((Entry("a"), Entry(name)),)),
        commands=[f"bench run --algos {name}"],
        command_notes=[name],
        environment={name: name},
    )


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        if os.environ.get("CI"):
            pytest.fail("CI must have a Chromium")
        pytest.skip("no Chromium: apt-get install chromium")
    return found


def visited(page: Path, width: int, dark: bool = False) -> tuple[dict[str, object], str]:
    """What the probe found in the page, and what was written to the console."""
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},900"]
    command += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    command += ["--virtual-time-budget=20000", "--dump-dom", f"file://{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert probe, done.stderr[-2000:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(probe[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (500, True)], ids=["wide and light", "narrow and dark"])
def test_the_page_sorts_filters_and_shows_every_figure_in_a_browser(tmp_path: Path, width: int, dark: bool) -> None:
    page = publish(report(), tmp_path, {}, Path.write_bytes)
    page.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    found, console = visited(page, width, dark)
    assert console == ""
    assert found["before"] == [f"{v} ± 0.10" for v in ("10.50", "9.25", "100.00", "-3.00", "0.50")]
    assert found["ascending"] == [f"{v} ± 0.10" for v in ("-3.00", "0.50", "9.25", "10.50", "100.00")]
    assert found["descending"] == found["ascending"][::-1]  # type: ignore[index]
    assert found["filtered"] == ["9.25 ± 0.10", "-3.00 ± 0.10"] or found["filtered"] == ["-3.00 ± 0.10", "9.25 ± 0.10"]
    assert found["figures"] == [True]
    assert not found["wider"]
    ink, paper = float(str(found["ink"])), float(str(found["paper"]))
    assert (paper < 0.3 and ink > 0.7) if dark else (paper > 0.9 and ink < 0.3)


@pytest.mark.slow
def test_names_with_markup_in_them_stay_text_in_a_browser(tmp_path: Path) -> None:
    page = publish(report(EVIL), tmp_path, {}, Path.write_bytes)
    page.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    found, console = visited(page, 1000)
    assert console == ""
    assert found["title"] == EVIL


class Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.external = 0, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.external += [v for k, v in attrs if k == "src" and v] + [v for k, v in attrs if tag == "link" and v]


def test_nothing_from_outside_becomes_markup_and_nothing_is_fetched() -> None:
    made = report(EVIL)
    parser = Scripts()
    text = html(made, [(made.pictures[0], "<svg></svg>")])
    parser.feed(text)
    assert parser.scripts == 1
    assert parser.external == []
    assert EVIL not in text


def test_a_page_says_what_the_audit_found_and_that_there_was_none() -> None:
    made = report()
    assert "some comparisons are not valid" in html(made, [])
    assert "maml differs" in html(made, [])
    from dataclasses import replace

    assert "every comparison stands" in html(replace(made, audit=Audit((), ())), [])


def test_a_figures_ink_is_the_pages() -> None:
    from reports.figures import INK

    assert inline(f'<?xml version="1.0"?>\n<svg fill="{INK}"/>') == '<svg fill="currentColor"/>'


def test_tables_are_written_for_papers_and_readmes(tmp_path: Path) -> None:
    publish(report("a_b|<i>"), tmp_path, {}, Path.write_bytes)
    latex = (tmp_path / "tables" / "first.tex").read_text()
    assert r"a\_b" in latex
    assert r"\textbf{-3.00 $\pm$ 0.10}" in latex
    markdown = (tmp_path / "tables" / "report.md").read_text()
    assert "| a_b\\|&lt;i&gt; | 9.25 ± 0.10 |" in markdown
    assert "| maml2 | **-3.00 ± 0.10** |" in markdown
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"one.svg", "one.png", "one.pdf"}
