"""The look itself: at this machine, or at every node of the cluster, all at once."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import track
from ..config import RunConfig
from ..errors import ConfigError, UserError
from ..planning.facts import cluster_of
from ..processors import processors
from ..storage.folder import Storage
from ..storage.logins import remembered, scrubbed
from ..training.nodes import Node, demand, nodes, room_for, words
from ..training.ray_train import check_cluster, ray_session
from . import checks, probe
from .findings import Diagnosis, Finding, ordered

ANSWER_SECONDS = 90.0  # that a node may take for one answer: its first imports torch
HERE = "this machine"
JOB = "/working_dir_files/"  # within the path of a job's copy of its working directory
ASKED = 5  # times that a clock is read: the quickest answer counts
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """A node that is looked at: how it is asked, and where others reach it."""

    name: str
    ask: Callable[..., Any]  # (what, *arguments) -> a promise
    host: str


def diagnose(config: RunConfig, say: Say = lambda words: None) -> Diagnosis:
    """Look at the cluster of the config, at this machine where it names none. say: hears what is looked at."""
    began, address = time.monotonic(), cluster_of(config)
    if not address:
        examiner = probe.Examiner()
        here = Asked(HERE, lambda what, *given: getattr(examiner, what)(*given), "127.0.0.1")
        findings = [Finding("cluster", "ok", "none is named (--cluster, RAY_ADDRESS): this machine alone")]
        findings += _looked(config, [here], lambda promises: promises, {}, say)
        findings += _demanded(config, [Node("here", "this machine", resources := _own_resources(), resources)])
        return Diagnosis(ordered(findings), 1, time.monotonic() - began)
    try:
        check_cluster(address)
        elsewhere = config.replace({"scale.storage": tempfile.gettempdir()})  # it would be refused for what is to be looked at
        with ray_session(elsewhere, logs=False):
            there = _told_apart(nodes())
            asked = _started(there)
            counted = {node.name: float(node.total.get("GPU", 0)) for node in there}
            silent = [node.name for node in there if node.name not in {each.name for each in asked}]
            findings = [_answers(address, asked)] + [_silent(name) for name in silent]
            findings += _looked(config, asked, _gathered, counted, say)
            findings += _demanded(config, there)
            return Diagnosis(ordered(findings), len(there), time.monotonic() - began)
    except UserError as error:
        mend = "start it (ray start --head), run this on one of its nodes or as a job, and copy ~/.ray/auth_token of its head (mode 600)"
        return Diagnosis([Finding("cluster", "wrong", str(error), "", mend)], 0, time.monotonic() - began)


# ---------------------------------------------------------------- asking


def _told_apart(there: list[Node]) -> list[Node]:
    """Nodes of one machine bear its name: their ids tell them apart."""
    names = [node.name for node in there]
    return [node if names.count(node.name) == 1 else replace(node, name=f"{node.name} {node.id[:6]}") for node in there]


def _started(there: list[Node]) -> list[Asked]:
    """An examiner on every node, of those that start one in time."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(probe)
    remote: Any = ray.remote(num_cpus=0, max_restarts=0)(probe.Examiner)
    actors = {
        node.name: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote()
        for node in there
    }
    addresses = {each["NodeID"]: each["NodeManagerAddress"] for each in ray.nodes()}
    hosts = {node.name: addresses[node.id] for node in there}
    up = _gathered({name: actor.now.remote() for name, actor in actors.items()})

    def ask(actor: Any) -> Callable[..., Any]:
        return lambda what, *given: getattr(actor, what).remote(*given)

    return [Asked(name, ask(actors[name]), hosts[name]) for name, answer in up.items() if not isinstance(answer, Exception)]


def _gathered(promises: Mapping[str, Any]) -> dict[str, Any]:
    """What the nodes said; an exception in the place of what did not come in time."""
    import ray

    if promises:
        ray.wait(list(promises.values()), num_returns=len(promises), timeout=ANSWER_SECONDS)
    found: dict[str, Any] = {}
    for name, promise in promises.items():
        try:
            found[name] = ray.get(promise, timeout=0.1)
        except Exception as error:
            found[name] = error
    return found


def _looked(
    config: RunConfig, asked: list[Asked], gathered: Callable[[Mapping[str, Any]], Mapping[str, Any]], counted: Mapping[str, float], say: Say
) -> list[Finding]:  # fmt: skip
    def each(what: str, *given: Any) -> dict[str, Any]:
        """The answer of every node; a node that gives none is left out of this look and named."""
        answers = gathered({one.name: one.ask(what, *given) for one in asked})
        for name, answer in answers.items():
            if isinstance(answer, Exception):
                dead[name] = f"{what}: {type(answer).__name__}"
        return {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}

    dead: dict[str, str] = {}
    source = config.data.source
    path = str(Path(source).absolute()) if os.path.exists(source) else ""
    say("versions, GPUs, limits")
    facts = each("facts", path)
    found = [*checks.versions(facts), *checks.gpus(facts, counted), *checks.data(source, facts), *checks.limits(facts)]
    say("clocks and network")
    found += checks.clocks(_clocks(asked, gathered))
    found += checks.network(facts, _unreached(asked, gathered))
    say("storage")
    each("know", remembered())
    found += _stored(config, asked, gathered, dead)
    say("MLflow")
    uri = track.resolve_uri(config.track.uri)
    if JOB in uri:
        found.append(Finding("MLflow", "wrong", f"{uri} lies in the job's own folder, which Ray deletes", "", checks.SERVER))
    apart = track.sqlite_path(uri) is not None and len(asked) > 1
    troubles: dict[str, str] = {} if apart else each("tracking", uri)
    if asked and asked[0].name != HERE and not apart:  # a node's environment has its own login, and so has this process's
        troubles = {"this process": probe.Examiner().tracking(uri), **troubles}
    found += checks.tracking(scrubbed(uri), apart, troubles)
    found += [
        Finding("cluster", "wrong", f"no answer ({what})", name, "look at the node's memory and at Ray's logs there")
        for name, what in dead.items()
    ]
    return found


def _clocks(asked: list[Asked], gathered: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Of each node: seconds ahead of this process's clock, and how far that may be wrong."""
    best: dict[str, tuple[float, float]] = {}
    for one in asked:
        for _ in range(ASKED):
            began = time.time()
            answer = gathered({one.name: one.ask("now")})[one.name]
            ended = time.time()
            if isinstance(answer, Exception):
                break
            unsure = (ended - began) / 2
            if one.name not in best or unsure < best[one.name][1]:
                best[one.name] = answer - (began + ended) / 2, unsure
    return best


def _unreached(asked: list[Asked], gathered: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    if len(asked) < 2:
        return {}
    ports = gathered({one.name: one.ask("listen") for one in asked})
    places = {one.name: (one.host, ports[one.name]) for one in asked if not isinstance(ports[one.name], Exception)}
    promises = {one.name: one.ask("reach", {name: place for name, place in places.items() if name != one.name}) for one in asked}
    return {name: answer for name, answer in gathered(promises).items() if not isinstance(answer, Exception)}


def _stored(
    config: RunConfig, asked: list[Asked], gathered: Callable[[Mapping[str, Any]], Mapping[str, Any]], dead: dict[str, str]
) -> list[Finding]:
    """The driver leaves a file, every node looks for it and writes one of its own, and the driver looks for those."""
    mark = secrets.token_hex(4)
    token, own = f".doctor-{mark}", {one.name: f".doctor-{mark}-{i}" for i, one in enumerate(asked)}
    try:
        place = Storage(config.scale.storage)
        if JOB in place.address:
            return [
                Finding("storage", "wrong", f"{place.address} lies in the job's own folder, which Ray deletes", "", checks.SHARED)
            ]
        made = not (place.local and Path(place.root).exists())
        place.create()
        place.write(token, b"contray doctor")
    except Exception as error:  # of any store
        words = f"{scrubbed(config.scale.storage)}: {scrubbed(' '.join(str(error).split())[:300])}"
        return [
            Finding(
                "storage",
                "wrong",
                words,
                "this process",
                "look at --scale.storage, its rights or its login (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL)",
            )
        ]
    address = place.root if place.local else config.scale.storage
    try:
        answers = gathered({one.name: one.ask("storage", address, token, own[one.name], place.local) for one in asked})
        looks = {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}
        dead.update({name: "storage" for name in answers.keys() - looks.keys()})
        there = set(place.names())
        looks = {
            name: {**look, **({"error": scrubbed(look["error"])} if look.get("error") else {})} for name, look in looks.items()
        }
        return [*checks.storage(place.address, place.local, looks, {name for name in looks if own[name] in there})]
    finally:
        for name in (token, *own.values()):
            with contextlib.suppress(Exception):  # of any store; what cannot be removed has been found wrong above
                place.remove(name)
        if made and place.local:
            with contextlib.suppress(OSError):
                Path(place.root).rmdir()


# ---------------------------------------------------------------- what a run would ask for


def _demanded(config: RunConfig, there: list[Node]) -> list[Finding]:
    try:
        asked = demand(config, there)
    except ConfigError as error:
        return [
            Finding("demand", "wrong", str(error), "", "ask for less, or add nodes; `contray train --help scale` names the keys")
        ]
    (least, most), room, free = (
        config.scale.workers,
        room_for([node.total for node in there], asked),
        room_for([node.free for node in there], asked),
    )
    least, most = max(least, 1), max(most, 1)
    said = f"{least} to {most} workers" if most > least else f"{most} worker{'s' * (most > 1)}"
    found = f"{said} of {words(asked)}; the cluster has room for {room}, for {free} now"
    if room < least:
        return [Finding("demand", "odd", f"{found}: a run waits for nodes that the autoscaler adds", "", "")]
    if free < least:
        return [Finding("demand", "odd", f"{found}: a run would wait for others to end", "", "`ray status` says who uses it")]
    return [Finding("demand", "ok", found)]


def _own_resources() -> dict[str, float]:
    gpus = len(probe.gpus())
    return {"CPU": float(processors()), **({"GPU": float(gpus)} if gpus else {})}


def _answers(address: str, asked: list[Asked]) -> Finding:
    return Finding("cluster", "ok", f"{address} answers, and {len(asked)} node{'s' * (len(asked) != 1)} of it")


def _silent(name: str) -> Finding:
    return Finding(
        "cluster",
        "wrong",
        f"starts no process within {ANSWER_SECONDS:.0f} s",
        name,
        "look at Ray's logs there (/tmp/ray/session_latest/logs)",
    )
