"""contray eval and evaluations: what an encoder is worth."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import UserError, nearest
from .options import METHOD_HELP, arg, parse

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..config.evaluations import EvaluationFile

MOVED = {
    "--protocol": "paper, last_n and attentive are evaluations of their own: contray eval paper",
    "--by": "the ways to teach are evaluations of their own: contray eval distill, crd or noisy_student",
}


OWN = ("run", "checkpoint", "method", "out")


def evaluate(words: list[str]) -> int:
    """contray eval"""
    names, rest = named(words)
    if not names:
        return _overview(rest)
    files = _files(names)
    words = short(rest, files)

    @dataclass(frozen=True)
    class Options:
        run: Annotated[str, arg("MLflow run whose encoder is measured; the numbers join it")] = ""
        checkpoint: Annotated[str, arg("a checkpoint file, a run's folder (its newest checkpoint), or an imported encoder")] = ""
        method: Annotated[str, arg(METHOD_HELP)] = ""
        out: Annotated[Path, arg("where pictures go: a folder, or the file of the only one (.png, .jpg, .pdf or .svg)")] = Path()

    Options.__doc__ = "\n\n".join(map(_about, files))

    def keys(plain: list[str]) -> "RunConfig":
        from ..config import RunConfig

        return RunConfig.make(overrides={"eval.final": names})

    takes = tuple(f"{section}." for file in files for section in file.takes)
    shown = (
        *(f"{file.prefix}." for file in files),
        "data.",
        "eval.holdout",
        "eval.crop",
        "eval.batch_size",
        "train.device",
        *takes,
    )
    options, dotted = parse(Options, words, f"eval {' '.join(names)}", keys, shown=lambda key: key.startswith(shown))
    from ..api import evaluate as run_evaluations
    from ..evaluation._base import PICTURES
    from .report import show_evaluation

    if options.out.suffix and options.out.suffix not in PICTURES:
        raise UserError(f"--out: got {options.out}, must be a folder, or a file that ends in {', '.join(PICTURES)}")
    measured = run_evaluations(
        names,
        run=options.run,
        checkpoint=options.checkpoint,
        method=options.method,
        overrides=dotted,
        out=options.out,
        quiet=False,
    )
    show_evaluation(measured)
    for picture in measured.pictures:
        print(f"wrote {picture}")
    return 0


def named(words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """(the evaluations that are named, the other words): those that stand before the first option."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return tuple(words[:count]), list(words[count:])


def short(words: Sequence[str], files: Sequence["EvaluationFile"]) -> list[str]:
    """The words with an evaluation's keys in full: --labels 0.01 is --eval.finetune.labels 0.01. Raises UserError where several have the key."""
    found = []
    for word in words:
        flag, given, value = word.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        owners = [file for file in files if key in {spec.name for spec in dataclasses.fields(file.config)}]
        if flag.startswith("--") and flag in MOVED and not owners:
            raise UserError(f"{flag}: {MOVED[flag]}")
        if flag.startswith("--") and not owners and key not in OWN and (others := _owners(key)):
            said = " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
            raise UserError(f"{flag}: is of eval {said}, not of eval {' '.join(file.name for file in files)}")
        if flag.startswith("--") and "." not in flag and owners and key not in OWN:
            if len(owners) > 1:
                raise UserError(f"{flag}: say of which: {' or '.join(f'--{file.prefix}.{key}' for file in owners)}")
            word = f"--{owners[0].prefix}.{key}{given}{value}"
        found.append(word)
    return found


def _owners(key: str) -> list[str]:
    from ..config.evaluations import load_evaluation
    from ..config.registry import builtin

    return [
        name for name in builtin("evaluation") if key in {spec.name for spec in dataclasses.fields(load_evaluation(name).config)}
    ]


def _files(names: Sequence[str]) -> list["EvaluationFile"]:
    from ..config.evaluations import evaluation_names, load_evaluation
    from ..config.registry import name_code

    name_code(*names)
    for name in names:
        if not name.endswith(".py") and name not in evaluation_names():
            raise UserError(
                f"eval {name}: no such evaluation; {nearest(name, evaluation_names())} (a path to a .py file works too)"
            )
    return [load_evaluation(name) for name in names]


def _about(file: "EvaluationFile") -> str:
    needs = f" Needs {', '.join(file.needs)}." if file.needs else ""
    named = f"contray eval {file.name}: {file.about}.{needs}"
    keys = [spec.name for spec in dataclasses.fields(file.config)]
    short = f"Its keys may be given by their last word: --{keys[-1]} is --{file.prefix}.{keys[-1]}." if keys else ""
    return "\n\n".join(filter(None, (named, f"{file.paper.title} ({file.paper.year}), {file.paper.url}", short)))


def _overview(words: list[str]) -> int:
    """What `contray eval` says where no evaluation is named."""
    if {"-h", "--help"} & set(words):
        print("usage: contray eval NAME [NAME ...] [OPTIONS]\n")
        print(
            "Measure an encoder on the test set; what is chosen is chosen on held-out training data. With --run the numbers join that run.\n"
        )
        return evaluations([])
    if words:
        raise UserError("eval: name what comes first: contray eval NAME --run RUN_ID; contray evaluations lists the names")
    raise UserError("EVALUATION is missing; contray eval --help shows what it can be")


def distill(words: list[str]) -> int:
    """contray distill"""
    raise UserError("distill: it is contray eval distill now, and contray eval crd and noisy_student; the options are the same")


def evaluations(words: list[str]) -> int:
    """contray evaluations"""

    @dataclass(frozen=True)
    class Options:
        """List the evaluations: what each measures, what it needs, and by which of its metrics trials can be ranked."""

        json: Annotated[bool, arg("as JSON")] = False

    options, _ = parse(Options, words, "evaluations")
    from ..config.evaluations import evaluation_names
    from .report import show_evaluations

    show_evaluations(_files(evaluation_names()), options.json)
    return 0
