"""The words of a command line: a command's own options, which tyro parses, and the dotted keys of the config between them."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from ..errors import UserError, nearest

if TYPE_CHECKING:
    from ..config import RunConfig

URI_HELP = "MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else this folder's mlflow.db"
METHOD_HELP = "your own method's .py file, where the encoder is of one: only code that you name runs"
DOTTED = re.compile(r"--(seed|[a-z]+(?:\.[A-Za-z_0-9-]+)+)(?:=(.*))?", re.DOTALL)


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


def parse(
    options: type,
    words: Sequence[str],
    prog: str,
    keys: Callable[[list[str]], "RunConfig"] | None = None,
    shown: Callable[[str], bool] = lambda key: True,
) -> tuple[Any, dict[str, list[str]]]:
    """Parse a command's own options by tyro, and take the dotted ones out. `--help` lists both, those keys of `keys(words)` that are `shown`
    with their defaults; `--help-all` all of them.
    """
    import tyro

    dotted, plain = split_dotted(words) if keys else ({}, list(words))
    if {"-h", "--help", "--help-all"} & set(plain):
        asked = [word for word in plain if word not in ("-h", "--help", "--help-all")]
        everything = "--help-all" in plain
        listed = _with_keys(options, keys(asked), lambda key: everything or shown(key)) if keys else options
        tyro.cli(listed, args=["--help"], prog=f"contray {prog}", description=options.__doc__, use_underscores=True)
    plain = [
        re.sub("^--[a-z_]+", lambda flag: flag[0].replace("_", "-"), word) for word in plain
    ]  # --dry_run, as the help has it, too
    known = {_flag(name) for name in options.__dataclass_fields__}
    for word in plain:
        if word.split("=")[0] == "--uri":
            raise UserError("--uri: the option is called --track.uri, as in every command")
        if word.split("=")[0] == "--run" and "--run" not in known and "runs" in options.__dataclass_fields__:
            raise UserError(f"--run: runs are named without it: contray {prog} RUN RUN ...")
        if word.startswith("--") and word.split("=")[0] not in known and not word.startswith("--no-"):
            raise UserError(f"{word.split('=')[0]}: no such option of contray {prog}; {nearest(word.split('=')[0], known)}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # for a value of the wrong type tyro draws a box all the same
            parsed, unknown = tyro.cli(
                options, args=plain, prog=f"contray {prog}", return_unknown_args=True, console_outputs=False
            )
    except SystemExit:
        raise UserError(_why_refused(options, plain, prog)) from None
    if unknown:
        raise UserError(f"{' '.join(unknown)}: not understood; contray {prog} --help shows the options")
    return parsed, dotted


def _flag(name: str) -> str:
    """How an option is typed: `dry_run` as --dry-run, `track__uri` as --track.uri."""
    return f"--{name.replace('__', '.').replace('_', '-')}"


def _why_refused(options: type, words: Sequence[str], prog: str) -> str:
    """What tyro did not take: an option without a value or with one of another type, or a command without what it works on."""
    flat = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    kinds = get_type_hints(options)
    for spec in fields(options):
        flag, kind = _flag(spec.name), kinds[spec.name]
        if flag not in flat or kind is bool:
            continue
        value = "".join(flat[flat.index(flag) + 1 :][:1])
        allowed = {int: "an integer", float: "a number"}.get(kind, "a value")
        if not value or value.startswith("--"):
            return f"{flag}: needs {allowed}"
        if kind in (int, float):
            try:
                kind(value)
            except ValueError:
                return f"{flag}: got {value!r}, must be {allowed}"
    missing = [spec.name.upper() for spec in fields(options) if spec.default is MISSING]
    return (
        f"{missing[0]} is missing; contray {prog} --help shows what it can be"
        if missing
        else f"{' '.join(words)}: not understood; contray {prog} --help shows the options"
    )


def _with_keys(options: type, config: "RunConfig", shown: Callable[[str], bool]) -> type:
    import tyro

    from ..config import declared_keys

    shown_keys = []
    values = config.flat()
    for key, declared in declared_keys(config):
        if not shown(key):
            continue
        value = values[key]
        default = (
            " ".join(map(str, value))
            if isinstance(value, tuple)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        unit = f" [{declared.unit}]" if declared.unit else ""
        note = tyro.conf.arg(
            name=key,
            help=f"{declared.help}{unit}",
            metavar=declared.allowed,
            help_behavior_hint=f"(default: {default or 'empty'})",
        )
        shown_keys.append((key.replace(".", "__"), Annotated[tuple[str, ...], note], field(default=())))
    return make_dataclass("options", shown_keys, bases=(options,), frozen=True)


def config_from(method: str, preset: str, file: Path | None, dotted: dict[str, list[str]]) -> "RunConfig":
    """The resolved config of a command line."""
    from ..config import RunConfig

    if file is None:
        return RunConfig.make(method or "simclr", dotted, preset=preset)
    return RunConfig.from_file(file, dotted, method=method, preset=preset)


def arg(help: str, **more: Any) -> Any:
    """tyro's annotation of an option."""
    import tyro

    return tyro.conf.arg(help=help, **more)
