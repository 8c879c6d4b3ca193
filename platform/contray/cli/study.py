"""contray study"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from . import documents
from .options import Positional, arg, json_note
from .output import answer, show

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..studies.result import StudyResult, Summary

EXAMPLES = (
    ("contray study simclr_temperature", "four temperatures over three seeds, beside the paper's table, with a verdict"),
    ("contray study simclr_temperature --seeds 5 --budget 30m", "what half an hour suffices for; the same command goes on"),
    ("contray study all --budget 2h", "every study, those without a verdict first"),
)
FEW = ("data.source", "data.root", "train.steps", "train.epochs", "scale.storage", "track.uri", "track.experiment")


@dataclass(frozen=True)
class Options:
    """Re-run a claim of the field: its arms over seeds, our numbers beside the paper's, and what they say of it. Runs that there are are not made again."""

    study: Annotated[Positional[str], arg("a name from `contray studies`, the path of your own .py file, or all")]
    scale: Annotated[str, arg("the built-in digits, CIFAR-10, or as in the paper", choices=("digits", "cifar", "paper"))] = (
        "digits"
    )
    seeds: Annotated[int, arg("of each arm; 0: the study's own number; fewer than 3 decide nothing")] = 0
    budget: Annotated[
        str,
        arg(
            "time that it may take: 90s, 30m, 2h, or minutes; no run is begun that would not end in it; empty: all that it takes"
        ),
    ] = ""
    jobs: Annotated[int, arg("runs at once; 0: one for each GPU, else for each CPU")] = 0
    dry_run: Annotated[bool, arg("print the arms, which runs there are and what the others will take; start nothing")] = False
    json: Annotated[bool, json_note(f"{documents.STUDY}; {documents.STUDY_DRY}")] = False


def keys(options: Options) -> RunConfig:
    """The config whose keys all arms share."""
    from ..studies.form import load_study

    study = load_study(options.study if options.study not in ("", "all") else "simclr_temperature")
    scale = options.scale if options.scale in study.scales else next(iter(study.scales))
    return next(iter(study.arms(scale).values()))


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Run it; 130 where it was interrupted, 1 where something failed and there is no number of any claim."""
    with answer(options.json) as tell:
        if options.dry_run:
            tell(_dry(options, dotted))
            return 0
        from ..api.study import study
        from ..api.train import minutes
        from ..studies.result import Summary

        budget = minutes(options.budget, "--budget") if options.budget else ""
        result = study(options.study, dotted, scale=options.scale, seeds=options.seeds, budget=budget, jobs=options.jobs)
        show(*result.shown)
        tell([each.as_json() for each in result.results] if isinstance(result, Summary) else result.as_json())
        return 130 if result.interrupted else int(_failed(result))


def _failed(result: StudyResult | Summary) -> bool:
    """Whether studies or runs failed, and no claim has a number."""
    from ..studies.result import StudyResult

    results = [result] if isinstance(result, StudyResult) else result.results
    failed = not isinstance(result, StudyResult) and result.failed
    return bool(failed or any(each.notes for each in results)) and not any(each.tells for each in results)


def _dry(options: Options, dotted: dict[str, list[str]]) -> list[dict[str, Any]]:
    """What each study would do, printed and as a document."""
    from ..studies.outlook import outlook, table_of

    found = outlook(options.study, dotted, scale=options.scale, seeds=options.seeds, jobs=options.jobs)
    show(*(each for study in found for each in table_of(study)))
    return found
