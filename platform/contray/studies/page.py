"""docs/STUDIES.md: every study that was run, from MLflow's runs to records (raw numbers), and from these to the page and its pictures."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import track
from ..errors import UserError
from ..tables import Table
from .form import Study, load_study
from .listing import judged, shipped
from .picture import draw
from .result import StudyResult
from .scales import SCALES
from .study import LEFT
from .verdict import WORDS, judge, lasting

# of every run, besides what its study is about
KEPT = (
    "knn_top1",
    "linear_top1",
    "rankme",
    "seconds",
    "images_per_second",
    "memory_gb",
    "test_images",
)
NOTES = "notes.yaml"  # beside the records: NAME_SCALE: what was found out about a verdict
HERE = ("track.", "scale.", "data.root")  # settings that say where a study ran, not what
HEAD = """\
# Studies

Claims of the field's papers, each tested by one command; made by `python docs/studies.py` from what MLflow keeps.

Every seed gives one number for each part of a claim; Student's t over seeds, one-sided at 5 %, tells whether it holds. *Supported*: all parts hold.
*Contradicted*: the opposite of one does, by Holm's correction for their number. *Undecided*: neither. Three seeds leave most small effects undecided,
and nearly all claims of no difference: two arms can be told to be within 3 points of each other only where their difference spreads by less than 1.8
points over seeds. A run that diverged counts as an untrained encoder. Intervals hold 95 % on both sides, of each part by itself, so that one may
reach over 0 where the test of one side does not. A verdict is one of its scale: `digits` are small images, a small network and 200 steps. Numbers are
those of the runs; verdicts are made of them anew by today's tests and claims. How often verdicts err: `python tests/benchmarks/verdicts.py`. Whoever
adds seeds until there is a verdict errs more often: with 3, 5, 8 and 12 of them a claim of no difference is supported in 13 of 100 studies, not in 5.
"""


def write(uri: str, experiment: str, docs: Path, records: Path) -> list[str]:
    """Bring the records up to what MLflow keeps of studies that have all their runs, then write page and pictures from all of them. Returns the names of the records.

    What MLflow keeps of a study in a damaged form is said, and its record stays as it was.
    """
    records.mkdir(parents=True, exist_ok=True)
    for (name, scale), run in sorted(judged(uri, experiment, shipped()).items()):
        path = records / f"{name}_{scale}.json"
        if run.data.tags.get(LEFT) != "0":  # half a study is no record
            continue
        try:
            path.write_text(compact(_fetched(uri, run)))
        except (track.TrackingError, ValueError, KeyError, TypeError, AttributeError) as error:
            kept = "the record stays as it was" if path.exists() else "it has no record"
            words = f"study.json of run {run.info.run_id} cannot be read ({type(error).__name__}: {error})"
            print(f"contray: {name} at scale {scale}: {words}; {kept}", file=sys.stderr)
    results = [_read(path) for path in sorted(records.glob("*.json"))]
    for each in results:
        draw(each.study, each, _picture(docs, each))
    (docs / "STUDIES.md").write_text(page(results, _notes(records / NOTES)))
    return [f"{each.study.name}_{each.scale}" for each in results]


def _fetched(uri: str, run: Any) -> StudyResult:
    with track.asking(uri, f"fetching the result of {run.info.run_name}") as talk, tempfile.TemporaryDirectory() as folder:
        path = talk.download_artifacts(run.info.run_id, "study.json", folder)
        return StudyResult.from_json(json.loads(Path(path).read_text()))


def compact(result: StudyResult) -> str:
    """As a record keeps it: a line for each run, of its metrics those that studies are about, and nothing of the machine's own paths."""
    about = [*_declared(result).metrics, *KEPT]
    names = dict.fromkeys(kept for name in about for kept in (name, f"random_{name}"))
    values = {
        arm: {seed: {name: row[name] for name in names if name in row} for seed, row in seeds.items()}
        for arm, seeds in result.values.items()
    }
    settings = {key: value for key, value in result.settings.items() if not key.startswith(HERE)}
    facts = replace(result, values=values, settings=settings, uri="", url="", picture=None).as_json()
    arms = facts.pop("arms")
    head = json.dumps(facts, indent=1, ensure_ascii=False)[:-2]
    lines = []
    for each in arms:
        seeds = ",\n".join(f"  {json.dumps(seed)}: {json.dumps(of, ensure_ascii=False)}" for seed, of in each["seeds"].items())
        lines.append(f' {{"arm": {json.dumps(each["arm"], ensure_ascii=False)}, "seeds": {{\n{seeds}\n }}}}')
    return head + ',\n "arms": [\n' + ",\n".join(lines) + "\n]}\n"


def _declared(result: StudyResult) -> Study:
    """Its study as the file has it today; what the record knows of it where there is none any more, or one of other arms or another metric."""
    try:
        study = load_study(result.study.name)
    except UserError:
        return result.study
    same = result.scale in study.scales and study.metric == result.study.metric
    return study if same and {*study.settings(result.scale)} == {*result.values} else result.study


def _read(path: Path) -> StudyResult:
    try:
        result = StudyResult.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no record of a study ({type(error).__name__}: {error})") from None
    study = _declared(result)
    return replace(
        result, study=study, verdict=judge(study.expect, result.values, study.metric) if study.expect else result.verdict
    )


def _notes(path: Path) -> Mapping[str, str]:
    import yaml

    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def _picture(docs: Path, result: StudyResult) -> Path:
    return docs / "assets" / "studies" / f"{result.study.name}_{result.scale}.png"


# ---------------------------------------------------------------- the page


def page(results: Sequence[StudyResult], notes: Mapping[str, str]) -> str:
    """In Markdown: a table of all verdicts, then a section for each study with its scales."""
    studies: dict[str, list[StudyResult]] = {}
    for each in sorted(results, key=lambda each: (each.study.name, list(SCALES).index(each.scale))):
        studies.setdefault(each.study.name, []).append(each)
    text = [HEAD, *_overview(studies)]
    for name, found in studies.items():
        text += [f"## {name}", f"**{_sentence(found[0].study.claim)}** {_linked(found[0].study.source)}."]
        for each in found:
            text += _section(each, notes.get(f"{name}_{each.scale}", ""))
    return "\n\n".join(part.strip("\n") for part in text) + "\n"


def _overview(studies: Mapping[str, Sequence[StudyResult]]) -> list[str]:
    if not studies:
        return ["No study has been run yet."]
    scales = [scale for scale in SCALES if any(each.scale == scale for found in studies.values() for each in found)]
    table = Table("", "study", "claim", *scales, left=range(2 + len(scales)))
    for name, found in studies.items():
        words = {each.scale: _word(each) for each in found}
        table.add(f"[{name}](#{name})", _sentence(found[0].study.claim), *(words.get(scale, "") for scale in scales))
    counts = []
    for scale in scales:
        of = Counter(each.verdict.word for found in studies.values() for each in found if each.scale == scale)
        counts.append(f"At scale `{scale}`: " + ", ".join(f"{of[word]} {word}" for word in WORDS) + ".")
    every = [each.verdict for found in studies.values() for each in found]
    firm = (
        f"Of these {len(every)} verdicts, each looked for on both sides, {lasting(every)} would stay if they were corrected for one another (Benjamini "
        "and Hochberg 1995, at 5 %): the others are hints. Studies share runs, so that their verdicts are not independent."
    )
    missing = [each.name for each in shipped() if each.name not in studies]
    unrun = [f"Not run yet at any scale: {', '.join(missing)}."] if missing else []
    return [" ".join(counts), firm, *unrun, table.markdown()]


def _word(result: StudyResult) -> str:
    return f"({result.verdict.word})" if result.left else result.verdict.word


def _section(result: StudyResult, note: str) -> list[str]:
    study, name = result.study, f"{result.study.name}_{result.scale}"
    table = result.table
    table.title = ""
    left = f" ({result.left} runs are still to be made)" if result.left else ""
    parts = [f"{each.text}: {each.word}" if len(result.verdict.claims) > 1 else each.text for each in result.verdict.claims]
    words = f"*{result.verdict.word.capitalize()}*{left}:\n\n" + "\n".join(f"- {_escaped(part)}" for part in parts)
    return [
        f"### {study.name}, {result.scale}: {result.verdict.word}",
        f"![{study.name} at scale {result.scale}](assets/studies/{name}.png)",
        table.markdown(),
        words,
        *([_sentence(study.small)] if study.small and result.scale != "paper" else []),
        *([note.strip()] if note else []),
        f"```bash\n{command(result)}\n```",
        _origin(result),
    ]


def command(result: StudyResult) -> str:
    """What gives it again."""
    seeds = max((len(each) for each in result.values.values()), default=0)
    words = ["contray", "study", result.study.name]
    words += ["--scale", result.scale] if result.scale != "digits" else []
    words += ["--seeds", str(seeds)] if seeds != result.study.seeds and not result.left else []
    for key, value in result.settings.items():
        if not key.startswith(HERE):
            words += [f"--{key}", *(map(str, value) if isinstance(value, (list, tuple)) else [_plain(value)])]
    return shlex.join(words)


def _origin(result: StudyResult) -> str:
    runs = [row for seeds in result.values.values() for row in seeds.values()]
    seconds = [value for row in runs if (value := row.get("seconds")) is not None]
    took = f", {sum(seconds) / 60:.0f} minutes of training" if len(seconds) == len(runs) and runs else ""
    commit = f", commit {result.commit[:7]}{'+' * result.commit.endswith('+')}" if result.commit else ""
    return f"{len(runs)} runs{took}{commit}; every number: `records/studies/{result.study.name}_{result.scale}.json`."


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{_escaped(words[1:])}" + ("" if words.endswith(".") else ".")


def _linked(source: str) -> str:
    return re.sub(r"https?://[^\s,;]+", lambda found: f"<{found[0]}>", source)


def _escaped(words: str) -> str:
    """No emphasis and no links where a text means none."""
    return re.sub(r"([*_\[\]|])", r"\\\1", words.replace("<", "&lt;"))
