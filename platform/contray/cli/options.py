"""The words of a command line: a command's own options, and between them the dotted keys of the config.

A command is a file of this folder with fixed exports: EXAMPLES, Options (a frozen dataclass; its docstring is the command in a sentence),
run(options, dotted) and, where it takes keys of the config, keys(options) -> RunConfig and FEW, patterns of those that matter most. In the
place of what is the same for all lines there may be few(options), about(options), examples(options), and spelled(words), which gives short
forms their full ones. takes(options), if there, are patterns of the only keys that the command does not refuse.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UserError, nearest
from . import declared

if TYPE_CHECKING:
    from ..config import RunConfig

URI_HELP = "MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else this folder's mlflow.db"
CHECKPOINT_HELP = "a checkpoint file, a run's folder (its newest checkpoint), or an imported encoder"
CODE_HELP = "your own .py files (method, backbone, data source) that the encoder is made with: only code that you name runs"
CHANNELS_HELP = (
    "of images with data.channels: three that are shown as red, green and blue, or one, counted from 1; default: the first three"
)
DOTTED = re.compile(r"--(seed|[a-z]+(?:\.[A-Za-z_0-9-]+)+)(?:=(.*))?", re.DOTALL)
SECTIONS = ("method", "backbone", "data", "augment", "views", "optim", "train", "scale", "eval", "track", "seed")
DASHES = "‐‑‒–—―−"  # what pages and chats make of - and --

# One thing has one name, which is the key's where there is a key for it
RENAMED = {
    "--uri": "--track.uri", "--experiment": "--track.experiment", "--storage": "--scale.storage", "--address": "--scale.address",
    "--column": "--data.image_column", "--samples": "--images", "--no-browser": "--browser false", "--run-id": "--run", "--method": "--code",
}  # fmt: skip

SHORT = {"-q": "--quiet", "-o": "--out", "-v": "--verbose"}

# What other tools call a key; of several, what each is
SLIPS = {
    "--epochs": "--train.epochs", "--max-epochs": "--train.epochs", "--num-epochs": "--train.epochs", "--steps": "--train.steps",
    "--max-steps": "--train.steps", "--lr": "--optim.lr", "--lr0": "--optim.lr", "--learning-rate": "--optim.lr", "--optimizer": "--optim.name",
    "--opt": "--optim.name", "--wd": "--optim.weight_decay", "--weight-decay": "--optim.weight_decay", "--momentum": "--optim.momentum",
    "--warmup-epochs": "--optim.warmup_epochs", "--schedule": "--optim.schedule", "--sched": "--optim.schedule", "--scheduler": "--optim.schedule",
    "--batch": "--train.batch_size", "--batch-size": "--train.batch_size", "--bs": "--train.batch_size", "--device": "--train.device",
    "--precision": "--train.precision", "--amp": "--train.precision bf16", "--fp16": "--train.precision bf16", "--compile": "--train.compile",
    "--data": "--data.source", "--dataset": "--data.source", "--data-dir": "--data.source", "--data-path": "--data.source", "--source": "--data.source",
    "--model": "--backbone.name", "--arch": "--backbone.name", "--backbone": "--backbone.name", "--strength": "--augment.strength",
    "--name": "--track.name", "--run-name": "--track.name", "--project": "--track.experiment", "--output-dir": "--scale.storage",
    "--out": "--scale.storage", "--random-seed": "--seed", "--nodes": "--scale.workers",
    "--workers": "--scale.workers MIN MAX (processes that train) or --data.workers (processes that prepare batches)",
    "--num-workers": "--data.workers (processes that prepare batches) or --scale.workers MIN MAX (processes that train)",
    "--gpus": "--scale.workers N N, of which each has a GPU where there are any", "--devices": "--scale.workers N N, of which each has a GPU where there are any",
    "--img-size": "--views.NAME.size (--help views)", "--image-size": "--views.NAME.size (--help views)", "--imgsz": "--views.NAME.size (--help views)",
    "--resume": "not needed: the same command goes on where it stopped",
}  # fmt: skip

T = TypeVar("T")
Positional = Annotated[T, "positional"]


@dataclass(frozen=True)
class Note:
    """What an option's annotation says of it. name: as it is typed, where that is not the field's; choices: for help and completion."""

    help: str
    name: str = ""
    choices: tuple[str, ...] = ()


def arg(help: str, *, name: str = "", choices: Sequence[str] = ()) -> Note:
    """The annotation of an option: `samples: Annotated[int, arg("trials to draw")] = 0`."""
    return Note(help, name, tuple(choices))


def json_note(fields: str) -> Note:
    """The annotation of --json: its fields are stable, so they are told."""
    return Note(f"one JSON document on stdout, all else on stderr: {fields}; what is no number is null")


@dataclass(frozen=True)
class Option:
    """An option as declared. flag: as typed, or the name of what is given by its place alone; kind: the type of (each) value."""

    field: str
    flag: str
    kind: type
    default: Any
    note: Note
    positional: bool
    many: bool

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def allowed(self) -> str:
        """What is taken, in words."""
        words = {int: "an integer", float: "a number", bool: "true or false", Path: "a path"}.get(self.kind, "text")
        return " | ".join(self.note.choices) if self.note.choices else f"one or more of {words}" if self.many else words


def options_of(options: type) -> list[Option]:
    """The options that a command declares."""
    hints = get_type_hints(options, include_extras=True)
    found = []
    for spec in fields(options):
        kind, *notes = get_args(hints[spec.name])
        note = next(note for note in notes if isinstance(note, Note))
        many = get_origin(kind) is tuple
        kind = next(
            each for each in (kind, *get_args(kind)) if isinstance(each, type) and each is not tuple and not get_origin(each)
        )
        positional = "positional" in notes
        flag = spec.name.upper() if positional else f"--{note.name or spec.name.replace('_', '-')}"
        found.append(Option(spec.name, flag, kind, spec.default, note, positional, many))
    return found


def split_dotted(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """(dotted options with their values, the other words). `--a.b 1 2`, `--a.b=1` and a bare `--a.b` are understood."""
    dotted: dict[str, list[str]] = {}
    plain: list[str] = []
    values: list[str] | None = None
    for word in words:
        match = DOTTED.fullmatch(word)
        if match:
            values = dotted.setdefault(match[1].replace("-", "_"), [])
            values[:] = [] if match[2] is None else [match[2]]
            if match[2] is not None:
                values = None
        elif values is not None and not re.match(r"--?[A-Za-z]", word):
            values.append(word)
        else:
            values = None
            plain.append(word)
    return dotted, plain


def parse(command: ModuleType, words: Sequence[str], prog: str) -> tuple[Any, dict[str, list[str]]]:
    """(the command's Options, the dotted keys with their values). Prints the help and ends where it is asked for.

    Raises UserError for words that are not understood.
    """
    words = list(words)
    _check_typing(words)
    if words == ["help"] and not Path("help").exists():
        words = ["--help"]
    if {"-h", "--help", "--help-all"} & set(words):
        from .help import show

        show(command, words, prog)
        raise SystemExit(0)
    if hasattr(command, "spelled"):
        words = command.spelled(words)
    dotted, plain = split_dotted(words) if hasattr(command, "keys") else ({}, words)
    known = options_of(command.Options)
    plain = _spelled(known, plain, prog, dotted if hasattr(command, "keys") else None)
    for flag in _repeated(words):
        print(f"contray: {flag} is given more than once; the last one counts", file=sys.stderr)
    return command.Options(**_parsed(known, plain, prog)), dotted


def lenient(command: ModuleType, plain: Sequence[str], prog: str) -> Any:
    """The Options of an unfinished line, as help is asked for in it: what is missing is empty."""
    known, words = options_of(command.Options), list(plain)
    if hasattr(command, "keys"):
        words = split_dotted(command.spelled(words) if hasattr(command, "spelled") else words)[1]
    return command.Options(**_parsed(known, _spelled(known, words, prog, None), prog, missing=""))


def _check_typing(words: Sequence[str]) -> None:
    """Refuse what a page or a shell made of a line: other dashes, a key and its value in one word, keys without dashes."""
    for before, word in zip(["", *words], words, strict=False):
        if match := re.fullmatch(f"-?[{DASHES}]+-?([a-z][\\w.-]*(=.*)?)", word, re.DOTALL):
            raise UserError(f"{word}: begins with a dash that is no '-', as pages put it for one; write --{match[1]}")
        if match := re.match(r"(--[\w.-]+)\s+(\S.*)", word, re.DOTALL):
            raise UserError(f"{word!r}: is one word, with a space in it; without the quotes: {match[1]} {match[2]}")
        if re.match(r"-[A-Za-z][\w.-]+", word):
            raise UserError(
                f"{word}: options begin with two dashes: -{word}; of a file or a name that begins with one: ./{word}, or --OPTION={word}"
            )
        key, given, value = word.partition("=")
        if given and not before.startswith("-") and key.split(".")[0] in SECTIONS and re.fullmatch(r"\w+(\.\w+)+", key):
            raise UserError(f"{word}: a key is given with two dashes: --{key} {value}".rstrip())


def _spelled(known: Sequence[Option], plain: Sequence[str], prog: str, dotted: Mapping[str, Any] | None) -> list[str]:
    """The words with each option in its one spelling (--dry_run too is --dry-run) and the value of a switch tied to it."""
    flags = {_canon(each.flag): each for each in known if not each.positional}
    found: list[str] = []
    words = iter([*plain, None])
    word = next(words)
    while word is not None:
        after = next(words)
        word = SHORT.get(word, word)
        if word.startswith("--") and len(word) > 2:
            flag, given, value = word.partition("=")
            option = flags.get(_canon(flag))
            if option is None:
                raise UserError(_unknown(flag, plain, known, prog, dotted))
            if option.kind is bool and not given:
                told = after in ("true", "false")
                value, given, after = (after, "=", next(words)) if told else ("true", "=", after)
            found.append(f"{option.flag}{given}{value}")
        else:
            found.append(word)
        word = after
    return found


def _canon(flag: str) -> str:
    return flag.lower().replace("_", "-")


def _unknown(flag: str, plain: Sequence[str], known: Sequence[Option], prog: str, dotted: Mapping[str, Any] | None) -> str:
    """Words on an option that there is not: what it is called now, or what is near."""
    flags = [each.flag for each in known if not each.positional]
    new = RENAMED.get(_canon(flag), "")
    if new and (new.split()[0] in flags or (dotted is not None and "." in new)):
        return f"{flag}: the option is called {new}, as in every command"
    new = SLIPS.get(_canon(flag), "")
    if dotted is not None and new and (new.split()[0].count(".") or new.startswith("not")) and _takes_trained(prog):
        return (
            f"{flag}: {new}"
            if new.startswith("not")
            else f"{flag}: here it is {new}{_value_after(flag, plain) if ' ' not in new else ''}"
        )
    if flag == "--verbose":
        return f"-v: contray {prog} says all there is to say; -q, where it is taken, says less, and --version is -V"
    if flag == "--quiet":
        word = "--quiet" if any(each.startswith("--quiet") for each in plain) else "-q"
        return f"{word}: contray {prog} prints what was asked for alone; --json, where it is taken, gives it to a script"
    if flag == "--run" and any(each.field == "runs" for each in known):
        return f"--run: runs are named without it: contray {prog} RUN RUN ..."
    keys = declared.keys(plain[0] if plain else "") if dotted is not None else []
    if dotted is None and DOTTED.fullmatch(flag):
        return f"{flag}: contray {prog} takes no such key; {nearest(flag, flags)}"
    word = flag if any(each.startswith(flag[:4]) for each in flags) else flag.replace("-", "_").replace("__", "--", 1)
    return f"{flag}: no such option of contray {prog}; {nearest(word, [*flags, *(f'--{key}' for key in keys)])}"


def _takes_trained(prog: str) -> bool:
    """Whether a command takes all keys of a run."""
    return prog in ("train", "tune", "study", "data preview")


def _value_after(flag: str, words: Sequence[str]) -> str:
    """The value that a line gives to an option that there is not, to be copied with the right one."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.partition("=")[0] == flag:
            value = word.partition("=")[2] or ("" if after.startswith("--") else after)
            return f" {value}" if value else ""
    return ""


def _repeated(words: Sequence[str]) -> list[str]:
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    return sorted({flag for flag in flags if flags.count(flag) > 1})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Refused(message)


class _Refused(Exception):
    pass


def _parsed(known: Sequence[Option], words: Sequence[str], prog: str, missing: Any = MISSING) -> dict[str, Any]:
    """The values by field. missing: stands for what must be given and is not."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for option in known:
        kind: dict[str, Any] = {"type": _reader(option)}
        if option.many:
            kind["nargs"] = "*" if option.positional else "+"
        elif option.positional and (not option.required or missing is not MISSING):
            kind["nargs"] = "?"
        if option.positional:
            parser.add_argument(option.field, metavar=option.flag, **kind)
        else:
            parser.add_argument(option.flag, dest=option.field, **kind)
    try:
        given = vars(parser.parse_intermixed_args(list(words)))
    except _Refused as error:
        raise UserError(_why_refused(str(error), known, prog)) from None
    values = {}
    for option in known:
        default = missing if option.required else option.default
        value = given.get(option.field, default)
        values[option.field] = (tuple(value) or default) if option.many and isinstance(value, list) else value
    return values


def _reader(option: Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            if option.kind is bool:
                return {"true": True, "false": False}[text.lower()]
            # no shell expands --out=~/x
            return option.kind(os.path.expanduser(text) if option.kind is Path or text.startswith("~/") else text)
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"got {text!r}, must be {option.allowed}") from None

    return read


def _why_refused(message: str, known: Sequence[Option], prog: str) -> str:
    """What argparse says, in our words."""
    if match := re.match(r"argument (\S+): expected", message):
        option = next(each for each in known if each.flag == match[1])
        return f"{option.flag}: needs {option.allowed if option.kind in (int, float, bool) else 'a value'}"
    if message.startswith("argument "):
        return message.removeprefix("argument ")
    if match := re.match(r"the following arguments are required: (\S+?),?(\s|$)", message):
        return f"{match[1]} is missing; contray {prog} --help shows what it can be"
    rest = message.removeprefix("unrecognized arguments: ")
    if any(each.field == "run" and each.many for each in known):
        return f"{rest}: not understood; runs are given by --run RUN_ID RUN_ID ..."
    return f"{rest}: not understood; contray {prog} --help shows the options"


def config_from(method: str, preset: str, file: Path | None, dotted: Mapping[str, Any]) -> RunConfig:
    """The resolved config of a command line."""
    from ..config import RunConfig

    if file is None:
        return RunConfig.make(method or "simclr", dotted, preset=preset)
    return RunConfig.from_file(file, dotted, method=method, preset=preset)


def at_least(flag: str, value: int, least: int) -> None:
    """Raises UserError for a number below the least."""
    if value < least:
        raise UserError(f"{flag}: got {value}, must be at least {least}")
