"""A plan: made once, in the driver, before a run of preset `auto` starts; kept with the run, told in ten lines."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import data, model
from ..config import RunConfig
from ..config.registry import load_method
from ..errors import UserError
from ..model.laws import limits_of
from ..storage import sealed
from ..storage.checkpoint import latest, newest_step
from ..storage.folder import Storage
from . import rules
from .cost import Cost, uncounted
from .facts import Images, Machine, look, machine
from .trial import Trial, measure
from .words import duration

KEPT = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What was planned and why. lines: for people; command: what fixes it; cost: as it was measured, None of a plan that was made before."""

    lines: tuple[str, ...]
    command: str
    cost: Cost | None = None

    def __str__(self) -> str:
        return "\n".join(self.lines)


def planned(
    config: RunConfig, source: data.Source, name: str = "", network: Mapping[str, Any] | None = None
) -> tuple[RunConfig, Plan]:
    """The config with all that was left open filled, and why. Measures for some seconds; draws nothing from torch's generator.

    name: of the run's folder, by default the config's own; network: keys backbone.* that the weights which it begins with tell.

    Raises ConfigError where the data lack what the method's views are drawn from, or cannot satisfy its laws.
    """
    data.check_views(source.train, config.views)
    whole, here = look(config, source), machine(config)
    images, side = whole, rules.reading(config, whole, here)
    if side != config.data.shorter_side:
        config = config.replace({"data.shorter_side": side, "train.planned": config.train.planned})
        images = look(config, data.open_source(config))

    def tried(candidate: RunConfig) -> Trial:
        model.check(candidate, images.count)
        return measure(candidate, images)

    found = rules.fit(config, images, here, tried, network)
    fitted = found.config.replace({"train.planned": found.config.train.planned, "train.planned_for": f"{whole}; {here}"})
    return fitted, Plan(told(fitted, found, whole, here, name), command(fitted, name), found.cost)


def keep(folder: Storage, config: RunConfig, plan: Plan) -> tuple[RunConfig, Plan]:
    """Keep a plan in its run's folder, unless one is there already, which counts then: what a run began with it goes on with."""
    if known := adopted(folder, config):
        return known
    sealed.write(folder, KEPT, {"config": config.to_yaml(), "plan": str(plan), "command": plan.command})
    return config, plan


def adopted(folder: Storage, config: RunConfig, samples: int = 0) -> tuple[RunConfig, Plan] | None:
    """The config with the plan that is kept in the folder, or, where that is lost, with what the newest checkpoint was made with; None without either.

    samples: training images that there are, 0: not held against the plan. Raises UserError where it is damaged, or, with no checkpoint whose config
    and data would tell, made for another config or for more or fewer images.
    """
    damaged, kept = None, None
    try:
        kept = sealed.read(folder, KEPT, str, needed=("config", "plan"))
    except sealed.Damaged as error:
        damaged = error
    trained = newest_step(folder) > 0
    if kept is None and trained and (state := latest(folder)):
        kept = {"config": state["config"], "plan": "", "command": command(config)}
    if kept is None and damaged:
        raise UserError(f"{damaged}; there is no checkpoint either: remove it, and a plan is made anew")
    if kept is None:
        return None
    if not trained:
        _check_made_for(f"{folder.address}/{KEPT}", RunConfig.from_yaml(kept["config"]), config, samples)
    before, own = RunConfig.from_yaml(kept["config"]), config.train.planned
    if any(each.partition(".")[0] == "views" for each in own):
        config = dataclasses.replace(config, views=before.views)
    values = {key: value for key, value in before.flat().items() if key in own and key.partition(".")[0] != "views"}
    config = config.replace({**values, "train.planned": own, "train.planned_for": before.train.planned_for})
    return config, Plan(tuple(kept["plan"].splitlines()), kept.get("command", ""))


def _check_made_for(where: str, before: RunConfig, config: RunConfig, samples: int) -> None:
    """Raises UserError where the plan of `before` is none of this config with so many images."""
    mend = "give this run another --track.name, or remove it, and a plan is made anew"
    if before.digest("scale", "track", planned=False) != config.digest("scale", "track", planned=False):
        raise UserError(f"track.name: {where} was planned for another config; {mend}")
    if samples and not before.train.planned_for.startswith(f"{samples:,} "):
        data, _, _ = before.train.planned_for.partition(";")
        raise UserError(f"data.source: {where} was planned for {data}, and {samples:,} train now; {mend}")


def command(config: RunConfig, name: str = "") -> str:
    """What fixes the plan: the same run again, with nothing measured."""
    name = name or config.track.name or config.run_name
    return f"contray train --config {config.scale.storage.rstrip('/')}/{name}/config.yaml"


def told(config: RunConfig, found: rules.Fitted, images: Images, here: Machine, name: str = "") -> tuple[str, ...]:
    """The plan in ten lines."""
    cost, batch, epoch = found.cost, config.train.batch_size, max(images.count // config.train.batch_size, 1)
    steps = config.total_steps(images.count)
    own = _own(config)
    lines = {
        "data": f"{images}",
        "machine": f"{here}{_where(config)}; {duration(cost.budget)} for all, of which the verdict takes about {duration(cost.verdict)}"
        + (f" without {', '.join(others)}, whose time is not known" if (others := uncounted(config)) else "")
        + (": more than there is, so that the whole takes longer" if cost.before + cost.verdict > cost.budget else ""),
        "network": f"{_network(config)}: {_network_why(found, here)}",
        "images": f"{_sizes(config)}: {_size_why(config, images, here)}",
        "batch": f"{batch} images: {_batch_why(found, batch, images)}",
        "length": f"{steps:,} steps, {steps / epoch:.3g} epochs: {found.why.get('steps', 'as you gave it')}",
        "rate": f"{config.optim.name}, {config.optim.lr:g} per 256 images, warm-up of {config.optim.warmup_epochs:g} epochs: "
        f"that of the {found.choice.family.preset} preset, for this batch and length",
        "method": f"{own or 'as its preset has it'}: within what {images.count:,} images and {steps:,} steps allow",
        "measured": f"every {config.eval.every_epochs:g} epochs on at most {config.eval.online_limit:,} images: a twentieth of the time at most",
        "fix it": command(config, name),
    }
    return tuple(f"{name:<9}{text}" for name, text in lines.items())


def _where(config: RunConfig) -> str:
    own = config.scale.workers == (0, 0) and config.fills("scale.workers")
    return ", in this process (no Ray to start)" if own else ""


def _network(config: RunConfig) -> str:
    net = config.backbone
    if net.name.startswith("vit"):
        return f"{net.name}{f' of width {net.width}' if net.name == 'vit_mini' else ''}, patches of {net.patch} px"
    return f"{net.name} of width {net.width}, stem {net.stem}" if net.name.startswith("resnet") else net.name


def _network_why(found: rules.Fitted, here: Machine) -> str:
    kind = {"cpu": "these cores", "cuda": "this GPU"}[here.kind]
    if "backbone.name" not in found.config.train.planned:
        return "as you gave it"
    if found.config.train.init:
        return f"that of {found.config.train.init}, which it begins with"
    if found.choice.family.name == "short" and found.choice.wider == 1:
        return f"a larger one would see too few images in the time on {kind}"
    return f"the largest that sees enough images in the time on {kind}"


def _sizes(config: RunConfig) -> str:
    drawn = Counter[tuple[int, str]]()
    for view in config.views.values():
        drawn[view.size, view.kind] += view.count
    kinds = {"image": "", "patches": " in patches"}
    return " and ".join(f"{count} x {size} px{kinds[kind]}" for (size, kind), count in drawn.items() if kind in kinds) or "none"


def _size_why(config: RunConfig, images: Images, here: Machine) -> str:
    read = f"; photos are read at {config.data.shorter_side} px" if config.data.shorter_side else ""
    if "views" not in config.train.planned:
        return f"as you gave it{read}"
    if max((view.size for view in config.views.values()), default=0) >= 0.8 * images.side:
        return "as large as they are"
    return (
        "a step takes four times as long at twice the side"
        + (", on a CPU 64 px is the most" if here.kind == "cpu" else "")
        + read
    )


def _batch_why(found: rules.Fitted, batch: int, images: Images) -> str:
    if "train.batch_size" not in found.config.train.planned:
        return "as you gave it"
    usual = int(found.choice.family.settings.get("train.batch_size", 256))
    return f"that of the {found.choice.family.preset} preset" if batch >= usual else f"a third of {images.count} at most"


def _own(config: RunConfig) -> str:
    """The method's numbers that follow from data and length."""
    limits = limits_of(config, 10**9, config.train.batch_size)
    names = [
        *limits,
        *(["momentum"] if load_method(config.method.name).paper.ema != "no" and hasattr(config.method, "momentum") else []),
    ]
    specs = {spec.name: spec.metadata.get("unit") for spec in dataclasses.fields(config.method)}
    names += [
        name for name, unit in specs.items() if unit in ("steps", "epochs") and getattr(config.method, name) and name not in names
    ]
    return ", ".join(f"{name} {getattr(config.method, name):g}" for name in names)
