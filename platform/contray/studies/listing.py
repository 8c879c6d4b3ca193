"""The studies that there are, and what each came to, by scale, in a store."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .. import track
from ..config.registry import study_names
from ..errors import UserError
from ..tables import Table
from ..track.runs import all_runs
from .form import Study, load_study
from .scales import SCALES


def judged(uri: str, experiment: str) -> dict[tuple[str, str], Any]:
    """Of each study and scale the run that was the last to reach a verdict; none where nothing was tracked yet."""
    path = track.sqlite_path(uri)
    if path and not path.exists():
        return {}
    with track.asking(uri, "looking for studies") as talk:
        place = talk.get_experiment_by_name(experiment)
        runs = all_runs(talk, place.experiment_id, "tags.`contray.kind` = 'study'") if place else []
    ended = sorted(runs, key=lambda run: run.info.end_time or 0)
    tagged = ((run.data.tags, run) for run in ended if run.data.tags.get("contray.verdict"))
    return {(tags["contray.study"], tags["contray.scale"]): run for tags, run in tagged}


def study_rows(uri: str, experiment: str) -> list[dict[str, Any]]:
    """Every study: its claim, whose it is, what it costs, and its latest verdict at each scale. A file that is no study is left out, and said."""
    found = judged(uri, experiment)
    rows = []
    for name in study_names():
        try:
            study = load_study(name)
        except UserError as error:
            print(f"contray: left out: {error}", file=sys.stderr)
            continue
        verdicts = {scale: _verdict(uri, found[name, scale]) for scale in SCALES if (name, scale) in found}
        rows.append({"study": name, **_facts(study), "verdicts": verdicts})
    return rows


def _facts(study: Study) -> dict[str, Any]:
    return {
        "claim": study.claim, "source": study.source, "method": study.method, "metric": study.metric, "seeds": study.seeds,
        "cost": {scale: study.cost.get(scale) for scale in study.scales},
    }  # fmt: skip


def _verdict(uri: str, run: Any) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "verdict": tags["contray.verdict"], "seeds": int(tags.get("contray.seeds", 0)), "left": int(tags.get("contray.left", 0)),
        "run_id": run.info.run_id, "url": track.run_url(uri, run.info.experiment_id, run.info.run_id),
    }  # fmt: skip


def studies_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each study; a verdict of runs that are not all there stands in brackets."""
    table = Table(
        "contray study STUDY", "study", "claim", "cost at digits, min", *SCALES, left=(0, 1, *range(3, 3 + len(SCALES)))
    )
    for row in rows:
        words = (row["verdicts"].get(scale) for scale in SCALES)
        told = (("({})" if each["left"] else "{}").format(each["verdict"]) if each else "" for each in words)
        minutes = row["cost"].get("digits")
        table.add(row["study"], row["claim"], f"{minutes:g}" if isinstance(minutes, (int, float)) else "-", *told)
    return table
