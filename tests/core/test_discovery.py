"""Names are found without importing, built with checks, and whatever a plug-in does wrong is said."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from bench.core.beside import ROOT
from bench.core.discovery import FOLDERS, Catalogue, Named, allowed, build, parse, source_hash
from bench.core.errors import BenchError
from bench.core.types import Learner, Suite, Supervised
from suites.sinusoid import Sinusoid

ALGORITHM = '''"""Mine: a test."""
from dataclasses import dataclass
from bench.core.types import Learner

@dataclass(frozen=True, kw_only=True)
class Mine(Learner):
    """Stays where it is."""

    rate: float = 0.1

    def step(self, meta, state, loss, data, k):
        return state
'''


def plugin(folder: Path, content: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def message(call: Any, *arguments: Any) -> str:
    with pytest.raises(BenchError) as caught:
        call(*arguments)
    return str(caught.value)


def test_names_are_parsed_with_their_parameters() -> None:
    assert parse(" maml , meta[ a = 1, b=x ],,c[] ") == [
        Named("maml", {}),
        Named("meta", {"a": "1", "b": "x"}),
        Named("c", {}),
    ]


def test_a_parameter_may_have_several_values() -> None:
    assert parse("a[x=1,2, 3,y=4],b") == [Named("a", {"x": "1,2,3", "y": "4"}), Named("b", {})]
    assert parse(str(Named("a", {"x": (1, 2), "y": 4}))) == parse("a[x=1,2,y=4]")  # type: ignore[dict-item]
    assert "'y' in 'a[x=1,y]' is not parameter=value" in message(parse, "a[x=1,y]")
    assert "'1' in 'a[1,x=2]' is not parameter=value" in message(parse, "a[1,x=2]")
    assert "shots=1,5. Allowed: int >= 1" in message(build, Sinusoid, "sinusoid", {"shots": "1,5"})


@pytest.mark.parametrize("typed", ["100,50", " 100 , 50 ", (100, 50), [100, 50]])
def test_several_values_are_built_from_what_was_typed_and_from_what_was_stored(typed: Any) -> None:
    assert build(Sinusoid, "sinusoid", {"hidden": typed}).hidden == (100, 50)


@pytest.mark.parametrize("typed", ["100,0", "-1", "100,1.5", "wide", "100,", (), ("100", 0)])
def test_several_values_are_refused_together_with_what_is_allowed(typed: Any) -> None:
    said = message(build, Sinusoid, "sinusoid", {"hidden": typed})
    assert ". Allowed: one or more int >= 1, separated by commas. `bench show" in said
    assert said.startswith("sinusoid does not take hidden=")
    assert said.count("hidden=") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("maml[", "not closed"),
        ("maml]", "do not match"),
        ("maml[[a=1]]", "'[a=1]' in 'maml[[a=1]]' is not parameter=value"),
        ("maml[a=1]]", "do not match"),
        ("maml[a=1]x", "follows the bracket"),
        ("maml[a]", "'a' in 'maml[a]' is not parameter=value"),
        ("maml[a=]", "not parameter=value"),
        ("maml[=1]", "not parameter=value"),
        ("maml[a=1,a=2]", "'a' is given twice"),
        ("[a=1]", "lacks a name"),
        ("", "names nothing"),
        (" , ,", "names nothing"),
    ],
)
def test_what_does_not_parse_is_said(text: str, reason: str) -> None:
    assert reason in message(parse, text)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[float, Field(gt=0)], "float > 0"),
        (Annotated[int, Field(ge=0, le=4)], "int >= 0 and <= 4"),
        (Annotated[int | None, Field(ge=1, description="some")], "int >= 1"),
        (Annotated[Literal["a", "b"], Field()], "a | b"),
        (bool, "true | false"),
        (str, "str"),
        (tuple[int, ...], "one or more int, separated by commas"),
        (Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field()], "one or more int >= 1, separated by commas"),
        (
            Annotated[Annotated[int, Field(ge=1)] | Annotated[str, Field(examples=["1-20"])], Field()],
            "int >= 1 | such as 1-20",
        ),
        (int | str, "int | str"),
    ],
)
def test_what_a_field_takes_is_said_in_words(hint: Any, words: str) -> None:
    assert allowed(hint) == words


def test_nothing_ends_up_in_a_list_of_names_by_hand() -> None:
    assert {"maml", "fomaml", "metasgd", "finetune", "scratch", "oracle"} <= set(Catalogue().names("algorithm"))
    assert {"sinusoid", "sinusoid_freq", "omniglot", "glyphs"} <= set(Catalogue().names("suite"))


def test_the_protocol_fills_what_is_open_and_what_was_typed_wins() -> None:
    maml = Catalogue().load("algorithm", "maml")
    protocol = {"inner_lr": 0.4, "steps": 1, "outer_lr": 0.001, "meta_batch": 32}
    built = build(maml, "maml", {"steps": "3"}, protocol)
    assert (built.steps, built.inner_lr, built.meta_batch) == (3, 0.4, 32)


def test_a_field_that_nobody_fills_is_named() -> None:
    maml = Catalogue().load("algorithm", "maml")
    assert "Give it: maml[steps=...]" in message(build, maml, "maml", {}, {})


def test_a_plug_in_is_found_by_its_files_name(tmp_path: Path) -> None:
    catalogue = Catalogue((plugin(tmp_path, ALGORITHM),))
    assert catalogue.names("algorithm")["mine"] == "Mine: a test."
    assert catalogue.load("algorithm", "mine").__name__ == "Mine"
    assert "mine" not in catalogue.names("suite")


def test_an_edited_plug_in_is_what_runs_and_what_is_hashed(tmp_path: Path) -> None:
    catalogue = Catalogue((plugin(tmp_path, ALGORITHM),))
    before = catalogue.load("algorithm", "mine")
    hash_before = source_hash(before)
    plugin(tmp_path, ALGORITHM.replace("0.1", "0.2"))  # the same size, within the same second
    after = catalogue.load("algorithm", "mine")
    assert (before.rate, after.rate) == (0.1, 0.2)
    assert source_hash(after) != hash_before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def f(:", "SyntaxError"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise SystemExit(0)", "SystemExit"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "defines no algorithm and no suite"),
        (ALGORITHM.replace("@dataclass(frozen=True, kw_only=True)\n", ""), "must be a dataclass"),
        (ALGORITHM.replace("frozen=True, ", "").replace("(Learner)", ""), "must be frozen"),
        (ALGORITHM.replace("(Learner)", ""), "must inherit bench.core.types.Learner"),
        (ALGORITHM.replace("def step", "def stepp"), "does not define step"),
        (ALGORITHM.replace("class Mine", "class A") + "\nclass B(A): pass\n", "It has: A, B"),
        (ALGORITHM.replace("rate: float", "rate: 'Nonsense'"), "'Nonsense' is not defined"),
        (ALGORITHM.replace("rate: float = 0.1", "rate: __import__('torch').Tensor = None"), "cannot be checked"),
    ],
)
def test_what_a_plug_in_does_wrong_is_said(tmp_path: Path, content: str, reason: str) -> None:
    found = message(Catalogue((plugin(tmp_path, content),)).load, "algorithm", "mine")
    assert reason in found
    assert "mine" in found


def test_a_suite_is_told_all_that_it_does_not_define(tmp_path: Path) -> None:
    content = ALGORITHM.replace("Learner", "Supervised").replace("Mine", "Lazy").replace("def step", "def sample")
    found = message(Catalogue((plugin(tmp_path, content, "lazy.py"),)).load, "suite", "lazy")
    listed = "floor, look_up, losses, metrics, module, predict, presets, protocol, report_steps, score:"
    assert f"does not define {listed}" in found
    assert "sheet" not in found


def test_what_must_be_defined_is_abstract() -> None:
    assert Learner.__abstractmethods__ == {"step"}
    assert {"floor", "module", "sample", "predict", "score"} <= Suite.__abstractmethods__
    assert {"collect", "sheet"}.isdisjoint(Supervised.__abstractmethods__)

    @dataclass(frozen=True, kw_only=True)
    class Lazy(Learner):
        rate: float = 0.1

    with pytest.raises(TypeError, match="step"):
        Lazy(steps=1, outer_lr=0.1, meta_batch=1)  # type: ignore[abstract]


@pytest.mark.parametrize("name", ["bad-name.py", "mine.txt", "missing.py"])
def test_a_plug_in_must_be_a_python_file_with_a_modules_name(tmp_path: Path, name: str) -> None:
    if name != "missing.py":
        plugin(tmp_path, ALGORITHM, name)
    assert name in message(Catalogue((tmp_path / name,)).names, "suite")


def test_two_claims_to_one_name_are_refused(tmp_path: Path) -> None:
    clash = plugin(tmp_path, ALGORITHM.replace("Mine", "Maml"), "maml.py")
    found = message(Catalogue((clash,)).load, "algorithm", "maml")
    assert str(clash) in found
    assert "rename" in found


def test_the_other_kind_is_recognised() -> None:
    assert "Its kind is algorithm" in message(Catalogue().load, "suite", "maml")


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_file_is_one_choice(kind: Any) -> None:
    files = sorted(path.stem for path in (ROOT / FOLDERS[kind]).glob("[!_]*.py"))
    assert [Catalogue().load(kind, name).__module__ for name in files] == [f"{FOLDERS[kind]}.{name}" for name in files]


def python(code: str, folder: Path, *path: Path, ok: bool = True) -> str:
    """What a process prints that runs in a folder, with these places first on its path, or how it ends."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


EDITABLE = f"""if True:  # as setuptools' finder of an editable install, which is asked after Python's own
    import importlib.util, sys
    from pathlib import Path
    class Editable:
        @staticmethod
        def find_spec(name, path=None, target=None):
            folder = Path({str(ROOT)!r}, name)
            if path is None and name in ("bench", "algorithms", "suites", "reports"):
                return importlib.util.spec_from_file_location(
                    name, folder / "__init__.py", submodule_search_locations=[str(folder)]
                )
    sys.path = [place for place in sys.path if place != {str(ROOT)!r}]
    names = [getattr(finder, "__name__", "") for finder in sys.meta_path]
    sys.meta_path.insert(names.index("PathFinder") + 1, Editable)
"""


@pytest.mark.forms(1)
@pytest.mark.slow
@pytest.mark.parametrize("content", [None, ""], ids=["an empty folder", "a package"])
@pytest.mark.parametrize("first", [False, True], ids=["working directory", "PYTHONPATH"])
def test_what_bears_the_names_of_our_packages_hides_none_of_them(
    tmp_path: Path, first: bool, content: str | None
) -> None:
    for name in ("suites", "algorithms"):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "__init__.py").write_text(content)
            (tmp_path / name / "mine.py").write_text(ALGORITHM)
    (tmp_path / "reports.py").touch()
    code = """if True:
        import bench
        from bench.core.discovery import Catalogue
        print(*Catalogue().names("suite"), *Catalogue().names("algorithm"))
        print(bench.run("sinusoid", "scratch", preset="smoke", threads=1).store.root)
    """
    names, root = python(EDITABLE + code, tmp_path, *[tmp_path] * first).splitlines()
    assert names.split() == [*Catalogue().names("suite"), *Catalogue().names("algorithm")]
    assert root == "runs/sinusoid"


def test_an_intruder_that_is_there_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports.py").touch()
    last = python("import reports, bench", tmp_path, ok=False).splitlines()[-1]
    assert f"BenchError: {tmp_path / 'reports.py'} is imported as 'reports'" in last
    assert "Import bench before it, or give it another name." in last


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Our packages at another place, whose suites and algorithms may be changed."""
    for name in ("bench", "reports"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("suites", "algorithms"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_method_has_its_files_name_whatever_its_class_is_called(house: Path) -> None:
    content = (house / "algorithms" / "fomaml.py").read_text().replace("FOMAML", "AlmostNoInnerLoop")
    (house / "algorithms" / "nearly.py").write_text(content)
    code = "from bench.core.discovery import Catalogue as C; print(C().load('algorithm', 'nearly').__name__, "
    found = python(code + "*C().names('algorithm'))", house, house).split()
    assert found == ["AlmostNoInnerLoop", *sorted([*Catalogue().names("algorithm"), "nearly"])]


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ("class Helper:\n    pass\n", "Helper"),
        ("class Helper:\n    def sample(self) -> None: ...\n", "Helper"),
        ("from suites.sinusoid import Sinusoid\nclass One(Sinusoid): ...\nclass Two(Sinusoid): ...\n", "One, Two"),
        ("from typing import NamedTuple\nclass Helper(NamedTuple):\n    x: int\n", "Helper"),
        ("x = 1\n", "no class"),
    ],
)
def test_a_file_that_is_not_one_choice_is_named_with_its_classes(house: Path, content: str, classes: str) -> None:
    (house / "suites" / "helper.py").write_text(content)
    last = python(
        "from bench.core.discovery import Catalogue as C; C().load('suite', 'helper')", house, house, ok=False
    )
    assert f"{house / 'suites' / 'helper.py'} must define exactly one suite" in last
    assert f"It has: {classes}." in last
    assert f"goes into {house / 'suites' / 'parts'}" in last


@pytest.mark.forms(1)
@pytest.mark.parametrize(
    "content",
    ["x = 1", *(pytest.param(c, marks=pytest.mark.slow) for c in ("class Helper: pass", "class _Shared(Suite): pass"))],
)
def test_a_file_that_is_no_choice_spoils_no_other(house: Path, content: str) -> None:
    (house / "suites" / "helper.py").write_text(content)
    (house / "algorithms" / "broken.py").write_text("class Broken(")
    code = "from bench.core.discovery import Catalogue as C; print(*C().names('suite'), *C().names('algorithm'))"
    found = python(f"{code}; C().load('suite', 'sinusoid')", house, house).split()
    assert found == [*Catalogue().names("suite"), *sorted([*Catalogue().names("algorithm"), "broken"])]
    last = python(
        "from bench.core.discovery import Catalogue as C; C().load('algorithm', 'broken')", house, house, ok=False
    )
    assert f"{house / 'algorithms' / 'broken.py'} does not import: SyntaxError" in last


def test_one_of_our_files_that_does_not_import_is_named(house: Path) -> None:
    (house / "algorithms" / "mine.py").write_text("import no_such_module\n" + ALGORITHM)
    code = "from bench.core.discovery import Catalogue as C; C().load('algorithm', 'mine')"
    last = python(code, house, house, ok=False).splitlines()[-1]
    assert f"{house / 'algorithms' / 'mine.py'} does not import: ModuleNotFoundError" in last


def test_what_is_imported_of_ours_is_in_the_hash_whoever_imports_it(house: Path) -> None:
    mine = plugin(house, ALGORITHM.replace("from dataclasses", "from suites.parts import nets\nfrom dataclasses"))
    code = f"""if True:
        from pathlib import Path
        from bench.core.beside import ROOT
        from bench.core.discovery import Catalogue, source_hash
        catalogue = Catalogue((Path({str(mine)!r}),))
        suites = [catalogue.load("suite", name) for name in ("halfcheetah_vel", "omniglot", "sinusoid")]
        classes = [*suites, catalogue.load("algorithm", "mine")]
        for changed in ("parts/physics.py", "parts/nets.py", "parts/sawyer.py", "omniglot.py"):
            before = [source_hash(cls) for cls in classes]
            with (ROOT / "suites" / changed).open("a") as file:
                file.write("# another")
            print(*(source_hash(cls) != old for cls, old in zip(classes, before)))
    """
    cheetah, omniglot, sinusoid, plug_in = zip(*map(str.split, python(code, house, house).splitlines()), strict=True)
    assert cheetah == ("True", "False", "False", "False")  # physics, which does the stepping, is two imports away
    assert omniglot == ("False", "True", "False", "True")
    assert sinusoid == plug_in == ("False", "True", "False", "False")


@pytest.mark.parametrize(
    "statement", ["import helper", "from helper import RATE", "from kit.deep import RATE", "from kit import deep"]
)
def test_what_a_plug_in_imports_from_beside_it_is_in_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "helper.py").write_text("RATE = 0.1\n")
    (tmp_path / "numpy.py").write_text("# beside it, and not what is imported: Python found another first\n")
    (tmp_path / "kit" / "__init__.py").touch()
    (tmp_path / "kit" / "deep.py").write_text("from .deeper import RATE\n")
    (tmp_path / "kit" / "deeper.py").write_text("RATE = 0.1\n")
    for name in ("helper", "kit", "kit.deep", "kit.deeper"):  # forgotten after
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    content = ALGORITHM.replace("from dataclasses", f"import numpy\n{statement}\nfrom dataclasses")
    mine = Catalogue((plugin(tmp_path, content),)).load("algorithm", "mine")
    for name, counts in ((("kit/deeper.py" if "kit" in statement else "helper.py"), True), ("numpy.py", False)):
        before = source_hash(mine)
        with (tmp_path / name).open("a") as file:
            file.write("# another\n")
        assert (source_hash(mine) != before) == counts
