"""The documentation as a site: `python docs/make_site.py [FOLDER]`, `build/docs` by default.

README, the pages beside this file and the sources that they link to are copied to FOLDER/pages, their links turned to
where the copies lie; zensical makes FOLDER/site of them; every link of that is then followed. What it warns of, a link
that leads nowhere and anything that a reader's browser would fetch from elsewhere is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
NAV = {
    "Start": ["start", "tuning", "reports"],
    "Your own": ["your-own-algorithm", "your-own-tasks", "modules"],
    "Catalogue": ["methods", "suites"],
    "Results": ["results", "reproduce", "contributing-results", "measured", "popular-code"],
    "Why to trust it": ["protocols", "certificate", "reliability"],
    "Acting, and streams": ["reinforcement", "locomotion", "online"],
    "Cost and machines": ["cost", "machines", "scaling"],
    "Project": ["api", "contributing", "changelog"],
}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^( *```.*?^ *```$)", re.M | re.S)
NOTE = re.compile(r"(?<!\\)\[(\d+)\](?![(:])")
LANGUAGES = {".py": "python", ".toml": "toml", ".ini": "ini", ".cff": "yaml", ".csv": "text", "": "text"}


def main(folder: str = "build/docs") -> None:
    """Makes the site anew in a folder that may be there."""
    out = Path(folder).resolve()
    shutil.rmtree(out, ignore_errors=True)
    stage(out / "pages")
    config = (DOCS / "zensical.toml").read_text().replace("[project]\n", f"[project]\n{places(out / 'pages')}", 1)
    (out / "zensical.toml").write_text(config.replace('paths = [".."]', f'paths = ["{ROOT}"]'))
    zensical = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(out / "zensical.toml")]
    if subprocess.run(zensical, cwd=out, env={**os.environ, "NO_COLOR": "1"}, check=False).returncode:
        sys.exit("docs: zensical failed or warned, see above")
    if faults := check(out / "site"):
        sys.exit("\n".join(["docs: faults in what was made:", *faults]))
    print(f"docs: every link leads somewhere: {out / 'site' / 'index.html'}")


def places(pages: Path) -> str:
    """Where the pages lie, and their order; of NAV those that are there, and the others after them."""
    there = {path.stem for path in pages.glob("*.md")} - {"index"}
    sections = {title: [name for name in names if name in there] for title, names in NAV.items()}
    sections["Project"] += sorted(there.difference(*NAV.values()))
    listed = (f'{{ "{title}" = {[f"{name}.md" for name in names]} }}' for title, names in sections.items() if names)
    return f'docs_dir = "pages"\nsite_dir = "site"\nnav = ["index.md", {", ".join(listed)}]\n'


def stage(pages: Path) -> None:
    """Copies what is to be read, links turned."""
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
    moved = {ROOT / name: target for name, target in BESIDE.items() if (ROOT / name).exists()}
    moved |= {page: page.name for page in DOCS.glob("*.md")}
    for page, target in moved.items():
        parts = FENCE.split(page.read_text(encoding="utf-8"))
        parts[::2] = [LINK.sub(lambda found, page=page: turned(found, page, moved, pages), part) for part in parts[::2]]
        parts[::2] = [part.replace(" ± ", "\u00a0±\u00a0") for part in parts[::2]]  # a figure is one word
        parts[::2] = [NOTE.sub(r"\\[\1\\]", part) for part in parts[::2]]  # the number of a note, no reference
        (pages / target).write_text("".join(parts), encoding="utf-8")


def turned(found: re.Match[str], page: Path, moved: dict[Path, str], pages: Path) -> str:
    """A link of a page, to where the copy of what it names lies; a source is made a page of its own."""
    link, anchor = found[1], found[2] or ""
    if "://" in link or link.startswith("mailto:"):
        return found[0]
    file = Path(os.path.normpath(page.parent / link))
    if file in moved:
        return moved[file] + anchor
    if file.is_relative_to(DOCS) or not file.is_file():  # what is not there is zensical's to say
        return os.path.relpath(file, DOCS) + anchor
    name = file.relative_to(ROOT).as_posix()
    if file.suffix not in LANGUAGES:
        target = pages / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        return f"source/{name}{anchor}"
    target = pages / "source" / f"{name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"# {name}\n\n````{LANGUAGES[file.suffix]}\n{file.read_text(encoding='utf-8')}````\n")
    return f"source/{name}.md{anchor}"


class Links(HTMLParser):
    """What a page of HTML names, what it links to, and what it fetches."""

    def __init__(self, text: str) -> None:
        """Reads it."""
        super().__init__()
        self.names: set[str] = set()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        given = {key: value for key, value in attrs if value}
        self.names |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif link := given.get("src") or (given.get("href") if tag == "link" else None):
            self.fetched.add(link)


def check(site: Path) -> list[str]:
    """Links that lead nowhere, and what would be fetched from elsewhere."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    faults = []
    for path, page in sorted(pages.items()):
        where = path.relative_to(site)
        faults += [f"{where} fetches {link}" for link in page.fetched if urlsplit(link).netloc]
        for link in sorted(page.links | page.fetched):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            base = site if parts.path.startswith("/") else path.parent  # as of 404.html, which is shown anywhere
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                faults.append(f"{where} links to {link}, which is not there")
            elif target in pages and parts.fragment and unquote(parts.fragment) not in pages[target].names:
                faults.append(f"{where} links to {link}, but {target.relative_to(site)} has no such heading")
    return faults


if __name__ == "__main__":
    main(*sys.argv[1:])
