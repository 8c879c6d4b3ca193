"""contray eval: what an encoder is worth."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import UserError, nearest
from . import declared, documents
from .options import CHECKPOINT_HELP, CODE_HELP, Positional, arg, json_note
from .output import answer, show

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray eval linear --run RUN_ID", "probes of frozen features, beside the untrained encoder and raw pixels"),
    ("contray eval finetune --labels 0.01 --checkpoint contray_runs/RUN", "on 1 % of the labels, beside from scratch"),
    ("contray eval knn linear --run RUN_ID --data.source other_photos/", "two of them, on other data; the numbers join the run"),
)
OWN = ("run", "checkpoint", "code", "out", "json")
MOVED = {
    "--protocol": "paper, last_n and attentive are evaluations of their own: contray eval paper",
    "--by": "the ways to teach are evaluations of their own: contray eval distill, crd or noisy_student",
    "--dense": "detection and segmentation are evaluations of their own: contray eval detection",
}


@dataclass(frozen=True)
class Options:
    """Measure an encoder on the test set; what is chosen is chosen on held-out training data. With --run the numbers join that MLflow run.

    `contray evaluations` lists what can be measured; `contray eval NAME --help` has an evaluation's own keys.
    """

    name: Annotated[
        Positional[tuple[str, ...]], arg("names from `contray evaluations`, or paths of your own .py files, first on the line")
    ] = ()
    run: Annotated[str, arg("MLflow run whose encoder is measured")] = ""
    checkpoint: Annotated[str, arg(CHECKPOINT_HELP)] = ""
    code: Annotated[tuple[str, ...], arg(CODE_HELP)] = ()
    out: Annotated[Path, arg("where pictures go: a folder, or the file of the only one (.png, .jpg, .pdf or .svg)")] = Path()
    json: Annotated[bool, json_note(documents.MEASURED)] = False


def spelled(words: Sequence[str]) -> list[str]:
    """The words with an evaluation's keys in full: --labels 0.01 is --eval.finetune.labels 0.01. Raises UserError where several have the key."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    files = _files(words[:count])
    found = []
    for word in words:
        flag, given, value = word.partition("=")
        key = flag.removeprefix("--").replace("-", "_")
        owners = [file for file in files if key in file.defaults]
        if flag in MOVED and not owners:
            raise UserError(f"{flag}: {MOVED[flag]}")
        if files and flag.startswith("--") and not owners and key not in OWN and (others := _owners(key)):
            said = " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
            raise UserError(f"{flag}: is of eval {said}, not of eval {' '.join(file.name for file in files)}")
        if flag.startswith("--") and "." not in flag and owners and key not in OWN:
            if len(owners) > 1:
                raise UserError(f"{flag}: say of which: {' or '.join(f'--{file.prefix}.{key}' for file in owners)}")
            word = f"--{owners[0].prefix}.{key}{given}{value}"
        found.append(word)
    return found


def keys(options: Options) -> RunConfig:
    """A config that has the keys of these evaluations."""
    from ..config import RunConfig

    return RunConfig.make(overrides={"eval.final": options.name} if options.name else {})


def few(options: Options) -> tuple[str, ...]:
    """Their own keys, those of the sections that they take, and a few of the data and of all evaluations."""
    files = _files(options.name)
    takes = (f"{section}.*" for file in files for section in file.takes)
    return (
        *(f"{file.prefix}.*" for file in files),
        *takes,
        "data.source",
        "data.label_column",
        "data.labels",
        "eval.holdout",
        "eval.crop",
        "train.device",
        "scale.workers",
        "track.uri",
    )


def takes(options: Options) -> tuple[str, ...]:
    """All keys that these evaluations take; without a name, those of any."""
    from ..api import SCALE, TAKEN

    files = _files(options.name)
    return (
        *TAKEN,
        *SCALE,
        "scale.storage",
        *((f"{each}.*" for file in files for each in (file.prefix, *file.takes)) if files else ("eval.*.*",)),
    )


def examples(options: Options) -> tuple[tuple[str, str], ...]:
    """Three lines about these evaluations."""
    if not options.name:
        return EXAMPLES
    line = f"contray eval {shlex.join(options.name)}"
    key = next((f"--{key} {_written(value)} " for file in _files(options.name) for key, value in _defaults(file) if value), "")
    return (
        (f"{line} --run RUN_ID", "of a run's encoder; the numbers join the run"),
        (f"{line} {key}--checkpoint contray_runs/RUN", "of a checkpoint" + ", with a key of its own" * bool(key)),
        (f"{line} --run RUN_ID --data.source other_photos/", "on other data"),
    )


def about(options: Options) -> str:
    """What these evaluations measure and need, and whose they are."""
    return "\n\n".join(map(_about, _files(options.name))) or str(Options.__doc__)


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Measure, and keep the numbers in the run."""
    if not options.name:
        raise UserError("eval: name what to measure first: contray eval NAME --run RUN_ID; contray evaluations lists the names")
    from ..api import evaluate
    from ..evaluation._base import PICTURES
    from ..evaluation.common.tables import tables_of

    if options.out.suffix and options.out.suffix not in PICTURES:
        raise UserError(f"--out: got {options.out}, must be a folder, or a file that ends in {', '.join(PICTURES)}")
    with answer(options.json) as tell:
        measured = evaluate(
            options.name,
            run=options.run,
            checkpoint=options.checkpoint,
            code=options.code,
            overrides=dotted,
            out=options.out,
            quiet=False,
        )
        show(*tables_of(measured))
        for picture in measured.pictures:
            print(f"wrote {picture}")
        tell(documents.of_measured(measured))
    return 0


def _defaults(file: declared.Evaluation) -> list[tuple[str, Any]]:
    return [(f"{file.prefix}.{name}", value) for name, value in file.defaults.items()]


def _written(value: Any) -> str:
    """A value as a command line has it."""
    return (
        shlex.join(map(str, value))
        if isinstance(value, tuple)
        else shlex.quote(str(value).lower() if value is True else str(value))
    )


def _owners(key: str) -> list[str]:
    """The built-in evaluations that have a key of this name."""
    found = filter(None, map(declared.evaluation, declared.evaluations()))
    return [file.name for file in found if key in file.defaults]


def _files(names: Sequence[str]) -> list[declared.Evaluation]:
    """What these evaluations declare; only one's own must be imported for it."""
    known = declared.evaluations()
    for name in names:
        if not name.endswith(".py") and name not in known:
            raise UserError(f"eval {name}: no such evaluation; {nearest(name, known)} (a path to a .py file works too)")
    return [declared.evaluation(name) or _own(name) for name in names]


def _own(name: str) -> declared.Evaluation:
    import dataclasses

    from ..config.evaluations import load_evaluation
    from ..config.registry import name_code

    name_code(name)
    file = load_evaluation(name)
    defaults = {spec.name: getattr(file.config(), spec.name) for spec in dataclasses.fields(file.config)}
    paper = file.paper
    return declared.Evaluation(
        name, file.prefix, file.about, paper.title, paper.year, paper.url, file.needs, file.takes, defaults
    )


def _about(file: declared.Evaluation) -> str:
    needs = f" Needs {', '.join(file.needs)}." if file.needs else ""
    own = list(file.defaults)
    short = f"Its keys may be given by their last word: --{own[-1]} is --{file.prefix}.{own[-1]}." if own else ""
    words = (f"contray eval {file.name}: {file.about}.{needs}", f"{file.title} ({file.year}), {file.url}", short)
    return "\n\n".join(filter(None, words))
