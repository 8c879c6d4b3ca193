"""`--dry-run`: what a run would be, what it would cost, and nothing started."""

from __future__ import annotations

from .. import data, model
from ..config import RunConfig
from ..errors import ConfigError
from ..evaluation.common.samples import check_measurable
from ..planning import estimate, planned, refuse
from ..tables import hanging
from ..training.ray_train import cluster_of
from .output import show


def describe(config: RunConfig, *, whole: bool = False) -> tuple[RunConfig, dict[str, str]]:
    """Print what follows from a config, and give it resolved with the same facts; a plan is made where one is to be. `whole`: all keys as YAML too."""
    source, cost = data.announced(config), None
    if config.unplanned:
        config, plan = planned(config, source)
        cost = plan.cost
        show(hanging(str(plan), 9))
    model.check(config, len(source.train))
    data.check_views(source.train, config.views)
    check_measurable(config, source)
    found = estimate(config, source, cost)
    if whole:
        print(found.config.to_yaml())
    show("dry run: nothing was started", hanging(str(found), 21))
    facts = dict(found.facts)
    if not cluster_of(config):  # whose memory is not that of this machine
        try:
            refuse(found)
        except ConfigError as error:
            facts["refused"] = str(error)
            show(hanging(f"{'refused':<21}{error}", 21))
    return found.config, facts
