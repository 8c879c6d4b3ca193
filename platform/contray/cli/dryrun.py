"""`--dry-run`: what a run would be, what it would cost, and nothing started."""

from __future__ import annotations

from .. import data
from ..config import RunConfig
from ..errors import UserError
from ..planning import estimate, planned, refuse
from ..tables import hanging
from ..training.launch import waiting
from ..training.preflight import check_config
from ..training.ray_train import cluster_of
from ..training.start import guides_of, resolved, started
from .output import show


def describe(config: RunConfig, seeds: int = 1) -> tuple[RunConfig, dict[str, str]]:
    """Print what follows from a config, and give it resolved with the same facts; a plan is made where one is to be. seeds: how many runs it is."""
    config = resolved(config)
    source, cost = data.announced(config), None
    config, start = started(config)
    if config.unplanned:
        config, plan = planned(config, source, network=start.network)
        cost = plan.cost
        lines = [line for line in plan.lines if not line.startswith("fix it")]  # by the config of a run, which there is not
        lines.append("keep it  the same with --dry-run --show-config > config.yaml, then contray train --config config.yaml")
        show(hanging("\n".join(lines), 9))
    begins = start.words(config)
    check_config(config, source)
    found = estimate(config, source, cost, seeds)
    facts = dict(found.facts)
    facts |= {"begins with": "; ".join(begins)} if begins else {}
    facts |= {f"given as {key}": value for key, value in guides_of(config).items()}
    try:
        facts |= {"there": there} if (there := waiting(found.config, source)) else {}
    except UserError as error:
        facts["refused"] = str(error)
    show("dry run: nothing was started", hanging("\n".join(f"{name:<21}{text}" for name, text in facts.items()), 21))
    if not cluster_of(config):  # whose memory is not that of this machine
        try:
            refuse(found)
        except UserError as error:
            facts["refused"] = str(error)
            show(hanging(f"{'refused':<21}{error}", 21))
    return found.config, facts
