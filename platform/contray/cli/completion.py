"""contray completion: a script for the shell that asks contray itself at each TAB, so that it knows one's own methods and never grows old.

`contray completion words N WORD...` is what the scripts call: the words that may stand in place N (the command's name is 0), one a line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UserError, nearest
from . import declared
from .options import Option, Positional, arg, options_of

EXAMPLES = (
    ("contray completion bash > ~/.local/share/bash-completion/completions/contray", "or: source <(contray completion bash)"),
    ("contray completion zsh > ~/.zfunc/_contray", "a folder of $fpath; or: source <(contray completion zsh)"),
    ("contray completion fish > ~/.config/fish/completions/contray.fish", "or: contray completion fish | source"),
)
SCRIPTS = {
    "bash": """\
_contray() {
    local IFS=$'\\n'
    COMPREPLY=($("$1" completion words "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null))
    if [[ ${COMPREPLY[0]} == *. ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o default -F _contray contray
""",
    "zsh": """\
#compdef contray
_contray() {
    local -a found
    found=("${(@f)$("${words[1]}" completion words $((CURRENT - 1)) "${words[@]}" 2>/dev/null)}")
    if [[ -z "$found" ]]; then _files; return; fi
    compadd -- "${(@)found:#*.}"
    compadd -S '' -- "${(M@)found:#*.}"
}
if [[ "$funcstack[1]" = _contray ]]; then _contray "$@"; else compdef _contray contray; fi
""",
    "fish": """\
function __contray
    set -l before (commandline -opc)
    $before[1] completion words (count $before) $before (commandline -ct) 2>/dev/null
end
complete -c contray -a '(__contray)'
""",
}


@dataclass(frozen=True)
class Options:
    """Print the completion of contray for a shell: commands, options, keys and their values, names of methods, presets, spaces and pictures."""

    shell: Annotated[Positional[str], arg("the shell", choices=tuple(SCRIPTS))]


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Print the script."""
    if options.shell not in SCRIPTS:
        raise UserError(f"completion {options.shell}: no such shell; {nearest(options.shell, SCRIPTS)}")
    print(SCRIPTS[options.shell], end="")
    return 0


def answer_shell(place: str, words: Sequence[str]) -> None:
    """Print the words that may stand in this place of a line, one a line."""
    at = int(place)
    line = [*words[:at], *(words[at : at + 1] or [""])]
    before, now = [word for word in line[1:-1] if word != "="], line[-1].removeprefix("=")
    if "=" in now and now.startswith("--"):  # a shell that does not split there
        flag, _, now = now.partition("=")
        found = [f"{flag}={word}" for word in candidates([*before, flag], now)]
    else:
        found = candidates(before, now)
    print("\n".join(found))


def candidates(before: Sequence[str], now: str) -> list[str]:
    """What may follow the words `before` and begins with `now`; nothing where a file or a free text is due."""
    return [word for word in _possible(list(before), now) if word.startswith(now)]


def _possible(before: list[str], now: str) -> Iterable[str]:
    from .main import COMMANDS, command_of

    if not before or before == ["help"]:
        return [*dict.fromkeys(name.split()[0] for name in COMMANDS), *(() if before else ("help", "--help", "--version"))]
    if before == ["data"]:
        return [name.split()[1] for name in COMMANDS if name.startswith("data ")]
    name, rest = (" ".join(before[:2]), before[2:]) if before[0] == "data" else (before[0], before[1:])
    if name not in COMMANDS:
        return []
    command = command_of(name)
    known = options_of(command.Options)
    method = method_on(name, rest)
    keys = declared.keys(method) if hasattr(command, "keys") else {}
    short = _short(rest, keys) if name == "eval" else {}
    last = rest[-1] if rest else ""
    if now.startswith("-"):
        return [*_flags(known, keys, now), *(f"--{key}" for key in short)]
    if last in ("--help", "-h"):
        return dict.fromkeys(key.split(".")[0] for key in keys)
    if last == "--preset":
        return ["auto", *declared.presets(method)]
    option = next((each for each in known if each.flag == last), None)
    if option and option.kind is not bool:
        return option.note.choices
    if last.removeprefix("--") in {**short, **keys}:
        return {**short, **keys}[last.removeprefix("--")]
    several = any(each.positional and each.many for each in known)
    return [] if any(word.startswith("-") for word in rest) or (rest and not several) else first_words(name, known)


def _flags(known: Iterable[Option], keys: Iterable[str], now: str) -> Iterable[str]:
    """Options, and keys by whole sections until one is begun, so that a TAB does not list two hundred."""
    found = [f"--{key}" for key in keys if f"--{key}".startswith(now)]
    heads = dict.fromkeys(key.partition(".")[0] for key in found)
    if len(heads) > 1:
        found = [f"{head}." if f"{head}." in "".join(found) else head for head in heads]
    return [*(each.flag for each in known if not each.positional), "--help", *(["--help-all"] if keys else []), *found]


def _short(rest: Sequence[str], keys: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The keys of the evaluations that a line begins with, by their last word, where that is of one alone."""
    names = itertools.takewhile(lambda word: not word.startswith("-"), rest)
    own = [key for name in names for key in keys if key.startswith(f"eval.{name}.")]
    tails = [key.rpartition(".")[2] for key in own]
    return {tail: keys[key] for key, tail in zip(own, tails, strict=True) if tails.count(tail) == 1}


def method_on(name: str, rest: Sequence[str]) -> str:
    """The method whose keys and presets a line has: that of its first word where that names one, or SimCLR, which is the default."""
    first = next((word for word in rest if not word.startswith("-")), "")
    if name == "import":
        return "_imported"
    if name in ("tune", "study"):
        first = declared.method_of(first)
    own = first.endswith(".py") and Path(first).expanduser().is_file()
    return first if name in ("train", "tune", "study", "data preview") and (own or first in declared.methods()) else "simclr"


def first_words(name: str, known: Iterable[Option]) -> Sequence[str]:
    """What a command works on: the words that may stand first; none where these are no names."""
    names = {
        "train": declared.methods,
        "data preview": declared.methods,
        "methods": declared.methods,
        "check": declared.methods,
        "tune": declared.spaces,
        "study": lambda: [*declared.studies(), "all"],
        "eval": declared.evaluations,
    }
    own = names[name]() if name in names else []
    return own or next((each.note.choices for each in known if each.positional), ())
