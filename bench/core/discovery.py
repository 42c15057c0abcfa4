"""What exists, and how it is built from what a user typed; nothing is imported before it is asked for.

A suite or an algorithm is one class in one file, which gives it its name, whatever the class is called: a file directly
in `suites/` or `algorithms/`, a module or class that somebody else's package names in the entry-point group
`bench.suites` or `bench.algorithms`, or a plug-in file. What several share lies in `suites/parts/`, `algorithms/parts/`
or under a name that begins with `_`.
"""

import ast
import dataclasses
import gc
import hashlib
import importlib
import inspect
import math
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from bench.core.beside import OURS, ROOT
from bench.core.errors import BenchError, unknown
from bench.core.labels import shown, written

Kind = Literal["algorithm", "suite"]
FOLDERS: dict[Kind, str] = {"algorithm": "algorithms", "suite": "suites"}
BASES: dict[Kind, str] = {"algorithm": "Learner", "suite": "Suite"}
HALLMARKS: dict[Kind, str] = {"algorithm": "step", "suite": "sample"}  # of a class that fails to inherit the base
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}
PLUGIN = "bench_plugin_"  # how the module of a plug-in file is called
_READ: dict[str, Path] = {}  # plug-in files that were read in this process, of each name the last
FORM = "Write name[parameter=value,...], in quotes."


@dataclass(frozen=True)
class Named:
    """A name with its parameters as typed: maml[inner_lr=0.1] is ("maml", {"inner_lr": "0.1"})."""

    name: str
    given: dict[str, str]

    def __str__(self) -> str:
        """As it was typed."""
        return written(self.name, self.given)


@dataclass(frozen=True)
class Catalogue:
    """All suites and algorithms that can be named: built in, installed, and the plug-in files."""

    plugins: tuple[Path, ...] = ()

    @classmethod
    def within(cls) -> "Catalogue":
        """What a suite or an algorithm can name in its own parameters: with the plug-in files that were read here."""
        return cls(tuple(_READ.values()))

    def names(self, kind: Kind) -> dict[str, str]:
        """Name -> first line of its docstring, without importing torch; files that can't be a choice are left out."""
        firsts = {name: sources[0] for name, sources in sorted(self._sources(kind).items())}
        return {name: _first_line(source) for name, source in firsts.items() if _may_be_one(source)}

    def stated(self, name: str, attribute: str) -> tuple[str, ...]:
        """The words in an algorithm's class variable, such as `suits`; of built-in ones without importing torch."""
        source = self._sources("algorithm")[name][0]
        if isinstance(source, EntryPoint) or source in self.plugins:
            value = getattr(self.load("algorithm", name), attribute)
            return (value,) if isinstance(value, str) else tuple(sorted(value))
        return _stated(source, None, attribute)

    def load(self, kind: Kind, name: str) -> type[Any]:
        """The class of a name; an error where it is unknown or ambiguous, does not import or breaks the protocol."""
        sources = self._sources(kind)
        if name not in sources:
            elsewhere = [other for other in FOLDERS if other != kind and name in self._sources(other)]
            advice = f"Its kind is {elsewhere[0]}. " if elsewhere else ""
            advice += "List them with `bench list`; your own comes with --plugin FILE, and FILE's name is its name."
            raise unknown(kind, name, self.names(kind), advice)
        source, *rivals = sources[name]
        if rivals:
            raise BenchError(f"the {kind} name {name!r} is that of {source} and of {rivals[0]}: rename one of them.")
        if isinstance(source, EntryPoint):
            return _entry(source, kind)
        if source in self.plugins:
            return _only(module_of(source), kind, name)
        if not _may_be_one(source):
            raise _not_one(source, kind, [node.name for node in _classes(source) or ()])
        return _only(_built_in_module(kind, source), kind, name)

    def classes(self, kind: Kind) -> dict[str, type[Any]]:
        """All that can be loaded here, by name; what is broken or lacks an extra is left out."""
        found = {}
        for name in self.names(kind):
            with suppress(BenchError):
                found[name] = self.load(kind, name)
        return found

    def having(self, method: str) -> list[str]:
        """The suites that have an optional method, such as one by which something else is drawn."""
        return [name for name, cls in self.classes("suite").items() if hasattr(cls, method)]

    def _sources(self, kind: Kind) -> dict[str, list[Path | EntryPoint]]:
        """Name -> all that lay claim to it: files and entry points."""
        found: dict[str, list[Path | EntryPoint]] = {path.stem: [path] for path in _built_in(kind)}
        for entry in _installed(kind):
            found.setdefault(entry.name, []).append(entry)
        for path in dict.fromkeys(self.plugins):
            module = module_of(path)
            if not any(_find(module, some) for some in FOLDERS):
                raise BenchError(
                    f"the plug-in {path} defines no algorithm and no suite: a frozen dataclass that inherits "
                    "bench.core.types.Learner or .Suite, as in examples/."
                )
            if _find(module, kind):
                found.setdefault(path.stem, []).append(path)
        return found


def parse(text: str) -> list[Named]:
    """The names in `a,b[x=1,y=2],c[learner=d[z=3]]`; at least one."""
    named = [_named(part) for part in _parts(text)]
    if not named:
        raise BenchError(f"{text!r} names nothing. `bench list` shows what there is.")
    return named


def _parts(text: str) -> list[str]:
    """What lies between the commas that are in no bracket."""
    parts: list[str] = [""]
    depth = 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            raise BenchError(f"brackets do not match in {text!r}. {FORM}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise BenchError(f"a bracket is not closed in {text!r}. {FORM}")
    return [part.strip() for part in parts if part.strip()]


def _named(text: str) -> Named:
    name, bracket, rest = text.partition("[")
    if not name.strip():
        raise BenchError(f"{text!r} lacks a name before the bracket. {FORM}")
    if bracket and not rest.endswith("]"):
        raise BenchError(f"something follows the bracket in {text!r}. {FORM}")
    given: dict[str, str] = {}
    key = ""
    for item in _parts(rest[:-1]):
        if key and not (item[0].isalpha() or "=" in item):  # one more value of a parameter that takes several
            given[key] += f",{item}"
            continue
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise BenchError(f"{item!r} in {text!r} is not parameter=value. {FORM}")
        if key in given:
            raise BenchError(f"{key!r} is given twice in {text!r}. Give it once.")
        given[key] = value
    return Named(name.strip(), given)


def build(cls: type[Any], name: str, given: dict[str, Any], protocol: dict[str, Any] | None = None) -> Any:
    """An instance from what was typed, checked by the fields' annotations; the protocol fills what has no default."""
    from pydantic import ValidationError

    fields = {f.name: f for f in dataclasses.fields(cls)}
    advice = f"`bench show {name}` explains them."
    for key in given:
        if key not in fields:
            raise unknown(f"parameter of {name}", key, fields, advice)
    hints = get_type_hints(cls, include_extras=True)
    values = {key: _of_literal(hints[key], value) for key, value in given.items()}
    if protocol is not None:
        protocol = cls.opened(given, protocol)
    for key, field in fields.items():
        if key in values or _has_default(field):
            continue
        if protocol is None or key not in protocol:
            raise BenchError(
                f"{name} needs {key}, for which this suite's protocol has no value. Give it: {name}[{key}=...]."
            )
        values[key] = protocol[key]
    hints = get_type_hints(cls, include_extras=True)
    for key, value in values.items():
        if isinstance(value, str) and _each(hints[key]) is not None:
            values[key] = [part.strip() for part in value.split(",")]
    try:
        instance = _adapter(cls).validate_python(values)  # type: ignore[arg-type]  # mypy doubts that a class hashes
    except ValidationError as error:
        refused = [_refusal(hints, name, e["loc"], values, e["msg"]) for e in error.errors()]
        raise BenchError(f"{' '.join(dict.fromkeys(refused))} {advice}") from None
    for key, value in parameters(instance).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BenchError(f"{name} does not take {key}={value}. Allowed: finite numbers. {advice}")
    return instance


def allowed(hint: Any) -> str:
    """What a field's annotation takes, for people: "float > 0", "reverse | mixed"."""
    if (each := _each(hint)) is not None:
        return f"one or more {allowed(each)}, separated by commas"
    kind, *metadata = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    if examples := [str(e) for info in metadata for e in getattr(info, "examples", None) or ()]:
        return f"such as {' or '.join(examples)}"
    kinds = [k for k in get_args(kind) if k is not type(None)] if get_origin(kind) in (Union, UnionType) else [kind]
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for info in metadata
        for bound in getattr(info, "metadata", ())
        for name, sign in SIGNS.items()
        if hasattr(bound, name)
    ]
    return " ".join([" | ".join(map(_kind, kinds)), " and ".join(bounds)]).strip()


def options(hint: Any) -> tuple[Any, ...]:
    """All values that a field's annotation takes, where it lists them: those of a Literal or a bool."""
    kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    parts = [kind, *get_args(kind)]
    return tuple(v for part in parts if get_origin(part) is Literal for v in get_args(part)) or (
        (False, True) if bool in parts else ()
    )


def typed(hint: Any, value: Any) -> Any:
    """The value that a field's annotation makes of what was typed.

    Raises:
        ValueError: it takes no such value.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(hint).validate_python(_of_literal(hint, value))


def _of_literal(hint: Any, value: Any) -> Any:
    """The one of a Literal's values that is written so: 3 for "3"; else the value."""
    return next((option for option in options(hint) if str(option) == value and option is not value), value)


def parameters(instance: Any) -> dict[str, Any]:
    """Field -> value of a suite or an algorithm."""
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}


def source_hash(*classes: type[Any]) -> str:
    """SHA-256 of the files that define the classes and what they inherit, and of all that those import of their own.

    That is: modules of the same top-level package, of ours, and, for a plug-in file, beside it; transitively. Left out
    are Python, torch and `bench`.
    """
    bases = {base for cls in classes for base in cls.__mro__}
    mine = {b for b in bases if b.__module__.partition(".")[0] not in {*sys.stdlib_module_names, "torch", "bench"}}
    files = {_source(Path(inspect.getfile(base)), base.__module__) for base in mine}
    reached: set[Source] = set()
    while files:
        reached |= files
        files = {found for source in files for found in _imported(source)} - reached
    digest = hashlib.sha256()
    for content in sorted(path.read_bytes() for path in {source.path for source in reached}):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


class Source(NamedTuple):
    """A file of somebody's, and where its imports are looked for."""

    path: Path
    root: Path  # the folder of its top-level package, or of the plug-in
    package: str  # its top-level package; "" for what lies beside a plug-in


def _source(path: Path, module: str) -> Source:
    if module.startswith(PLUGIN):
        return Source(path, path.parent, "")
    depth = module.count(".") + (path.name == "__init__.py")
    return Source(path, path.parents[depth], module.partition(".")[0])


def _imported(source: Source) -> set[Source]:
    """The files that a file imports: of its own top-level package, of ours, and beside a plug-in."""
    found = set()
    for level, module, names in _imports(source.path.read_bytes()):
        parts = module.split(".") if module else []
        if level:
            parts = [*source.path.relative_to(source.root).parts[:-level], *parts]
        top = parts[0] if parts else ""
        if top in OURS:
            root, package = ROOT, top
        elif (top == source.package or not source.package) and _lies_in(source.root, top):
            root, package = source.root, source.package
        else:
            continue
        whole = [path for name in names if (path := _file(root, [*parts, name]))]
        if len(whole) < max(len(names), 1) and (path := _file(root, parts)):  # something is the module's own
            whole.append(path)
        found |= {Source(path, root, package) for path in whole}
    return found


@cache
def _imports(content: bytes) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """The imports of a file: how many folders up, of which module, which names; whole modules without names."""
    found: list[tuple[int, str, tuple[str, ...]]] = []
    tree = _parsed(content)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return tuple(dict.fromkeys(found))


def _file(root: Path, parts: list[str]) -> Path | None:
    stem = root.joinpath(*parts)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _lies_in(root: Path, top: str) -> bool:
    """Whether the module of a name is the one in this folder, and no other that Python found first."""
    known = sys.modules.get(top)
    if known is None or not top:
        return bool(top) and top not in sys.stdlib_module_names
    places = getattr(known, "__path__", None) or [getattr(known, "__file__", None) or ""]
    return any(Path(place).resolve().is_relative_to(root.resolve()) for place in places)


def _has_default(field: Any) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


@cache
def _adapter(cls: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _refusal(
    hints: dict[str, Any], name: str, where: tuple[int | str, ...], values: dict[str, Any], reason: str
) -> str:
    if not where:  # of the fields together, by the class itself
        return f"{name}: {reason}."
    hint, value = hints[str(where[0])], shown(values[str(where[0])])
    options = get_args(get_args(hint)[0] if hasattr(hint, "__metadata__") else hint)
    if options and all(isinstance(option, str) for option in options):
        return str(unknown(f"{where[0]} of {name}", value, options))
    return f"{name} does not take {where[0]}={value}. Allowed: {allowed(hint)}."


def _each(hint: Any) -> Any:
    """What each of several values is, where an annotation is tuple[..., ...]; else None."""
    kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    inside = get_args(kind)
    return inside[0] if get_origin(kind) is tuple and inside[1:] == (...,) else None


def _kind(kind: Any) -> str:
    if hasattr(kind, "__metadata__"):
        return allowed(kind)
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if kind is bool:
        return "true | false"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


@cache
def _built_in(kind: Kind) -> tuple[Path, ...]:
    folder = ROOT / FOLDERS[kind]
    return tuple(path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_"))


def _may_be_one(source: Path | EntryPoint) -> bool:
    """Whether a file has a class that could be a suite or an algorithm, as far as can be read without running it."""
    if isinstance(source, EntryPoint):
        return True
    classes = _classes(source)
    return classes is None or any(node.bases and not node.name.startswith("_") for node in classes)


def _classes(path: Path) -> list[ast.ClassDef] | None:
    tree = _parsed(path.read_bytes())
    return [node for node in tree.body if isinstance(node, ast.ClassDef)] if tree else None


def _stated(path: Path, name: str | None, attribute: str) -> tuple[str, ...]:
    """The words in a class variable of the class of that name, or of the only public one, or of its first base."""
    for node in _classes(path) or ():
        public = bool(node.bases) and not node.name.startswith("_")
        if not public if name is None else name != node.name:
            continue
        for line in node.body:
            target = line.target if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [None])[0]
            if isinstance(target, ast.Name) and target.id == attribute and (value := getattr(line, "value", None)):
                words = [w.value for w in ast.walk(value) if isinstance(w, ast.Constant)]
                return tuple(sorted(word for word in words if isinstance(word, str)))
        for base in node.bases:
            if isinstance(base, ast.Name) and (found := _stated(_home(path, base.id), base.id, attribute)):
                return found
    return ()


def _home(path: Path, name: str) -> Path:
    """The file that defines a name of one of our files: another of ours where it is imported from there."""
    tree = _parsed(path.read_bytes())
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom) and not node.level and name in {alias.name for alias in node.names}:
            return _file(ROOT, str(node.module).split(".")) or path
    return path


@cache
def _parsed(content: bytes) -> ast.Module | None:
    """What a file says; None if it is no Python, which whoever asks for the file is told."""
    collects = gc.isenabled()
    gc.disable()  # so many new objects, none of them garbage, would be gone through again and again
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError):
        return None
    finally:
        if collects:
            gc.enable()


def _built_in_module(kind: Kind, path: Path) -> ModuleType:
    try:
        return importlib.import_module(f"{FOLDERS[kind]}.{path.stem}")
    except (BenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise BenchError(
            f"{path} does not import: {type(error).__name__}: {error}. `python -m {FOLDERS[kind]}.{path.stem}` shows "
            "where."
        ) from error


@cache
def _installed(kind: Kind) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"bench.{FOLDERS[kind]}"))


def _first_line(source: Path | EntryPoint) -> str:
    if isinstance(source, EntryPoint):
        return f"from {source.dist.name if source.dist else source.value}"
    tree = _parsed(source.read_bytes())
    doc = ast.get_docstring(tree) if tree else None
    return doc.partition("\n")[0] if doc else ""


def module_of(path: Path) -> ModuleType:
    """The module that a plug-in file makes when it is run.

    Raises:
        BenchError: it is no file that can be read, or fails.
    """
    if not path.is_file():
        raise BenchError(f"the plug-in {path} is not a file. --plugin takes the path of one Python file.")
    if not path.stem.isidentifier() or path.suffix != ".py":
        raise BenchError(f"the plug-in {path} must be named like a Python module, such as my_method.py.")
    try:
        module = _executed(path, path.read_bytes())
    except OSError as error:
        raise BenchError(f"the plug-in {path} cannot be read: {error.strerror}.") from None
    _READ[path.stem] = path
    return module


@cache
def _executed(path: Path, content: bytes) -> ModuleType:
    # Not by the import system, whose caches go by name and time: what runs must be what `source_hash` hashes.
    name = f"{PLUGIN}{path.stem}_{hashlib.sha256(bytes(path) + content).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look there
    try:
        exec(compile(content, path, "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise BenchError(
            f"the plug-in {path} does not import: {type(error).__name__}: {error}. `python {path}` shows where."
        ) from error
    return module


def _entry(entry: EntryPoint, kind: Kind) -> type[Any]:
    try:
        loaded = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BenchError(
            f"the installed {kind} {entry.name!r} ({entry.value}) does not import: {type(error).__name__}: {error}. "
            "Mend or uninstall it."
        ) from error
    return _only(loaded, kind, entry.name) if isinstance(loaded, ModuleType) else _checked(loaded, kind, entry.name)


def _find(module: ModuleType, kind: Kind) -> list[type[Any]]:
    """The classes of a kind that a module defines; without any, those that look so and fail to inherit the base."""
    own = [c for c in _own_classes(module) if not c.__name__.startswith("_")]
    heirs = [c for c in own if BASES[kind] in {base.__name__ for base in c.__mro__}]
    return heirs or [c for c in own if hasattr(c, HALLMARKS[kind])]


def _own_classes(module: ModuleType) -> list[type[Any]]:
    return [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]


def _only(module: ModuleType, kind: Kind, name: str) -> type[Any]:
    found = _find(module, kind)
    if len(found) != 1:
        raise _not_one(Path(module.__file__ or name), kind, [c.__name__ for c in found or _own_classes(module)])
    return _checked(found[0], kind, name)


def _not_one(path: Path, kind: Kind, classes: list[str]) -> BenchError:
    where = f"into {path.parent / 'parts'}" if path.parent.parent == ROOT else "into another file"
    return BenchError(
        f"{path} must define exactly one {kind}: a frozen dataclass that inherits bench.core.types.{BASES[kind]}. "
        f"It has: {', '.join(classes) or 'no class'}. What several {FOLDERS[kind]} share goes {where}; a class of that "
        "kind which is no choice of its own bears a name that begins with an underscore."
    )


def _checked(cls: Any, kind: Kind, name: str) -> type[Any]:
    """The class, if it keeps the protocol of its kind."""
    from bench.core import types

    dataclass_ = "@dataclass(frozen=True, kw_only=True)"
    base = f"bench.core.types.{BASES[kind]}"
    if not inspect.isclass(cls) or "__dataclass_params__" not in vars(cls):
        raise BenchError(f"the {kind} {name!r} must be a dataclass: write {dataclass_} above it.")
    if not vars(cls)["__dataclass_params__"].frozen:
        raise BenchError(f"the {kind} {name!r} must be frozen: write {dataclass_} above it.")
    if not issubclass(cls, getattr(types, BASES[kind])):
        raise BenchError(f"the {kind} {name!r} must inherit {base}, which holds the defaults.")
    if undefined := sorted(_undefined(cls)):
        raise BenchError(f"the {kind} {name!r} does not define {', '.join(undefined)}: see {base}.")
    try:
        get_type_hints(cls), _adapter(cls)  # type: ignore[arg-type]  # as in `build`
    except Exception as error:  # annotations are a stranger's code as well
        raise BenchError(
            f"the {kind} {name!r} has a field whose annotation cannot be checked: {str(error).splitlines()[0]}. "
            "Use int, float, bool, str, Literal[...], tuple[int, ...] and Annotated[..., Field(...)]."
        ) from error
    return cls


def _undefined(cls: type[Any]) -> set[str]:
    """What is only declared: abstract methods and properties, and class variables unset."""
    declared = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
    fields = {field.name for field in dataclasses.fields(cls)}
    return {name for name in declared - fields if not hasattr(cls, name)} | set(cls.__abstractmethods__)
