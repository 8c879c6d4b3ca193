"""contray.doctor"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import RunConfig, dotted
from ..errors import UserError

if TYPE_CHECKING:
    from ..machines.findings import Diagnosis

TAKEN = ("scale.", "track.uri", "data.source", "train.device")


def doctor(overrides: Mapping[str, Any] | None = None, *, cluster: str = "", quiet: bool = False) -> Diagnosis:
    """Look at this machine, or at every node of a cluster, for what a run would lack there, each with how to mend it.

        found = contray.doctor({"scale.storage": "s3://bucket/runs", "scale.workers": (4, 8)}, cluster="auto")
        assert found.ok, [each for each in found.findings if each.state == "wrong"]

    overrides: dotted keys scale.*, track.uri, data.source and train.device, as the run will have them. cluster: HOST:PORT of Ray's head, or auto; empty:
    RAY_ADDRESS, else this machine alone. quiet: not a word on stderr of what is being looked at.
    """
    from ..machines.diagnose import diagnose

    given = dotted(overrides)
    for key in given:
        if not key.startswith(TAKEN):
            raise UserError(f"{key}: a look at machines takes scale.*, track.uri, data.source and train.device")
    if cluster:
        given["scale.address"] = cluster
    config = RunConfig.make("simclr", given, preset="digits")
    return diagnose(config, (lambda words: None) if quiet else (lambda words: print(f"looking at {words}", file=sys.stderr)))
