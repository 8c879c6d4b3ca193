"""Where a run's parts are found: by name, by the path of a .py file, or as an entry point. The only place that knows of `methods` and `tune_spaces`.

A part is a module. The file's name is its name; those of installed packages are entry points, named in the group of their kind, that lead to a module.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UserError, nearest
from ..methods._base import Method, MethodConfig, Paper, Preset, View
from .keys import misdeclared
from .sources import computed, digest

if TYPE_CHECKING:
    from .tree import RunConfig


@dataclass(frozen=True)
class Kind:
    """A kind of parts."""

    package: str  # a file of one's own is loaded as a module of it: a copy of a built-in file works anywhere
    group: str  # of entry points
    key: str = ""  # the config's key that names one; empty: none does
    files: Mapping[str, str] | None = None  # name -> module in the package; None: each file there that does not start with _
    many: bool = False  # whether the key takes several
    also: tuple[str, ...] = ()  # further keys that name some
    unlisted: str = ""  # a package of further files, found by name and listed nowhere


SOURCES = {"digits": "digits"} | dict.fromkeys(("cifar10", "cifar100", "stl10", "stl10_unlabelled"), "torchvision_sets")
KINDS = {
    "method": Kind("contray.methods", "contray.methods", "method.name", unlisted="contray.methods.variants"),
    "space": Kind("contray.tune_spaces", "contray.tune_spaces"),
    "evaluation": Kind("contray.evaluation", "contray.evaluations", "eval.final", many=True, also=("eval.online",)),
    "backbone": Kind("contray.model", "contray.backbones", "backbone.name", {}),
    "source": Kind("contray.data", "contray.sources", "data.source", SOURCES),
    "listener": Kind("contray.track", "contray.listeners", "track.listeners", {}, many=True),
}
TOLD = ("PAPER", "RECIPE", "PRESETS", "VIEWS", "METRICS", "DIFFERS")  # of a method's file: words, and what a run's config has
# what files of other kinds define
OTHERS = {"build": "backbone", "evaluate": "evaluation", "open_source": "source", "METHOD": "space"}
EXPORTS = {"PAPER": Paper, "Config": type, "VIEWS": dict, "RECIPE": dict, "PRESETS": dict}

_named: dict[str, None] = {}  # absolute paths of files that the user named, in order
_loaded: dict[tuple[str, Path], tuple[tuple[int, int], ModuleType]] = {}  # by kind and path: the file's time and size, its module

IMPORTED = "imported"  # what `contray import` writes; it trains nothing, so it is listed nowhere


@dataclass(frozen=True)
class MethodFile:
    """The fixed exports of a method's file."""

    name: str
    paper: Paper
    config: type[MethodConfig]
    views: Mapping[str, View]
    recipe: Mapping[str, Any]
    presets: Mapping[str, Preset]
    method: type[Method]
    metrics: Mapping[str, str]  # what each value that `loss` returns says
    differs: tuple[str, ...]  # from the paper


def names(kind: str) -> list[str]:
    """The built-in parts of a kind and those of installed packages."""
    return sorted({*_files(KINDS[kind]), *(entry.name for entry in _entries(KINDS[kind].group, *sys.path))})


def builtin(kind: str) -> list[str]:
    """The names of the parts of a kind that come with contray."""
    return sorted(_files(KINDS[kind]))


def unlisted(kind: str) -> list[str]:
    """The parts of a kind that are found by name and listed nowhere: methods' variants, for studies."""
    return sorted(_modules(KINDS[kind].unlisted)) if KINDS[kind].unlisted else []


def method_names() -> list[str]:
    """`names` of the methods."""
    return names("method")


def part_name(name: str) -> str:
    """By what name the keys of a part go (eval.NAME.key): its own, of a file its stem, with _ for what is no letter or digit."""
    return re.sub(r"\W", "_", Path(name).stem if name.endswith(".py") else name)


def name_code(*words: str) -> None:
    """Note what the user named himself: on a command line, or as an argument of a function. Of these words the paths of .py files may run.

    A config that lies in a file (a checkpoint, an export, an artifact, a run.yaml) names code too, and its author may be anybody: such code
    runs only where it is noted here. Processes of a run are told by their driver.
    """
    _named.update((str(Path(word).expanduser().resolve()), None) for word in words if word.endswith(".py"))


def name_files(paths: str | Sequence[str]) -> None:
    """`name_code` for an option that takes nothing but files; empty: none was given."""
    paths = [paths] if isinstance(paths, str) else list(paths)
    for path in filter(None, paths):
        if not path.endswith(".py"):
            raise UserError(f"--code: got {path}, takes paths of your own .py files; built-in parts come with the encoder")
        if not Path(path).expanduser().is_file():
            raise UserError(f"--code: there is no file {path}")
    name_code(*paths)


def code_of(config: RunConfig) -> tuple[str, ...]:
    """What the processes of a run must be told with `name_code` so that they may load its parts: no file that the user has not named here."""
    return tuple(word for _, word in _code_in(config.flat()) if str(Path(word).expanduser().resolve()) in _named)


def own_code(config: RunConfig) -> dict[str, str]:
    """A digest of the files of one's own that decide what a run computes, by the config's key: a checkpoint is of this very code."""
    parts = ((kind, config.flat()[KINDS[kind].key]) for kind in ("method", "backbone"))
    return {f"the code of {KINDS[kind].key}": digest(find(kind, name)) for kind, name in parts if _is_own(kind, name)}


def evaluation_code(config: RunConfig) -> dict[str, str]:
    """A digest of the files of one's own that measure what a run ends with, by their names: they are no part of its checkpoint."""
    return {f"the code of {name}": digest(find("evaluation", name)) for name in config.eval.final if _is_own("evaluation", name)}


def _is_own(kind: str, name: str) -> bool:
    about = KINDS[kind]
    installed = name not in _files(about) and any(each.name == name for each in _entries(about.group, *sys.path))
    return name.endswith(".py") or installed


def method_code(name: str) -> str:
    """A digest of what a method's file computes, and of the methods that it builds upon: neither comments nor presets count."""
    return computed(_method(name), KINDS["method"].package, TOLD)


def check_code(config: RunConfig) -> None:
    """Raises ConfigError where the config names a file that the user did not."""
    for kind, word in _code_in(config.flat()):
        known_code(word, kind)


def name_parts(values: Mapping[str, Any]) -> None:
    """`name_code` for the values of dotted keys that the user gave himself."""
    name_code(*(word for _, word in _code_in(values)))


def _code_in(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, path) of the files that values of dotted keys name, in the tree's form or as a command line gives them."""
    for kind, about, key in _naming():
        yield from ((kind, word) for word in _words(about, values.get(key, "")) if word.endswith(".py"))


def _naming() -> Iterator[tuple[str, Kind, str]]:
    """The keys that name parts, each with the kind of them."""
    return ((kind, about, key) for kind, about in KINDS.items() for key in (about.key, *about.also) if key)


def _words(kind: Kind, given: Any) -> list[str]:
    words = list(map(str, given)) if isinstance(given, (list, tuple)) else [str(given)]
    if not kind.many:
        return [" ".join(words)]
    return words if isinstance(given, (list, tuple)) else str(given).replace(",", " ").split()


def known_code(name: str, kind: str = "method") -> str:
    """The part that a config names, where it may run: a name, or a file that the user named, also from another folder.

    Raises ConfigError for any other file.
    """
    if not name.endswith(".py"):
        return name
    path = Path(name).expanduser().resolve()
    if str(path) in _named:
        return name
    namesakes = [each for each in _named if Path(each).name == path.name]
    if len(namesakes) == 1:
        return namesakes[0]
    key = KINDS[kind].key or kind
    ways = f"contray train {path.name} ..." if kind == "method" else f"--{key} {path.name} of contray train and tune"
    ways += f", --code {path.name} of commands that take an encoder, code= in Python"
    raise ConfigError(
        key,
        f"the config names the code {name}, and only code that you name yourself runs: {ways}",
    )


def naming_again(config: RunConfig) -> list[str]:
    """The words that name the config's own files to `contray train --config`, the method's first; none where all parts are built in."""
    values = config.flat()
    found = {key: _words(about, values.get(key, "")) for _, about, key in _naming()}
    own = {key: words for key, words in found.items() if any(word.endswith(".py") for word in words)}
    method = own.pop(KINDS["method"].key, [])
    return [*method, *(word for key, words in own.items() for word in (f"--{key}", *words))]


def at_hand(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of dotted keys that name files, each the one that the user named, also from another folder; else as it stands.

    The method is left out: nobody reads a config without it, and who opens, hears or measures with another part refuses what is not named.
    """
    found: dict[str, Any] = {}
    for kind, about, key in _naming():
        words = _words(about, values.get(key, ""))
        if kind != "method" and any(word.endswith(".py") for word in words):
            places = [_at_hand(kind, word) for word in words]
            found[key] = places if about.many else places[0]
    return found


def _at_hand(kind: str, word: str) -> str:
    try:
        return known_code(word, kind)
    except ConfigError:
        return word


def check_exports(what: str, module: ModuleType, exports: Mapping[str, type], form: str) -> None:
    """Raises UserError where a part's file lacks one of these, or has it of another type. form: a file that has them."""
    for export, kind in exports.items():
        if not isinstance(getattr(module, export, None), kind):
            raise UserError(f"{what}: the file must define {export} ({kind.__name__}); see {form} for the form")


def load_method(name: str) -> MethodFile:
    """A method by its name, or by the path of a .py file. Raises UserError naming the nearest ones, ConfigError for code that the user did not name."""
    module = _method(name)
    if kind := _other_kind(module):
        place = f"give it as --{KINDS[kind].key} {name}" if KINDS[kind].key else f"contray tune {name}"
        raise UserError(f"method {name}: is the file of a {kind}, no method: {place}")
    check_exports(f"method {name}", module, EXPORTS, "methods/simclr.py")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"method {name}: the file must define exactly one subclass of Method, it defines {len(found)}")
    if not issubclass(module.Config, MethodConfig):
        raise UserError(f"method {name}: its Config must be a subclass of MethodConfig")
    if problem := misdeclared(module.Config):
        raise UserError(f"method {name}: {problem}")
    if "paper" not in module.PRESETS:
        raise UserError(f"method {name}: PRESETS must hold 'paper'")
    told_of = getattr(module, "METRICS", {}), getattr(module, "DIFFERS", ())
    return MethodFile(name, module.PAPER, module.Config, module.VIEWS, module.RECIPE, module.PRESETS, found[0], *told_of)


def _method(name: str) -> ModuleType:
    return importlib.import_module("contray.methods._imported") if name == IMPORTED else find("method", name)


def _other_kind(module: ModuleType) -> str:
    """Of what other kind a file is that is no method's; empty where that cannot be told."""
    if hasattr(module, "PAPER"):
        return ""
    bases = {base.__name__ for each in vars(module).values() if isinstance(each, type) for base in each.__mro__[1:]}
    known = [kind for export, kind in OTHERS.items() if hasattr(module, export)]
    return known[0] if known else "listener" if "Listener" in bases else ""


def find(kind: str, name: str) -> ModuleType:
    """The module of a part, by its name or by the path of a .py file.

    Raises UserError naming the nearest ones, or the line at which the file cannot be imported; ConfigError for code that the user did not name.
    """
    about = KINDS[kind]
    if name.endswith(".py"):
        return _load_path(kind, Path(known_code(name, kind)).expanduser().resolve())
    own = _files(about)
    if name in own:
        return importlib.import_module(f"{about.package}.{own[name]}")
    if name in unlisted(kind):
        return importlib.import_module(f"{about.unlisted}.{name}")
    entries = {entry.value: entry for entry in _entries(about.group, *sys.path) if entry.name == name}
    if len(entries) > 1:
        raise UserError(
            f"{kind} {name} is the name of {' and of '.join(sorted(entries))}; uninstall one, or give the path of its file"
        )
    for entry in entries.values():
        found = _imported(f"{kind} {name} ({entry.value})", entry.load)
        if not isinstance(found, ModuleType):
            raise UserError(f"{kind} {name}: the entry point {entry.value} leads to no module; name the module that defines it")
        return found
    known = names(kind)
    raise UserError(
        f"{kind} {name!r} is not known; {nearest(name, known) if known else 'none is installed'} (a path to a .py file works too)"
    )


@cache
def _entries(group: str, *path: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Of the packages on the path; reading those of hundreds takes a while, and every config asks."""
    return tuple(importlib.metadata.entry_points(group=group))


def _files(kind: Kind) -> Mapping[str, str]:
    return kind.files if kind.files is not None else _modules(kind.package)


@cache
def _modules(package: str) -> Mapping[str, str]:
    """The files of a package that do not start with _."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return {info.name: info.name for info in found if not info.name.startswith("_") and not info.ispkg}


def _load_path(kind: str, path: Path) -> ModuleType:
    """The module of a file, as if it lay in the package of its kind. Loaded anew when the file has changed: else its classes are what they were."""
    if not path.is_file():
        raise UserError(f"{kind} {str(path)!r}: there is no such file")
    facts = (path.stat().st_mtime_ns, path.stat().st_size)
    if _loaded.get((kind, path), (None,))[0] == facts:
        return _loaded[kind, path][1]
    package = KINDS[kind].package
    importlib.import_module(package)
    module_name = f"{package}.contray_user_{path.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    loader = spec.loader if spec else None
    assert spec is not None
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        _imported(f"{kind} {path}", lambda: loader.exec_module(module), str(path))
    except UserError:
        sys.modules.pop(module_name, None)
        raise
    _loaded[kind, path] = facts, module
    return module


def _imported(what: str, load: Callable[[], Any], path: str = "") -> Any:
    """What `load` gives. Raises UserError, on one line, for whatever goes wrong in code that is not ours; it names the line of the file `path`."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: it cannot be imported ({told(error, path)})") from None


def told(error: BaseException, path: str | None) -> str:
    """An error of code that is not ours, on one line: where in the file `path`, what kind, what it says."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"line {lines[-1]}: " if lines else ""
    kind = "" if isinstance(error, SyntaxError | ImportError | UserError) else f"{type(error).__name__}: "
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    mend = f"; here its name is contray.{missing}" if missing in ("methods", "tune_spaces") else ""
    return f"{where}{kind}{' '.join(str(error).split())}{mend}"
