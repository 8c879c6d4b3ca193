"""The studies that there are, and what each came to, by scale, in a store."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .. import track
from ..config.spaces import study_names
from ..errors import UserError
from ..tables import Table
from ..track.runs import all_runs
from .form import Study, load_study
from .scales import SCALES

DECLARED = "contray.declared"  # a tag: the digest of the study's file, where it ran as that says
FREE = ("track.", "scale.", "data.root", "data.source")  # settings that are no departure from it


def judged(uri: str, experiment: str, studies: Iterable[Study]) -> dict[tuple[str, str], Any]:
    """Of each of these studies and scale the run with the verdict that counts: of the arms and the claim that its file has, run as the file says; of
    several a whole one before a part, more seeds before fewer, the newer before the older. None where nothing was tracked yet.
    """
    return _counting(_studied(uri, experiment), studies)


def _counting(runs: Sequence[Any], studies: Iterable[Study]) -> dict[tuple[str, str], Any]:
    """Of the runs that are studies' those that count, as `judged` says."""
    digests = {(study.name, scale): study.digest(scale) for study in studies for scale in study.scales}
    known = [((run.data.tags.get("contray.study", ""), run.data.tags.get("contray.scale", "")), run) for run in runs]
    counting = [(key, run) for key, run in known if key in digests and run.data.tags.get(DECLARED) == digests[key]]
    return {key: run for key, run in sorted(counting, key=lambda each: _weight(each[1])) if run.data.tags.get("contray.verdict")}


def _studied(uri: str, experiment: str) -> list[Any]:
    """The runs of MLflow's that are studies'."""
    path = track.sqlite_path(uri)
    if path and not path.exists():
        return []
    with track.asking(uri, "looking for studies") as talk:
        place = talk.get_experiment_by_name(experiment)
        return all_runs(talk, place.experiment_id, "tags.`contray.kind` = 'study'") if place else []


def shipped() -> Iterator[Study]:
    """Every study that has a name. A file that is no study is left out, and said."""
    for name in study_names():
        try:
            yield load_study(name)
        except UserError as error:
            print(f"contray: left out: {error}", file=sys.stderr)


def _weight(run: Any) -> tuple[bool, int, int]:
    tags = run.data.tags
    return tags.get("contray.left") == "0", int(tags.get("contray.seeds", 0)), run.info.end_time or 0


def study_rows(uri: str, experiment: str) -> list[dict[str, Any]]:
    """Every study: its claim, whose it is, what it costs, and its verdict at each scale; below them those of files of one's own, as the store knows
    them. A file that is no study is left out, and said.
    """
    studies = [*shipped()]
    runs = _studied(uri, experiment)
    found = _counting(runs, studies)
    rows = []
    for study in studies:
        verdicts = {scale: _verdict(uri, found[study.name, scale]) for scale in SCALES if (study.name, scale) in found}
        rows.append({"study": study.name, **_facts(study), "verdicts": verdicts})
    return rows + _own(uri, runs, {study.name for study in studies})


def _own(uri: str, runs: Sequence[Any], named: set[str]) -> list[dict[str, Any]]:
    """What studies of one's own files came to, by what their runs say of them."""
    rows: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=_weight):
        tags, params = run.data.tags, run.data.params
        name, scale = tags.get("contray.study", ""), tags.get("contray.scale", "")
        if name in named or not tags.get("contray.verdict") or not tags.get(DECLARED):
            continue
        facts = {"claim": tags.get("contray.claim", ""), **{key: params.get(key, "") for key in ("source", "method", "metric")}}
        row = rows.setdefault(name, {"study": name, "seeds": int(tags.get("contray.seeds", 0)), "cost": {}, "verdicts": {}})
        row |= facts
        row["verdicts"][scale] = _verdict(uri, run)
    return list(rows.values())


def _facts(study: Study) -> dict[str, Any]:
    return {
        "claim": study.claim, "source": study.source, "method": study.method, "metric": study.metric, "seeds": study.seeds,
        "cost": {scale: study.cost.get(scale) for scale in study.scales},
    }  # fmt: skip


def _verdict(uri: str, run: Any) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "verdict": tags["contray.verdict"], "seeds": int(tags.get("contray.seeds", 0)), "left": int(tags.get("contray.left", 0)),
        "data": run.data.params.get("data.source", ""),
        "run_id": run.info.run_id, "url": track.run_url(uri, run.info.experiment_id, run.info.run_id),
    }  # fmt: skip


def studies_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each study; a verdict of runs that are not all there stands in brackets, data other than the scale's beside it."""
    table = Table(
        "contray study STUDY", "study", "claim", "cost at digits, min", *SCALES, left=(0, 1, *range(3, 3 + len(SCALES)))
    )
    for row in rows:
        words = (row["verdicts"].get(scale) for scale in SCALES)
        told = (_told(each) if each else "" for each in words)
        minutes = row["cost"].get("digits")
        table.add(row["study"], row["claim"], f"{minutes:g}" if isinstance(minutes, (int, float)) else "-", *told)
    return table


def _told(found: Mapping[str, Any]) -> str:
    word = f"({found['verdict']})" if found["left"] else found["verdict"]
    return f"{word}, {found['data']}" if found["data"] else word
