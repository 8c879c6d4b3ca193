"""What a study would do, without doing it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..tables import Table
from .claims import spoken
from .listing import shipped
from .rounds import at_once_of
from .study import StudyPlan, plan


def outlook(name: str, overrides: Mapping[str, Any], *, scale: str, seeds: int, jobs: int) -> list[dict[str, Any]]:
    """Of each study its arms with what they set, the seeds that there are and that are left, the minutes; name "all": of all that have the scale,
    and why one cannot be run is said.
    """
    if name != "all":
        return [_told(plan(name, overrides, scale=scale, seeds=seeds, jobs=jobs))]
    found = []
    for study in shipped():
        try:
            if scale in study.scales:
                found.append(_told(plan(study.name, overrides, scale=scale, seeds=seeds, jobs=jobs)))
        except UserError as error:
            print(f"contray: left out: {error}", file=sys.stderr)
    if not found:
        raise UserError(f"--scale: no study can run at the scale {scale}")
    return found


def _told(plan: StudyPlan) -> dict[str, Any]:
    at_once = at_once_of(plan.config, plan.jobs)
    settings, pace, minutes = plan.study.settings(plan.scale), plan.pace, plan.minutes(at_once)
    arms = [
        {
            "arm": arm,
            "settings": settings[arm],
            "there": [each.seed for each in plan.runs if each.arm == arm and each.signature in plan.known],
            "left": [each.seed for each in plan.runs if each.arm == arm and each.signature not in plan.known],
            "minutes_a_run": pace.of(arm),
        }
        for arm in settings
    ]
    facts = {"study": plan.study.name, "scale": plan.scale, "claim": plan.study.claim, "source": plan.study.source}
    return {
        **facts,
        "arms": arms,
        "runs_left": len(plan.todo),
        "at_once": at_once,
        "minutes": minutes,
        "cost": plan.study.cost.get(plan.scale, ""),
    }


def table_of(found: Mapping[str, Any]) -> list[Table | str]:
    """An outlook, shown."""
    table = Table(
        f"{found['study']} at scale {found['scale']}: {found['claim']}",
        "arm",
        "sets",
        "runs there",
        "left",
        "min a run",
        left=(0, 1),
    )
    for each in found["arms"]:
        sets = ", ".join(f"{key}={value}" for key, value in each["settings"].items())
        table.add(spoken(each["arm"]), sets, str(len(each["there"])), str(len(each["left"])), _minutes(each["minutes_a_run"]))
    takes = f"about {_minutes(found['minutes'])} min, {found['at_once']} at once" if found["runs_left"] else "nothing to make"
    cost = found["cost"] if isinstance(found["cost"], str) else f"{found['cost']} minutes of one core"
    return [
        table,
        f"{found['runs_left']} runs left: {takes}" + (f" (the study's file says: {cost})" if cost else ""),
        f"the claim is of {found['source']}",
    ]


def _minutes(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "?"
