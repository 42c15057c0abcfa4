"""What exists, and how it is built from what a user typed; nothing is imported before it is asked for.

A suite or an algorithm is one file whose class bears the file's name (maml.py: MAML), in this package, in somebody
else's by the entry-point groups `bench.suites` and `bench.algorithms`, or given as a plug-in file.
"""

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from bench.core.errors import BenchError, unknown

Kind = Literal["algorithm", "suite"]
FOLDERS: dict[Kind, str] = {"algorithm": "algorithms", "suite": "suites"}
BASES: dict[Kind, str] = {"algorithm": "Learner", "suite": "Suite"}
# What somebody else's class must have if it does not inherit the base, which has the rest.
PARTS: dict[Kind, tuple[str, ...]] = {
    "algorithm": ("step", "meta_loss", "init"),
    "suite": ("sample", "collect", "predict", "losses", "score"),
}


@dataclass(frozen=True)
class Named:
    """A name with its parameters as typed: maml[inner_lr=0.1] is ("maml", {"inner_lr": "0.1"})."""

    name: str
    given: dict[str, str]


@dataclass(frozen=True)
class Catalogue:
    """All suites and algorithms that can be named: built in, installed, and the plug-in files."""

    plugins: tuple[Path, ...] = ()

    def names(self, kind: Kind) -> dict[str, str]:
        """Name -> first line of its docstring, without importing torch."""
        found = dict(_built_in(kind))
        for name, entry in _installed(kind).items():
            found.setdefault(name, f"from {entry.dist.name if entry.dist else entry.value}")
        for path in self.plugins:
            if _find(_import(path), kind):
                found.setdefault(path.stem, _first_line(path))
        return dict(sorted(found.items()))

    def load(self, kind: Kind, name: str) -> type[Any]:
        """The class of a name; errors where it is unknown, does not import, or is not what it should be."""
        for path in self.plugins:
            if path.stem == name and name in _built_in(kind):
                raise BenchError(f"{path} has the name of the built-in {kind} {name!r}: rename the file.")
        if name in _built_in(kind):
            return _only(importlib.import_module(f"{FOLDERS[kind]}.{name}"), kind, name)
        if name in (installed := _installed(kind)):
            return _entry(installed[name], kind)
        for path in self.plugins:
            if path.stem == name:
                return _only(_import(path), kind, name)
        advice = "List them with `bench list`; your own comes with --plugin FILE, and FILE's name is its name."
        raise unknown(kind, name, self.names(kind), advice)


def parse(text: str) -> list[Named]:
    """The names in `a,b[x=1,y=2],c`."""
    parts: list[str] = [""]
    depth = 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth not in (0, 1):
            raise BenchError(f"brackets do not match in {text!r}. Write name[parameter=value,...].")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise BenchError(f"a bracket is not closed in {text!r}. Write name[parameter=value,...], in quotes.")
    return [_named(part.strip()) for part in parts if part.strip()]


def _named(text: str) -> Named:
    name, bracket, rest = text.partition("[")
    if not bracket:
        return Named(name, {})
    if not rest.endswith("]"):
        raise BenchError(f"something follows the bracket in {text!r}. Write name[parameter=value,...].")
    given: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in rest[:-1].split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise BenchError(f"{item!r} in {text!r} is not parameter=value.")
        if key in given:
            raise BenchError(f"{key!r} is given twice in {text!r}.")
        given[key] = value
    return Named(name.strip(), given)


def build(cls: type[Any], name: str, given: dict[str, Any], protocol: dict[str, Any] | None = None) -> Any:
    """An instance from what was typed, checked by the fields' annotations; the protocol fills what has no default."""
    from pydantic import TypeAdapter, ValidationError

    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in given:
        if key not in fields:
            raise unknown(f"parameter of {name}", key, fields, f"`bench show {name}` explains them.")
    values = dict(given)
    for key, field in fields.items():
        if key in values or _has_default(field):
            continue
        if protocol is None or key not in protocol:
            raise BenchError(
                f"{name} needs {key}, for which this suite's protocol has no value. Give it: {name}[{key}=...]."
            )
        values[key] = protocol[key]
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or name}={e['input']!r}: {_lower_first(e['msg'])}" for e in error.errors()
        )
        raise BenchError(f"{name}: {problems}. `bench show {name}` lists what is allowed.") from None


def parameters(instance: Any) -> dict[str, Any]:
    """Field -> value of a suite or an algorithm."""
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}


def source_hash(*classes: type[Any]) -> str:
    """SHA-256 of the source files that define the classes and what they inherit, torch and `bench.core` apart."""
    files = {
        Path(inspect.getfile(base))
        for cls in classes
        for base in cls.__mro__
        if base.__module__.partition(".")[0] not in {*sys.stdlib_module_names, "torch", "bench"}
    }
    digest = hashlib.sha256()
    for content in sorted(path.read_bytes() for path in files):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _has_default(field: Any) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


@cache
def _built_in(kind: Kind) -> dict[str, str]:
    spec = importlib.util.find_spec(FOLDERS[kind])
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    paths = sorted(path for folder in folders for path in Path(folder).glob("*.py"))
    return {path.stem: _first_line(path) for path in paths if path.stem in map(_plain, _class_names(path))}


@cache
def _installed(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"bench.{FOLDERS[kind]}")}


def _plain(class_name: str) -> str:
    return class_name.lower()


def _class_names(path: Path) -> Iterator[str]:
    # sinusoid_freq.py: SinusoidFreq. Compared without underscores, so yield what the stem would be.
    stem = path.stem
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.lower() == stem.replace("_", ""):
            yield stem


def _first_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return doc.partition("\n")[0] if doc else ""


@cache
def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise BenchError(f"the plug-in {path} is not a file. --plugin takes the path of one Python file.")
    if not path.stem.isidentifier() or path.suffix != ".py":
        raise BenchError(f"the plug-in {path} must be named like a Python module, such as my_method.py.")
    name = f"bench_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BenchError(f"the plug-in {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BenchError(
            f"the plug-in {path} does not import: {type(error).__name__}: {error}. `python {path}` shows where."
        ) from error
    return module


def _entry(entry: EntryPoint, kind: Kind) -> type[Any]:
    try:
        loaded = entry.load()
    except Exception as error:
        raise BenchError(
            f"the installed {kind} {entry.name!r} ({entry.value}) does not import: {type(error).__name__}: {error}."
        ) from error
    if isinstance(loaded, ModuleType):
        return _only(loaded, kind, entry.name)
    return _checked(loaded, kind, entry.name)


def _find(module: ModuleType, kind: Kind) -> list[type[Any]]:
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    return [c for c in own if not c.__name__.startswith("_") and _looks_like(c, kind)]


def _looks_like(cls: type[Any], kind: Kind) -> bool:
    inherits = BASES[kind] in {base.__name__ for base in cls.__mro__}
    return inherits or any(hasattr(cls, part) for part in PARTS[kind][:1])


def _only(module: ModuleType, kind: Kind, name: str) -> type[Any]:
    found = _find(module, kind)
    named = [c for c in found if c.__name__.lower() == name.replace("_", "")] or found
    if len(named) != 1:
        have = ", ".join(c.__name__ for c in named) or "none"
        raise BenchError(
            f"{module.__file__} must define one {kind} class (a frozen dataclass that inherits "
            f"bench.core.types.{BASES[kind]}), best named like the file; it has: {have}."
        )
    return _checked(named[0], kind, name)


def _checked(cls: Any, kind: Kind, name: str) -> type[Any]:
    from bench.core import types

    base = getattr(types, BASES[kind])
    if not inspect.isclass(cls) or not dataclasses.is_dataclass(cls):
        raise BenchError(f"the {kind} {name!r} must be a dataclass: @dataclass(frozen=True, kw_only=True).")
    if not cls.__dataclass_params__.frozen:
        raise BenchError(f"the {kind} {name!r} must be frozen: @dataclass(frozen=True, kw_only=True).")
    if not issubclass(cls, base):
        raise BenchError(f"the {kind} {name!r} must inherit bench.core.types.{BASES[kind]}, which holds the defaults.")
    abstract = [part for part in PARTS[kind] if getattr(cls, part) is getattr(base, part) and _raises(base, part)]
    if abstract:
        raise BenchError(
            f"the {kind} {name!r} does not define {', '.join(abstract)}: see bench.core.types.{BASES[kind]}."
        )
    return cls


def _raises(base: type[Any], part: str) -> bool:
    return "raise NotImplementedError" in inspect.getsource(getattr(base, part))
