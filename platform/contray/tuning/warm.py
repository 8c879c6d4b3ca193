"""What an earlier sweep found, before a new one begins."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import data, track
from ..config import WRITTEN, RunConfig
from ..config.registry import evaluation_code, method_code, own_code
from ..errors import ConfigError, UserError
from ..track.run import PARAM_CHARS
from ..track.runs import children, find_run
from ..training.start import marks
from .domains import distribution
from .ranking import COSTS

GIVEN, CONDITIONS = "contray.given_digests", "contray.conditions"  # tags of a sweep
TRIED = 3  # of the earlier sweep's best trials, where its numbers are no measure here


@dataclass(frozen=True)
class Warm:
    """told: Optuna's trials with their values, from which it goes on; tried: parameters to begin with; words: what there was of which sweep."""

    run_id: str = ""
    told: Sequence[Any] = ()
    tried: Sequence[Mapping[str, Any]] = ()
    words: str = ""


def identity(config: RunConfig, source: data.Source, concurrent: int) -> dict[str, str]:
    """Tags of a sweep by which a later one knows whether its numbers are its own: digests of data, code and weights, and what costs depend on."""
    given = data.fingerprint(source, config.data) | own_code(config) | evaluation_code(config) | marks(config)
    given["the method's code"] = method_code(config.method.name)
    digests = {name: value[:16] for name, value in sorted(given.items())}
    return {GIVEN: json.dumps(digests), CONDITIONS: f"{socket.gethostname()}, --concurrent {concurrent}"}


def warm(
    run: str, uri: str, config: RunConfig, space: Mapping[str, Any], metrics: Sequence[str], tags: Mapping[str, str]
) -> Warm:
    """Of the finished sweep of that id or name. Its trials are told to Optuna where they differ from `config` in searched keys and the seed alone,
    and are of the same data and code; else (other data, more steps) their numbers would mislead, and the best of them are tried first (Feurer et
    al. 2015, https://doi.org/10.1609/aaai.v29i1.9354). Costs are compared on the same machine and with as many trials at once alone.

    tags: this sweep's `identity`. metrics: what is searched for, the first to be large. A key that the earlier sweep did not search has the value
    that it had there. Raises UserError for what is no sweep, has no searched key in common, or no finished trial with these metrics in this space.
    """
    import optuna

    with track.asking(uri, f"reading sweep {run}") as talk:
        parent = find_run(talk, uri, run)
        name = parent.data.tags.get("contray.name") or parent.info.run_name or parent.info.run_id
        if parent.data.tags.get("contray.kind") != "sweep":
            raise UserError(f"--warm: {name} is no sweep; name one by its id or name")
        trials = [each.data for each in children(talk, parent) if each.info.status == "FINISHED"]
    searched = sorted({key.removeprefix("best.") for key in parent.data.params if key.startswith("best.")})
    if not set(searched) & space.keys():
        raise UserError(f"--warm: {name} searched {', '.join(searched) or 'nothing'}; this space searches {', '.join(space)}")
    trials = [each for each in trials if all(math.isfinite(each.metrics.get(metric, math.nan)) for metric in metrics)]
    domains, found = {key: distribution(domain) for key, domain in space.items()}, list[tuple[Any, set[str]]]()
    for each in trials:
        try:
            params = {key: config.replace({key: each.params[key]}).flat()[key] for key in space}
            values = [each.metrics[metric] for metric in metrics]
            made = optuna.trial.create_trial(params=params, distributions=domains, values=values)
        except (ConfigError, ValueError, KeyError):  # outside of this space
            continue
        found.append((made, _differing(each.params, config, space)))
    if not found:
        raise UserError(f"--warm: {name} has no finished trial in this space with {' and '.join(metrics)}")
    others = sorted(set[str]().union(*(differs for _, differs in found)) | _foreign(parent.data.tags, tags, metrics))
    whole = f"{len(found)} of the {len(trials)} finished trials of {name}"
    if not others:
        return Warm(parent.info.run_id, [made for made, _ in found], (), f"{whole} are known to the search")
    best = sorted((made for made, _ in found), key=lambda made: -made.values[0])[:TRIED]
    words = f"the best {len(best)} of {whole} are tried first; their numbers count for nothing, as {', '.join(others)} differ"
    return Warm(parent.info.run_id, (), [made.params for made in best], words)


def _differing(params: Mapping[str, str], config: RunConfig, space: Mapping[str, Any]) -> set[str]:
    """The keys that decide what is computed, the searched ones and the seed aside, in which a trial differs from `config`."""
    settled = params.get("train.settled", "")
    return {
        key
        for key, value in config.flat().items()
        if key not in (*space, *WRITTEN, "seed", *config.train.settled)
        and not config.free(key)
        and not key.startswith(("scale.", "track."))
        and f"'{key}'" not in settled
        and params.get(key, str(value)) != str(value)[:PARAM_CHARS]
    }


def _foreign(theirs: Mapping[str, str], ours: Mapping[str, str], metrics: Sequence[str]) -> set[str]:
    """What of data, code and, for costs, conditions is another there, or not known."""
    before, now = (json.loads(tags.get(GIVEN, "{}")) for tags in (theirs, ours))
    differs = {name for name in before | now if before.get(name) != now.get(name)}
    if set(metrics) & COSTS.keys() and theirs.get(CONDITIONS) != ours[CONDITIONS]:
        differs.add(f"the machine or --concurrent ({theirs.get(CONDITIONS, 'unknown')})")
    return differs if before else {"data and code (unknown)", *(differs - now.keys())}
