"""Names are found without importing, built with checks, and whatever a plug-in does wrong is said."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from bench.core.discovery import Catalogue, Named, allowed, build, parse, source_hash
from bench.core.errors import BenchError

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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("maml[", "not closed"),
        ("maml]", "do not match"),
        ("maml[[a=1]]", "do not match"),
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
        (tuple[int, ...], "tuple[int, ...]"),
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
        (ALGORITHM.replace("class Mine", "class A") + "\nclass B(A): pass\n", "it has: A, B"),
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
    assert "does not define floor, look_up, losses, metrics, module, predict, presets" in found
    assert "sheet" not in found


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
