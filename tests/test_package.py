"""What is installed is what lies here."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from bench.core.beside import OURS
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_installed() -> None:
    folders = {path.parent for name in ("bench", *OURS) for path in (ROOT / name).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders} - {"suites.assets"}  # scripts beside data
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names


def test_every_python_that_is_promised_has_an_environment() -> None:
    promised = {
        line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if re.search(r"Python :: 3\.\d+$", line)
    }
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert min(promised, key=version) == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    newer = re.search(r"^\[testenv:py3\{(.*)\}\]$", (ROOT / "tox.ini").read_text(), re.M)
    assert newer
    assert {f"3.{minor}" for minor in newer[1].split(",")} == promised - {oldest}  # the oldest is `py`, where CI runs


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def sources() -> set[str]:
    """The files of the project: those that git tracks, or all where there is no git, as in an sdist."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        names = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    else:
        names = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()}
        names -= {name for name in names if re.search(r"egg-info/|__pycache__/|^PKG-INFO$|^setup\.cfg$", name)}
    return {name for name in names if not name.startswith(".")}  # the machinery of a clone


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a copy that no earlier build has touched, and unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in sorted(sources()):
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "copy" / name)
    build = [sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"]
    done = subprocess.run(build, cwd=folder / "copy", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.mark.slow
def test_the_sdist_holds_the_whole_project(sdist: Path) -> None:
    held = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    made = {"PKG-INFO", "setup.cfg", *(name for name in held if "egg-info/" in name)}
    assert held - made == sources()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_works_where_nothing_else_of_ours_is(sdist: Path, tmp_path: Path) -> None:
    shutil.copytree(sdist, tmp_path / "source")
    build = [sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"]
    subprocess.run(build, cwd=tmp_path / "source", capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "empty"], cwd=tmp_path, check=True)
    programs = tmp_path / "empty" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "-q", "--no-compile"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    # What it depends on is lent by this environment; a path in a .pth brings no editable install along.
    [site] = (tmp_path / "empty" / "lib").glob("*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run([programs / "bench", "--version"], env=env, capture_output=True, text=True, check=True).stdout
    assert PROJECT["project"]["version"] in said
    done = subprocess.run(
        [programs / "python", "-c", INSTALLED], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(site)) == 4, done.stdout


# Its glyphs are an asset of `suites`, the page and the published values lie in `reports`.
INSTALLED = """
import bench, algorithms, suites, reports
bench.run("glyphs", "protonet", out="runs", preset="smoke", iterations=2, threads=1, engine="eager")
bench.report("runs")
print(bench, algorithms, suites, reports)
"""


def test_every_extra_is_among_the_versions_that_were_tried() -> None:
    tried = {
        normal(line.partition("==")[0]) for line in (ROOT / "requirements/constraints.txt").read_text().split("\n")
    }
    extras = PROJECT["project"]["optional-dependencies"]
    # Meta-World has requirements/metaworld.txt; of the others, tests have a stand-in or do without.
    apart = {"metaworld", "mlflow-skinny", "scikit-learn"}
    asked = {normal(re.split(r"[\[<>=]", need)[0]) for needs in extras.values() for need in needs}
    assert asked - apart <= tried


def test_what_is_cited_is_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (PROJECT["project"]["version"], PROJECT["project"]["license"])
    assert f"## {cited['version']}" in (ROOT / "CHANGELOG.md").read_text()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


@pytest.mark.forms(0)
@pytest.mark.slow
def test_the_tests_run_from_the_sdist(sdist: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(sdist), "COLUMNS": "160"}
    where = [sys.executable, "-c", "import bench, algorithms; print(bench.__file__, algorithms.__file__, sep='\\n')"]
    found = subprocess.run(where, cwd=sdist, env=env, capture_output=True, text=True, check=True)
    assert [Path(line).parents[1] for line in found.stdout.splitlines()] == [sdist, sdist]
    few = ["core/test_discovery.py", "core/test_data.py", "suites/test_sinusoid.py", "test_pages.py", "test_package.py"]
    paths = [f"tests/{name}" for name in few]
    test = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(test, cwd=sdist, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
