"""The help of a command: what it does, three examples, its options, the few keys that matter; the other keys by section or all at once."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from . import declared
from .completion import first_words, method_on
from .options import SECTIONS, lenient, options_of

if TYPE_CHECKING:
    from ..config import RunConfig

ASKED = ("-h", "--help", "--help-all")
SCREEN = 40  # lines, at a hundred characters
FEWEST, LEAST = 12, 3  # keys for which options give way, and keys that are shown whatever they take
NAMED = ("method.name", "method.preset")  # given as METHOD and --preset


def show(command: Any, words: Sequence[str], prog: str) -> None:
    """Print the help of a line that asks for it: `train moco --help`, `train --help optim`, `train --help-all`."""
    print("\n".join(_page(command, words, prog)))


def _page(command: Any, words: Sequence[str], prog: str) -> Iterable[str]:
    width = min(shutil.get_terminal_size().columns, 140)
    asked, rest = _asked(words)
    given = lenient(command, rest, prog)
    _check_first(command, rest, prog)
    if not hasattr(command, "keys"):
        return [*_head(command, given, prog, width), *_options(command, width)]
    if not asked and "--help-all" not in words:
        return _screen(command, given, prog, rest, width)
    keys = _keys(command.keys(given))
    if hasattr(command, "takes"):
        taken = command.takes(given)
        keys = {key: told for key, told in keys.items() if any(fnmatch.fnmatchcase(key, each) for each in taken)}
    chosen = [key for each in asked for key in _within(keys, each)] if asked else list(keys)
    if not chosen:
        raise UserError(f"--help {' '.join(asked)}: contray {prog} takes no such keys; contray {prog} --help-all has all")
    told = [line for key in chosen for line in _entry(f"--{key}", *keys[key], width)]
    if asked:
        return [f"keys of {', '.join(asked)}", *told]
    return [*_head(command, given, prog, width), *_options(command, width), "", "keys of the config", *told]


def _check_first(command: Any, words: Sequence[str], prog: str) -> None:
    """Raises UserError where the first word names nothing that the command works on: its help would be of something else."""
    first = next((word for word in words if not word.startswith("-")), "")
    known = first_words(prog, options_of(command.Options)) if words[:1] == [first] else ()
    if known and first not in known and not first.endswith(".py"):
        sections = [each for each in SECTIONS if each.startswith(first[:2])]  # `--help dat`
        raise UserError(f"{prog} {first}: is not known; {nearest(first, [*known, *sections])}")


def _screen(command: Any, given: Any, prog: str, rest: Sequence[str], width: int) -> Iterator[str]:
    """What fits one screen: options, in full where there is room, and the keys that matter most, a line each. Nothing is imported for it."""
    own = {f"eval.{Path(word).stem}": word for word in rest if word.endswith(".py")} if prog == "eval" else {}
    told = declared.helps(method_on(prog, rest), own)
    patterns = command.few(given) if hasattr(command, "few") else command.FEW
    few = list(dict.fromkeys(key for each in patterns for key in told if fnmatch.fnmatchcase(key, each) and key not in NAMED))
    line = shlex.join(["contray", *prog.split(), *rest])
    more = _wrapped(f"all keys, and all that is said of them: {line} --help-all; of a section: {line} --help data", "", width)
    head, options = _head(command, given, prog, width), _options(command, width)
    if len(head) + len(options) + len(more) + 3 + min(len(few), FEWEST) > SCREEN:
        options = _options(command, width, brief=True)
    room = max(SCREEN - len(head) - len(options) - len(more) - 3, LEAST)
    flags = {f"--{key}": told[key] for key in few[:room]}
    yield from (*head, *options, "", "keys that matter most", *_brief(flags, width), "", *more)


def _head(command: Any, given: Any, prog: str, width: int) -> list[str]:
    known = options_of(command.Options)
    places = [each.flag if each.required else f"[{each.flag}{' ...' if each.many else ''}]" for each in known if each.positional]
    lines = [*_wrapped(" ".join(["usage: contray", prog, *places, "[OPTIONS]"]), "", width), ""]
    about = command.about(given) if hasattr(command, "about") else command.Options.__doc__
    for paragraph in about.strip().split("\n\n"):
        lines += _wrapped(" ".join(paragraph.split()), "", width)
    return [*lines, "", *_examples(command.examples(given) if hasattr(command, "examples") else command.EXAMPLES, width), ""]


def _options(command: Any, width: int, brief: bool = False) -> list[str]:
    known = options_of(command.Options)
    if brief:
        return ["options", *_brief({each.flag: each.note.help for each in known}, width)]
    lines = ["options"]
    for option in known:
        unsaid = option.default is False or option.default in (MISSING, None, "", ())
        shown = "" if unsaid else f"(default: {_value(option.default)})"
        switch = option.kind is bool and not option.default
        lines += _entry(option.flag, "" if switch else option.allowed, f"{option.note.help} {shown}".strip(), width)
    return lines


def _brief(told: Mapping[str, str], width: int) -> Iterator[str]:
    """A line for each: what is said of it up to where it becomes long. On a narrow terminal what is said has lines of its own."""
    longest = max(map(len, told), default=0)
    for flag, text in told.items():
        room = width - longest - 4
        if room < 30:
            yield from _entry(flag, "", _cut(text, 2 * width), width)
        else:
            yield f"  {flag:<{longest}}  {_cut(text, room)}".rstrip()


def _cut(text: str, room: int) -> str:
    """A text up to the last place at which it may end within the room: before a clause or a bracket; else up to a word."""
    if len(text) <= room:
        return text
    for signs in ("; | \\(| \\[", ": "):
        ends = [found.start() for found in re.finditer(signs, text) if room // 3 <= found.start() <= room]
        ends = [end for end in ends if text[:end].count("(") == text[:end].count(")")]
        if ends:
            return text[: ends[-1]]
    return textwrap.shorten(text, room, placeholder=" ...")


def _within(keys: Iterable[str], section: str) -> list[str]:
    """Those of the keys that are of a section, or the one of that name."""
    return [key for key in keys if key == section or key.startswith(f"{section}.")]


def _asked(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the sections or keys that --help names, the other words)."""
    at = next(i for i, word in enumerate(words) if word in ASKED)
    asked = [word.strip(".").lstrip("-") for word in words[at + 1 :] if _names_keys(word)]
    return asked, [word for i, word in enumerate(words) if word not in ASKED and not (i > at and _names_keys(word))]


def _keys(config: RunConfig) -> dict[str, tuple[str, str]]:
    """Every key: what it takes, its help with unit and value."""
    from ..config import declared_keys

    values = config.flat()
    found = {}
    for key, each in declared_keys(config):
        unit = f" [{each.unit}]" if each.unit else ""
        found[key] = (each.allowed, f"{each.help}{unit} (default: {_value(values[key])})")
    return found


def _names_keys(word: str) -> bool:
    first = word.lstrip("-").split(".")[0]
    return first in SECTIONS and not word.endswith(".py")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    return text or "empty"


def _examples(examples: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    longest = max(len(line) for line, _ in examples)
    for line, meaning in examples:
        if longest + 6 + max(len(meaning) for _, meaning in examples) <= width:
            yield f"  {line:<{longest}}    {meaning}"
        else:
            yield f"  {line}"
            yield from _wrapped(meaning, "      ", width)


def _entry(flag: str, allowed: str, text: str, width: int) -> Iterator[str]:
    yield from _wrapped(f"{flag} {allowed}".strip(), "  ", width)
    yield from _wrapped(text, "      ", width)


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, 30), initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
