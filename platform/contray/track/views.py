"""What MLflow's pages show when a link of ours opens them: which columns, which charts, in which order.

MLflow keeps such a view as a tag of the experiment, `mlflow.sharedViewState.KEY`, lists it under "Views", and opens it where a link carries
`viewStateShareKey=KEY`. A key here holds the digest of its view: links of today open what they did when another version shows other columns.
A server that lets nobody set tags of experiments is no failure: links then open the pages as MLflow has them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from .links import compare_url, experiment_url
from .store import TrackingError, asking

TAG = "mlflow.sharedViewState."
NAME, WHEN = {"attributes.`Run Name`": 290}, {"attributes.`Created`": 125}
COLUMNS = {  # MLflow's name of a column -> its width in px
    **NAME,
    **WHEN,
    "tags.`contray.method`": 115,
    "tags.`contray.preset`": 110,
    "attributes.`Dataset`": 140,
    "metrics.`knn_top1`": 80,
    "metrics.`linear_top1`": 90,
    "metrics.`knn_gain`": 80,
    "metrics.`linear_gain`": 90,
    "attributes.`Duration`": 75,
}
IDS = {
    "attributes.`Duration`": "duration",
    "attributes.`Created`": "runDateAndNestInfo",
}  # where MLflow keeps place and width under another name
GEOMETRY = (
    *("rankme", "rankme_share", "alignment", "uniformity", "feature_std"),
    *("positive_similarity", "negative_similarity", "effective_temperature"),
)
SECTIONS: dict[str, Sequence[str]] = {  # heading -> metrics
    "Loss and schedule": ("loss", "lr", "contrast_top1"),
    "Held-out images while training": ("knn_val_top1", "linear_val_top1"),
    "Geometry of the features": GEOMETRY,
    "Test images": ("knn_top1", "linear_top1", "knn_gain", "linear_gain"),
    "Model metrics": (),  # MLflow's heading of what stands nowhere: parts of a method's loss, further evaluations
    "Throughput and gradients": ("images_per_second", "grad_norm"),
    "System metrics": (),  # MLflow's of system/*
}
FOLDED: dict[str, Sequence[str]] = {
    "grad_norm": (),  # MLflow's of grad_norm/LAYER
    "Untrained encoder and raw pixels": (
        *(
            f"{who}_{name}"
            for who in ("random", "pixels")
            for name in ("knn_top1", "linear_top1", "knn_val_top1", "linear_val_top1")
        ),
        *(f"random_{name}" for name in GEOMETRY),
    ),
    "What the numbers stand on": (
        *("fit_images", "val_images", "test_images", "test_images_broken"),
        *(f"{who}_{what}_gain_error" for who in ("random", "pixels") for what in ("knn", "linear")),
    ),
}
_said: set[str] = set()  # stores whose refusal was told


def runs_url(uri: str, experiment_id: str, address: str = "", charts: bool = False) -> str:
    """The table of all runs with method, preset, data, accuracies, gains and duration, or their charts in sections. address: where the pages are served."""
    view = _kept(uri, experiment_id, "contray", "contray: runs", runs_view())
    return experiment_url(address or uri, experiment_id, view, charts)


def sweep_url(
    uri: str, experiment_id: str, parent_id: str, metric: str, keys: Sequence[str], online: str = "", against: str = ""
) -> str:
    """The trials of a sweep, best first, `metric` over all searched keys; without views, the page that compares the first few runs."""
    name = f"contray: sweep {parent_id[:8]}"
    view = _kept(uri, experiment_id, f"sweep-{parent_id[:8]}", name, sweep_view(parent_id, metric, keys, online, against))
    return experiment_url(uri, experiment_id, view, charts=True)


def compared_url(uri: str, experiments: Sequence[str], run_ids: Sequence[str]) -> str:
    """These runs alone in the table of `runs_url`; of several experiments, or where there are more than a link can hold, MLflow's comparison of them."""
    if len(experiments) == 1 and len(run_ids) <= 100:
        which = f"attributes.run_id IN ({', '.join(map(repr, run_ids))})"
        view = _kept(uri, experiments[0], "compare", f"contray: {len(run_ids)} runs", {**runs_view(), "searchFilter": which})
        if view:
            return experiment_url(uri, experiments[0], view)
    return compare_url(uri, experiments, run_ids)


# ---------------------------------------------------------------- what is shown


def runs_view() -> dict[str, Any]:
    """The table of runs and, one click away, their charts."""
    headings = {**dict.fromkeys(SECTIONS, True), **dict.fromkeys(FOLDED, False)}
    charts = [_chart(name, heading) for heading, names in {**SECTIONS, **FOLDED}.items() for name in names]
    return {**_columns(COLUMNS), **_sections(headings), "compareRunCharts": charts}


def sweep_view(parent_id: str, metric: str, keys: Sequence[str], online: str = "", against: str = "") -> dict[str, Any]:
    """The trials of a sweep, the best first: `metric` over all searched keys, and `against` beside it, in parallel coordinates, then curves; in the
    table, the same columns.
    """
    parallel = {
        "type": "PARALLEL", "uuid": "parallel", "runsCountToCompare": 10, "metricSectionId": "Trials", "deleted": False, "isGenerated": False,
        "selectedParams": list(keys), "selectedMetrics": [*([against] if against else []), metric], "showAllRuns": True,
    }  # fmt: skip
    curves = [name for name in dict.fromkeys([metric, online, "loss"]) if name]
    widths = (
        NAME
        | {f"metrics.`{name}`": 120 for name in (*curves[:-1], against) if name}
        | {f"params.`{key}`": 160 for key in keys}
        | {"attributes.`Duration`": 85}
    )
    headings = {"Trials": True, "Curves": True, **dict.fromkeys(["Model metrics", "grad_norm", "System metrics"], False)}
    return {
        **_columns(widths),
        **_sections(headings, {"Trials": {"columns": 1, "cardHeight": 420}}),
        "compareRunCharts": [parallel, *(_chart(name, "Curves") for name in curves)],
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_id}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
    }


def _columns(widths: Mapping[str, int]) -> dict[str, Any]:
    ids = {IDS.get(name, name): width for name, width in widths.items()}
    return {"selectedColumns": list(widths), "columnOrder": list(ids), "columnWidths": ids}


def _sections(opened: Mapping[str, bool], more: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, Any]:
    sections = [
        {"uuid": name, "name": name, "display": shows, "isReordered": False, "deleted": False, "isGenerated": True, **(more or {}).get(name, {})}
        for name, shows in opened.items()
    ]  # fmt: skip
    return {"compareRunSections": sections, "isAccordionReordered": True, "hideEmptyCharts": True}


def _chart(metric: str, section: str) -> dict[str, Any]:
    """A bar for each run; MLflow makes lines of it where the metric has several steps."""
    return {
        "type": "BAR", "uuid": metric, "runsCountToCompare": 10, "metricSectionId": section, "deleted": False, "isGenerated": True,
        "metricKey": metric, "displayName": metric,
    }  # fmt: skip


# ---------------------------------------------------------------- where it is kept


def _kept(uri: str, experiment_id: str, key: str, name: str, view: Mapping[str, Any]) -> str:
    """The key under which the experiment has the view, which is set where it is missing; empty where that is refused, which is said once."""
    text = json.dumps(view, separators=(",", ":"))
    key = f"{key}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    try:
        with asking(uri, "keeping what its pages show") as talk:
            if TAG + key not in talk.get_experiment(experiment_id).tags:
                now = int(time.time() * 1000)
                state = "deflate;" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
                view_ = {"name": name, "createdAt": now, "updatedAt": now, "state": state}
                talk.set_experiment_tag(experiment_id, TAG + key, json.dumps(view_))
    except TrackingError as error:
        if uri not in _said:
            _said.add(uri)
            print(f"contray: links open MLflow's pages as they are ({error})", file=sys.stderr, flush=True)
        return ""
    return key
