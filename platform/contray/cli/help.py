"""The help of a command: what it does, three examples, its options, the few keys that matter; the other keys by section or all at once."""

from __future__ import annotations

import fnmatch
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .options import SECTIONS, lenient, options_of

if TYPE_CHECKING:
    from ..config import RunConfig

ASKED = ("-h", "--help", "--help-all")
NAMED = ("method.name", "method.preset")  # given as METHOD and --preset


def show(command: Any, words: Sequence[str], prog: str) -> None:
    """Print the help of a line that asks for it: `train moco --help`, `train --help optim`, `train --help-all`."""
    print("\n".join(_page(command, words, prog)))


def _page(command: Any, words: Sequence[str], prog: str) -> Iterator[str]:
    width = min(shutil.get_terminal_size().columns, 140)
    known = options_of(command.Options)
    asked, rest = _asked(words)
    given = lenient(command, rest, prog)
    keys = _keys(command.keys(given)) if hasattr(command, "keys") else {}
    if hasattr(command, "takes"):
        keys = {key: told for key, told in keys.items() if any(fnmatch.fnmatchcase(key, each) for each in command.takes(given))}
    if asked and keys:
        chosen = [key for each in asked for key in _within(keys, each)]
        if not chosen:
            raise UserError(f"--help {' '.join(asked)}: contray {prog} takes no such keys; contray {prog} --help-all has all")
        yield f"keys of {', '.join(asked)}"
        for key in chosen:
            yield from _entry(f"--{key}", *keys[key], width)
        return
    places = [each.flag if each.required else f"[{each.flag}{' ...' if each.many else ''}]" for each in known if each.positional]
    yield from _wrapped(" ".join(["usage: contray", prog, *places, "[OPTIONS]"]), "", width)
    yield ""
    about = command.about(given) if hasattr(command, "about") else command.Options.__doc__
    for paragraph in about.strip().split("\n\n"):
        yield from _wrapped(" ".join(paragraph.split()), "", width)
    yield ""
    yield from _examples(command.examples(given) if hasattr(command, "examples") else command.EXAMPLES, width)
    yield ""
    yield "options"
    for option in known:
        shown = f"(default: {_value(option.default)})" if option.default not in (MISSING, None, "", (), False) else ""
        switch = option.kind is bool and not option.default
        yield from _entry(option.flag, "" if switch else option.allowed, f"{option.note.help} {shown}".strip(), width)
    if not keys:
        return
    every = "--help-all" in words
    patterns = command.few(given) if hasattr(command, "few") else command.FEW
    few = [key for key in keys if every or (key not in NAMED and any(fnmatch.fnmatchcase(key, each) for each in patterns))]
    yield ""
    yield "keys of the config" if every else "keys that matter most"
    for key in few:
        yield from _entry(f"--{key}", *keys[key], width)
    if len(few) < len(keys):
        yield ""
        line, sections = shlex.join(["contray", *prog.split(), *rest]), [each for each in SECTIONS if _within(keys, each)]
        more = f"{len(keys) - len(few)} more keys: {line} --help-all, or of a section: {line} --help {sections[0]}"
        yield from _wrapped(f"{more} ({', '.join(sections)})", "", width)


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
