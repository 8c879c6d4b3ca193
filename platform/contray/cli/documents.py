"""The documents of --json. Their fields are stable: a script may rely on them, and a change of them is told in the changelog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checking import Findings
    from ..exchange.curation import Curated
    from ..track.comparing import Comparison
    from ..training.result import Result
    from ..tuning import SweepResult

RUN = (
    "name, run_id, url, checkpoint, step, finished, metrics, verdict, unmeasured (why, if so), unsent (points that MLflow lacks)"
)
SEEDS = "with --seeds: name, finished, seeds (of each the fields above and seed), mean, std, verdict"
DRY = "with --dry-run: config, facts"
SWEEP = (
    "name, metric, against, run_id, url, compare, plots, pictures, best (a trial's name), best_config, front (names of the trials that no other beats in "
    "metric and cost), importance (one for each metric: shares, chance, trials, progress), trials (best first; of each name, params, status, metrics, "
    "run_id, folder, step, problem)"
)
STUDY = (
    "study (name, claim, source, method, metric, paper, ...), scale, verdict (word, text, claims), arms (of each arm and seed run_id, metrics, note), left "
    "(runs still to be made), minutes, run_id, url, picture; of all: a list of these"
)
STUDY_DRY = "with --dry-run: of each study scale, claim, source, arms (of each arm settings, seeds there and left, minutes_a_run), runs_left, at_once, minutes"
MEASURED = "metrics, about (what they stand on: counts of images, errors), pictures (files that were written)"
PICTURE = "picture, metrics (untrained encoder: random_NAME)"
COMPARISON = (
    "rows (method, preset, dataset, settings, seeds, steps, metrics (of each mean, std, n), run_ids, name, names, differs, by_seed, tests), left_out, plot, "
    "url, differing (keys), further (metrics), against (of each row, best, metric, mean, low, high, p, test, words)"
)
PAGE = "page"
SYNCED = "runs (of each name, run_id, sent, unsent, added, status, problem)"
EXPORTED = "file (if one was written), registered (what was done in MLflow's registry, in words)"
IMPORTED = "out, backbone, size (px)"
EMBEDDED = "out, rows, broken, parts, there (parts that an earlier call had done), skipped"
CURATED = (
    "out, images, broken, kept, duplicates, tested, clusters, levels (clusters of each), epsilon (null: none were looked for), groups (of each images, names), "
    "picture"
)
METHODS = "of each method, year, paper, contrasts, negatives, queue, EMA, predictor, crops, presets, url"
EVALUATIONS = "of each evaluation, about, needs, ranks (metrics that rank trials), paper, year, url, keys"
CHECKED = "method, preset, ok, checks (of each check, ok, skipped (why), wrong (of each words, mend, line))"
INSPECTED = "name, ok, sampled, notes, splits, classes, findings (of each severity, kind, words, mend, count, names), duplicates, channels, speed, memory, command"
DIAGNOSED = "ok, nodes, seconds, findings (of each check, state (ok, odd, wrong), where (empty: all nodes), words, mend)"
RECORDS = "of each record, what, command, by, machine, machine_is, commit, where, notes, rows (of each name and numbers, units in their names)"
STUDIES = (
    "of each study, claim, source, method, metric, seeds, cost (by scale), "
    "verdicts (of each scale: verdict, seeds, left (runs not made), data (data.source if given), run_id, url)"
)
SPACES = "of each space, method, about, keys"


def of_run(result: Result) -> dict[str, Any]:
    """A run as it ended."""
    return {
        "name": result.name,
        "run_id": result.run_id,
        "url": result.url,
        "checkpoint": result.checkpoint,
        "step": result.step,
        "finished": result.finished,
        "metrics": result.metrics,
        "verdict": result.verdict,
        "unmeasured": str(result.details.get("unmeasured") or ""),
        "unsent": result.details.get("unsent", 0),
    }


def of_seeds(results: Sequence[Result], first: int) -> dict[str, Any]:
    """Runs of one config over seeds from `first` on, with mean and sample standard deviation of what all were measured by."""
    from ..evaluation.common.verdict import over_seeds

    common = [name for name in results[0].metrics if all(name in each.metrics for each in results)] if results else []
    values = {name: [float(each.metrics[name]) for each in results] for name in common}
    return {
        "name": results[0].name.rpartition("-s")[0] if results else "",
        "finished": all(each.finished for each in results),
        "seeds": [{"seed": first + offset, **of_run(each)} for offset, each in enumerate(results)],
        "mean": {name: mean(each) for name, each in values.items()},
        "std": {name: stdev(each) if len(each) > 1 else 0.0 for name, each in values.items()},
        "verdict": over_seeds([each.metrics for each in results]),
    }


def of_sweep(result: SweepResult) -> dict[str, Any]:
    """A sweep as it ended, its trials ranked."""
    return {
        "name": result.name,
        "metric": result.metric,
        "against": result.against,
        "run_id": result.run_id,
        "url": result.parent_url,
        "compare": result.url,
        "plots": result.plots,
        "pictures": result.pictures,
        "best": result.best.name if result.best else None,
        "best_config": result.best_config,
        "front": result.front,
        "importance": result.importance,
        "trials": result.trials,
    }


def of_measured(metrics: Mapping[str, float]) -> dict[str, Any]:
    """What evaluations measured and drew."""
    return {"metrics": dict(metrics), "about": getattr(metrics, "about", {}), "pictures": getattr(metrics, "pictures", ())}


def of_curated(done: Curated) -> dict[str, Any]:
    """What was kept of a set by its features."""
    facts = {field.name: getattr(done, field.name) for field in fields(done)}
    return {**facts, "groups": [{"images": count, "names": names} for count, names in done.groups]}


def of_comparison(found: Comparison, plot: Path | None = None) -> dict[str, Any]:
    """Configurations over seeds, best first, and each beside the best."""
    facts = {"rows": found.rows, "left_out": found.left_out, "plot": plot, "url": found.url}
    return {**facts, "differing": found.differing, "further": found.further, "against": found.against}


def of_findings(found: Findings) -> dict[str, Any]:
    """What a check of a method found."""
    checks = [{"check": each.check, "ok": each.ok, "skipped": each.skipped, "wrong": each.wrong} for each in found.findings]
    return {"method": found.method, "preset": found.preset, "ok": found.ok, "checks": checks}
