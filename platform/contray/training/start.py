"""The weights that a run is given from outside: those that its backbone begins with (train.init), and frozen encoders that its method learns from.

The driver reads them before anything is taken, and writes their digests into the config (train.given); every rank reads them itself and is
refused where they are others. A run that has a checkpoint goes on from that: what it began with is not read again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from .. import track
from ..config import RunConfig
from ..config.registry import load_method
from ..config.sections import LIBRARIES
from ..errors import ConfigError, UserError
from ..methods._base import Method
from ..model import backbones, weights
from ..model.frozen import UNTRAINED, check_digest, frozen_of, kept_of
from ..model.laws import command
from ..model.vit import SHAPES
from ..model.weights import HEADS, Given
from ..storage.checkpoint import latest, newest_step
from ..storage.folder import Storage
from .agreement import Ranks
from .records import FOLDER, SEEDS, SWEEP

INIT = "train.init"
T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """What was read for a run that begins; nothing where it goes on. init: of its backbone."""

    init: Given | None = None

    @property
    def network(self) -> dict[str, Any]:
        """Keys backbone.* that the weights tell."""
        return self.init.backbone if self.init else {}

    def words(self, config: RunConfig) -> list[str]:
        """What the backbone begins with. Raises ConfigError, with the command that works, where it does not fit the config's."""
        if self.init is None:
            return []
        try:
            _, told = self.init.state_for(backbones.factory(config)(), config.backbone.name)
            told += self._silent(config)
        except UserError as error:
            flat = config.flat()
            heads = {HEADS: self.init.attention} if self.network.get("backbone.name") in SHAPES else {}
            other = {key: value for key, value in self.network.items() if key != HEADS and flat.get(key, ()) != value}
            if heads and weights.attention(flat | other) != self.init.attention:
                other |= heads
            works = f". It is a {self.network['backbone.name']}, which this takes: {command(config, other)}" if other else ""
            raise ConfigError(INIT, f"{error}{works or f'. {self.init.unknown}' * bool(self.init.unknown)}") from None
        left = self.init.heads()
        count = f"{len(left)} tensors that are no part of it are" if len(left) > 1 else "one tensor that is no part of it is"
        heads = f"{count} left out ({', '.join(left[:3])}{', ...' * (len(left) > 3)})"
        return [str(self.init), *told, *self._unlike(config), *([heads] if left else [])]

    def _unlike(self, config: RunConfig) -> list[str]:
        """That the weights are used to images normalised otherwise than the run's, with the keys of theirs."""
        assert self.init
        theirs, flat = self.init.normalised, config.flat()
        if not theirs or all(flat[key] == value for key, value in theirs.items()):
            return []
        keys = " ".join(f"--{key} {' '.join(f'{each:g}' for each in value)}" for key, value in theirs.items())
        return [f"its images were normalised otherwise than this run's; as there: {keys}"]

    def _silent(self, config: RunConfig) -> list[str]:
        """What was taken of that which no shape tells, in words. Raises UserError where the config's network differs from the weights' in it.

        Heads that a file does not tell are a guess: other ones that are given, and are not the preset's, are taken.
        """
        assert self.init
        ours, theirs = weights.attention(config.flat()), self.init.attention
        norm = self.network.get("backbone.norm", config.backbone.norm)
        if norm != config.backbone.norm and not ours:
            raise UserError(f"{self.init.address}: its norm is {norm}, backbone.norm is {config.backbone.norm}")
        if not (ours and theirs):
            return []
        preset = RunConfig.preset_of(config.method.name, config.method.preset).backbone.heads
        if ours != theirs and not (self.init.guess and config.backbone.heads not in (0, preset)):
            words = f"it is taken for {theirs} heads, which it does not tell" if self.init.guess else f"it has {theirs} heads"
            other = f" (if it has another number, say --{HEADS})" if self.init.guess else ""
            raise UserError(f"{self.init.address}: {words}, and {config.backbone.name} so configured has {ours}{other}")
        return [f"taken as {ours} heads, which the file does not tell"] if self.init.guess else []


def resolved(config: RunConfig) -> RunConfig:
    """The config with runs that are named by name or id in place of their folders."""
    found = {key: _place(key, address, config) for key, address in _asked(config).items()}
    changed = {key: place for key, place in found.items() if place != config.flat()[key]}
    # the same weights by another name
    return config.replace({**changed, "train.given": config.train.given}) if changed else config


def _asked(config: RunConfig) -> dict[str, str]:
    """The addresses of weights in a config, by their keys."""
    return {key: address for key in _keys(config) if (address := config.flat()[key]) and address != UNTRAINED}


def _keys(config: RunConfig) -> tuple[str, ...]:
    return INIT, *(f"method.{name}" for name in load_method(config.method.name).method.guides)


def refuse_searched(config: RunConfig, space: Iterable[str]) -> None:
    """Raises ConfigError where a sweep's space has keys of weights: these are read once, for all trials."""
    for key in {*space} & {*_keys(config), f"{INIT}_layout"}:
        raise ConfigError(key, "no space can search it: given weights are those of all trials; sweep once for each of them")


def _place(key: str, address: str, config: RunConfig) -> str:
    if address.startswith("~"):
        return os.path.expanduser(address)
    if address.startswith(LIBRARIES) or "/" in address or "." in address or Path(address).exists():
        return address
    if re.fullmatch("[0-9a-f]{32}", address):
        uri = track.resolve_uri(config.track.uri)
        track.check(uri, exists=True)
        with track.asking(uri, f"looking for run {address}") as talk:
            folder = talk.get_run(address).data.tags.get(FOLDER, "")
        if not folder:
            raise ConfigError(
                key,
                f"the run {address} has no folder; contray export --run {address} --to safetensors --out FOLDER, and give that",
            )
        return folder
    return f"{config.scale.storage.rstrip('/')}/{address}"


def started(config: RunConfig, folder: Storage | None = None) -> tuple[RunConfig, Start]:
    """The config with the digests of what the run in `folder` was given, or is given now, and what was read for it.

    Raises ConfigError for weights that cannot be read, or are others than train.given says.
    """
    asked = _asked(config)
    kept, known, found = _kept(folder) if folder else {}, kept_of(config), dict[str, str]()
    init = None
    for key, address in asked.items():
        if key in kept:
            found[key] = kept[key]
        elif key == INIT:
            try:
                init = weights.given(address, config.train.init_layout)
            except UserError as error:
                raise ConfigError(key, str(error)) from None
            check_digest(key, init.digest, known.get(key, "").partition(":")[0])
            found[key] = init.digest
        else:
            guide = frozen_of(config)[key.partition(".")[2]]
            guide.net()
            if not guide.map_dim and load_method(config.method.name).method.needs_map(config.method):
                raise ConfigError(key, f"{address} has no feature map, and the method so configured compares its places")
            found[key] = ":".join(map(str, (guide.digest, *guide.dims)))
    given = tuple(f"{key}={value}" for key, value in found.items())
    return config if given == config.train.given else replace(config, train=replace(config.train, given=given)), Start(init)


def _kept(folder: Storage) -> dict[str, str]:
    """What a run that has a checkpoint, or a group of runs, was given."""
    names = folder.names()
    if newest_step(folder) or {SEEDS, SWEEP} & set(names):
        with contextlib.suppress(UserError, UnicodeDecodeError, FileNotFoundError):
            return kept_of(RunConfig.from_yaml(folder.read("config.yaml").decode()))
    state = latest(folder) if newest_step(folder) else None
    return kept_of(RunConfig.from_yaml(state["config"])) if state else {}


def guides_of(config: RunConfig) -> dict[str, str]:
    """The frozen encoders that a method learns from, in words, by the fields that name them."""
    found = {key: kept_of(config).get(key, "").split(":") for key, address in _asked(config).items() if key != INIT}
    return {
        key.partition(".")[2]: f"{config.flat()[key]}, {digest[:12]}: {dims[0]} features, {dims[1]} in each cell of its map"
        for key, (digest, *dims) in found.items()
    }


def marks(config: RunConfig) -> dict[str, str]:
    """What a run was given, and whose code its network is where that is a library's, as its fingerprint has it."""
    library = {"timm": version("timm")} if config.backbone.name.startswith("timm/") else {}
    return library | {f"the weights of {key}": value.partition(":")[0] for key, value in kept_of(config).items()}


def begin(config: RunConfig, ranks: Ranks) -> Given | None:
    """On every rank: the weights that the backbone of a run which begins begins with. Raises RanksDiffer naming the ranks that read others."""

    def read() -> Given:
        init = weights.given(config.train.init, config.train.init_layout)
        check_digest(INIT, init.digest, kept_of(config).get(INIT, ""))
        return init

    return _on_all(ranks, read) if config.train.init else None


def guide(method: Method, ranks: Ranks) -> None:
    """On every rank: open the frozen encoders that a method learns from. Raises RanksDiffer naming the ranks that read others."""
    for each in method.frozen.values():
        _on_all(ranks, lambda each=each: each.net())  # pyright: ignore


def _on_all(ranks: Ranks, read: Callable[[], T]) -> T:
    found, problem = None, ""
    try:
        found = read()
    except UserError as error:
        if ranks.world == 1:
            raise
        problem = f"cannot begin: {error}"
    ranks.refuse(problem)
    assert found is not None
    return found
