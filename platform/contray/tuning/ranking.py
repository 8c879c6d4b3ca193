"""What trials are ranked by: a held-out metric of an evaluation that each ends with."""

from __future__ import annotations

import fnmatch

from .. import data
from ..config import RunConfig
from ..config.evaluations import EvaluationFile, evaluation_names, load_evaluation, ranking
from ..errors import ConfigError, UserError
from ..evaluation.common.run import served_by

UNLABELLED = "rankme"
COSTS = {  # what a trial costs -> whether less of it is better or more, and how it is called
    "seconds": ("min", "training time [s]"),
    "memory_gb": ("min", "memory [GB]"),
    "images_per_second": ("max", "images per second"),
}


def check_metric(metric: str, config: RunConfig, source: data.Source) -> EvaluationFile:
    """The evaluation that gives the metric. Raises UserError or ConfigError where none does that each trial ends with and the data can serve."""
    if not config.eval.final:
        raise ConfigError("eval.final", "names no evaluation, and trials are ranked on what it measures")
    found = ranking(config.eval.final, metric)
    if found is None:
        known = [name for each in config.eval.final for name in load_evaluation(each).metrics]
        other = ranking(evaluation_names(), metric)
        if other:
            mend = f"is of evaluation {other.name}; add that: --eval.final {' '.join((*config.eval.final, other.name))}"
            raise UserError(f"--metric: {metric} {mend}")
        raise UserError(f"--metric: got {metric}, must be {' or '.join(known)}; the test set selects nothing")
    if source.train.labels is None and "labels" in found.needs:
        raise UserError(
            f"data.source: {source.name} has no labels, and {metric} ranks on held-out labels; --metric {UNLABELLED} needs none"
        )
    return found


def online_of(metric: str, config: RunConfig, source: data.Source) -> str:
    """What the scheduler goes by while trials train that are ranked on `metric` at their end: that, if it is measured online, or nothing is; else the first that is."""
    online = served_by(source, config.eval.online)
    if ranking(online, metric) or not config.eval.every_epochs:
        return metric
    known = [name for each in online for name in load_evaluation(each).metrics if "*" not in name]
    return known[0] if known else metric


def rankable(config: RunConfig, metric: str) -> bool:
    """Whether trials of this config could be ranked on a metric."""
    made = dict.fromkeys([*config.eval.final, *config.eval.online])
    return any(fnmatch.fnmatchcase(metric, name) for each in made for name in load_evaluation(each).metrics)


def called(metric: str) -> str:
    """A metric as an axis calls it, with its unit."""
    if metric in COSTS:
        return COSTS[metric][1]
    return "RankMe (effective rank)" if metric == UNLABELLED else f"{metric} [%]" if share(metric) else metric


def share(metric: str) -> bool:
    """Whether a metric is a share in [0, 1], which people read in per cent."""
    return metric.endswith("top1")


def shown(metric: str, value: float) -> str:
    """A value as people read it: a share in per cent, a rank as it is."""
    return f"{100 * value:.1f} %" if share(metric) else f"{value:.1f}" if metric == UNLABELLED else f"{value:.4g}"
