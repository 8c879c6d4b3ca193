"""contray.study"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import dotted

if TYPE_CHECKING:
    from ..studies.result import StudyResult, Summary


def study(
    name: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    scale: str = "digits",
    seeds: int = 0,
    budget: str | float = "",
    jobs: int = 0,
    quiet: bool = False,
) -> StudyResult | Summary:
    """Re-run a claim of the field (`contray studies`, or your own .py file): its arms over seeds, our numbers beside the paper's, a verdict.

        result = contray.study("simclr_temperature", budget="30m")
        result.verdict.word  # supported, contradicted or undecided

    overrides: keys for all arms. scale: digits, cifar or paper. seeds: of each arm; 0: the study's own number. budget: time that it may take ("30m",
    "2h", or minutes); the same call goes on later. jobs: runs at once; 0: one for each GPU, or CPU. name "all": every study, those without a
    verdict first; gives a Summary, whose `results` are the studies reached. Runs that there are, whoever made them, are not made again.
    """
    from ..studies import study as studies
    from .train import minutes

    options: dict[str, Any] = {"scale": scale, "seeds": seeds, "jobs": jobs, "quiet": quiet}
    options["minutes"] = 0.0 if budget in ("", None) else minutes(budget)
    if str(name) == "all":
        return studies.study_all(dotted(overrides), **options)
    return studies.study(str(name), dotted(overrides), **options)
