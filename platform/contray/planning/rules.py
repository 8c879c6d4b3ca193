"""The rules of preset `auto`: from facts of data and machine, and measured costs, to a config that works and fits its budget.

A method's own presets say what short runs, small images and the paper take (contray.config.auto); the rules choose among these families and
fit what depends on the data, the machine and the number of steps. Each rule has its reason beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import RunConfig
from ..config.auto import Family, families
from ..config.registry import MethodFile, load_method
from ..methods._base import View
from ..model.laws import numbers, power_below
from .cost import Cost
from .facts import Images, Machine, cluster_of
from .trial import Trial

SIZES = (32, 48, 64, 96, 128, 160, 192, 224)  # px: whole patches for transformers, whole halvings for residual nets
CPU_SIZES = (32, 64)  # at 96 px and more a core sees a few dozen images a second
SHORTEST = 600  # steps: what the presets for short runs were tuned at; a set is shown for as many, however small it is
MOST_EPOCHS = 400  # by then a set has shown most of what its random crops hold: papers stop at 100 to 1000
SPARE = 2.5  # times the drawn size that photos are read at: a crop of a sixth of the area is still not enlarged
STEM = (
    64  # px up to which a residual net keeps its first layers at full resolution (stem cifar): 2 x 2 features at the end need it
)
NEEDS = {
    "short": 0,
    "small": 1_500_000,
    "paper": 8_000_000,
}  # samples below which a family's network learns less than the one before
HEAVIER = {"short": 1.0, "small": 30.0, "paper": 60.0}  # a ResNet-18 or ResNet-50 against a ResNet of width 16, at one size
LARGER = 20_000  # samples that must be left at a larger image: 300 steps of 64
WIDER = 400_000  # samples that must be left for a network twice as wide
EVALUATIONS, SHARE = 10, 0.05  # while training: at most so many, at most this share of the time
WARMUP = 0.08  # of the run: as the presets for short runs, 45 of 600 steps
SEEN = {
    "short": 5752,
    "small": 50_000,
    "paper": 1_281_167,
}  # images that the family's presets were made for: digits, CIFAR, ImageNet


@dataclass(frozen=True)
class Choice:
    """What a candidate is: a family at an image size, its network some times as wide. size 0: as the config says."""

    family: Family
    size: int
    wider: int = 1


@dataclass(frozen=True)
class Fitted:
    """A planned config, what it will cost, and the reasons, by what they are of."""

    config: RunConfig
    choice: Choice
    cost: Cost
    why: Mapping[str, str]


def fit(
    config: RunConfig,
    images: Images,
    machine: Machine,
    measure: Callable[[RunConfig], Trial],
    fixed: Mapping[str, Any] | None = None,
) -> Fitted:
    """The config that fits. measure: the costs of a config, by a trial; it is asked for a few candidates, modest ones first.

    fixed: keys backbone.* that the weights which the run begins with tell.
    """
    fixed = {key: value for key, value in (fixed or {}).items() if key in config.train.planned}
    file = load_method(config.method.name)
    config = _replaced(config, {"scale.workers": workers(config, machine)})
    choices = [each for each in candidates(config, file, images, machine) if not fixed or each.wider == 1]

    def tried(choice: Choice) -> tuple[RunConfig, Cost, float]:
        dressed = dress(config, file, choice, images, fixed)
        cost = Cost.of(dressed, images, machine, measure(dressed))
        return dressed, cost, cost.steps(dressed, images) * dressed.train.batch_size

    best, (dressed, cost, samples) = choices[0], tried(choices[0])
    paying = [each for each in choices[1:] if samples * weight(best) / weight(each) >= needed(each)]
    for choice in reversed(paying):  # the dearest that pays by what the cheapest took is measured itself
        found = tried(choice)
        if found[2] >= 0.7 * needed(choice):
            best, (dressed, cost, _) = choice, found
            break
    return schedule(best, dressed, cost, file, images)


def weight(choice: Choice) -> float:
    """About how much dearer a sample is than with the cheapest choice: a first guess, of which the trials of the better ones are spared."""
    return HEAVIER[choice.family.name] * max(choice.size / SIZES[0], 1.0) ** 2 * choice.wider**1.7


def workers(config: RunConfig, machine: Machine) -> tuple[int, int]:
    """In this process where a single one has all that the machine offers: Ray takes 17 s on two cores to start, and computes the same."""
    return config.scale.workers if cluster_of(config) or machine.gpus > 1 else (0, 0)


def reading(config: RunConfig, images: Images, machine: Machine) -> int:
    """px of the shorter side that photos are reduced to as they are read, 0: as they are; decoding a photo whole costs more than a step."""
    if "data.shorter_side" not in config.train.planned:
        return config.data.shorter_side
    given = max((view.size for view in config.views.values() if view.kind == "image"), default=0)
    largest = given if "views" not in config.train.planned else CPU_SIZES[-1] if machine.kind == "cpu" else SIZES[-1]
    side = 32 * math.ceil(SPARE * largest / 32)
    return side if images.side >= 1.5 * side else 0


def candidates(config: RunConfig, file: MethodFile, images: Images, machine: Machine) -> Iterator[Choice]:
    """From the cheapest to the dearest. An image is never drawn much larger than it is."""
    known = families(file)
    planned = config.train.planned
    if "views" not in planned:  # the user's own views: whatever their size is
        yield Choice(known["short"], 0)
        return
    fitting = [size for size in SIZES if size <= max(SIZES[0], 1.2 * images.side)]
    sizes = [size for size in fitting if machine.kind != "cpu" or size in CPU_SIZES]
    largest = sizes[-1]
    yield from (Choice(known["short"], size) for size in sizes if size in CPU_SIZES)
    if "backbone.width" in planned:
        yield from (Choice(known["short"], min(largest, CPU_SIZES[-1]), wider) for wider in (2, 4))
    if "small" in known and images.count * MOST_EPOCHS >= NEEDS["small"]:
        yield Choice(known["small"], min(largest, 96))
    if images.side >= 160 and images.count * MOST_EPOCHS >= NEEDS["paper"]:
        yield Choice(known["paper"], 224)


def needed(choice: Choice) -> float:
    """Samples that a run must see for the choice to pay."""
    return max(NEEDS[choice.family.name], LARGER if choice.size > SIZES[0] else 0, WIDER * (choice.wider - 1))


# ---------------------------------------------------------------- what does not depend on the number of steps


def dress(config: RunConfig, file: MethodFile, choice: Choice, images: Images, fixed: Mapping[str, Any]) -> RunConfig:
    """The config with the choice's settings, network and views, its batch and the method's numbers within what the data allow."""
    planned, family = config.train.planned, choice.family
    plain = RunConfig.preset_of(config.method.name, family.preset).flat()
    values = {key: family.settings.get(key, plain.get(key)) for key in planned if key in plain and not key.startswith("views.")}
    values |= {
        "train.epochs": plain["train.epochs"],
        "train.steps": 0,
        "data.shorter_side": config.data.shorter_side,  # see `reading`
        "scale.workers": config.scale.workers,
    }
    settled = _replaced(config, values)
    if "views" in planned:
        given = config.backbone.name.startswith("vit") and "backbone.patch" not in planned
        settled = dataclasses.replace(settled, views=scaled(family.views, choice.size, config.backbone.patch if given else 0))
    if config.data.source != "digits":
        smooth = {name: antialiased(view) for name, view in settled.views.items() if config.fills(f"views.{name}.interpolation")}
        settled = dataclasses.replace(settled, views={**settled.views, **smooth})
    settled = _replaced(settled, network(settled, family, choice))
    if fixed:
        settled = settled.replace({**fixed, "train.planned": planned})
    batch = batch_for(settled.train.batch_size, images.count) if "train.batch_size" in planned else settled.train.batch_size
    # batch norm needs some rows in each group; the paper's groups of 32 are of batches of 256 and more
    groups = min(settled.train.norm_groups, max(1, batch // 32))
    settled = _replaced(settled, {"train.batch_size": batch, "train.norm_groups": groups})
    if settled.optim.name in ("lars", "larc") and batch < 256:  # which are for batches of thousands
        short = families(file)["short"].settings
        settled = _replaced(settled, {key: value for key, value in short.items() if key.startswith("optim.")})
        family = families(file)["short"]
    return _replaced(settled, {**numbers(settled, images.count, batch, wise=True), "optim.lr": rate(settled, family, choice)})


def scaled(views: Mapping[str, View], size: int, patch: int = 0) -> dict[str, View]:
    """All image views and grids of patches by one factor, so that the largest whole image is `size` px; 0: as they are.

    patch: of a transformer that is given: images are whole patches then, the largest at least 4 x 4, the others 2 x 2.
    """
    sides = [view.size for view in views.values() if view.kind == "image"] or [
        view.size for view in views.values() if view.kind == "patches"
    ]
    if not size or not sides:
        return dict(views)
    factor, found = max(size, 4 * patch) / max(sides), {}
    for name, view in views.items():
        if view.kind == "image":
            unit = patch or 4
            found[name] = dataclasses.replace(view, size=max(2 * unit, unit * round(view.size * factor / unit)))
        elif view.kind == "patches":
            rows, side, stride = view.grid
            grid = (rows, int(side * factor), int(stride * factor))
            found[name] = dataclasses.replace(
                view, size=math.ceil(view.size * factor), grid=grid,
                grid_shift=int(view.grid_shift * factor), grid_kept=int(view.grid_kept * factor),
            )  # fmt: skip
        else:
            found[name] = view
    return found


def antialiased(view: View) -> View:
    """Photos of one's own are shrunk over all their pixels: most are much larger than a view."""
    how = {"linear": "antialiased", "cubic": "antialiased_cubic"}.get(view.interpolation, view.interpolation)
    return dataclasses.replace(view, interpolation=how) if view.kind in ("image", "patches") else view


def network(config: RunConfig, family: Family, choice: Choice) -> dict[str, Any]:
    """Keys of the backbone: the stem by the images' size, the patch so that a small transformer sees 8 x 8 of them, the width of the choice."""
    side = max((view.size for view in config.views.values() if view.kind == "image"), default=0)
    name, values = config.backbone.name, dict[str, Any]()
    if name.startswith("resnet") and side:
        values["backbone.stem"] = "cifar" if side <= STEM else "imagenet"
    if name.startswith("vit") and side and choice.size and family.name != "paper":
        values["backbone.patch"] = max(1, side // 8)
    if "backbone.name" not in config.train.planned:  # somebody's own network is as wide as it is
        values["backbone.width"] = RunConfig.preset_of(config.method.name, "paper").backbone.width
    elif choice.wider > 1:
        values["backbone.width"] = config.backbone.width * choice.wider
    return values


def batch_for(batch: int, samples: int) -> int:
    """The family's batch; of few images a third at most, so that an epoch has several steps and a queue holds others than the batch."""
    return max(2, min(batch, power_below(samples // 3)))


def rate(config: RunConfig, family: Family, choice: Choice) -> float:
    """The base rate. Adam's step does not shrink with the gradient's noise as SGD's does, so its rate goes with the root of the batch, where
    the schedule's is linear; a network twice as wide takes a root of two less.
    """
    before, lr = int(family.settings.get("train.batch_size", 256)), float(family.settings.get("optim.lr", config.optim.lr))
    linear = config.optim.lr_scaling == "linear" and config.optim.name == "adamw"
    return float(f"{lr * (math.sqrt(before / config.train.batch_size) if linear else 1) / math.sqrt(choice.wider):.3g}")


# ---------------------------------------------------------------- what follows from the number of steps


def schedule(choice: Choice, config: RunConfig, cost: Cost, file: MethodFile, images: Images) -> Fitted:
    """Steps, and what is measured in them: warm-up, the teacher's momentum, when something freezes, how often evaluations measure."""
    batch, why = config.train.batch_size, dict[str, str]()
    epoch = max(images.count // batch, 1)
    if "train.steps" in config.train.planned and "train.epochs" in config.train.planned:
        bought, most = cost.steps(config, images), most_steps(images.count, batch)
        steps = min(bought, most)
        config = _replaced(config, {"train.steps": steps})
        why["steps"] = (
            f"{MOST_EPOCHS} epochs, or {SHORTEST} steps where that is more: further crops of so few images show little that is new"
            if steps < bought
            else f"what the budget buys at {1000 * cost.step(batch) / batch:.2f} ms an image, as measured"
        )
    steps = config.total_steps(images.count)
    values = {"optim.warmup_epochs": float(f"{WARMUP * steps / epoch:.3g}")} if config.optim.warmup_epochs > 0 else {}
    values |= paced(config, choice.family, steps, epoch)
    if file.paper.ema != "no" and hasattr(config.method, "momentum"):
        values["method.momentum"] = momentum(choice.family, config.method.momentum, steps, file)
    limit = cost.online_limit()
    values["eval.online_limit"] = limit
    config = _replaced(config, values)
    times = cost.evaluations(config, steps, limit)
    values = {"eval.every_epochs": float(f"{max(steps / times, 1) / epoch:.3g}"), "data.workers": cost.loaders}
    return Fitted(_replaced(config, values), choice, cost, why)


def most_steps(samples: int, batch: int) -> int:
    """Steps beyond which a set of so many images has no more to give."""
    return max(MOST_EPOCHS * max(samples // batch, 1), SHORTEST)


def paced(config: RunConfig, family: Family, steps: int, epoch: int) -> dict[str, Any]:
    """The method's own settings in steps or epochs (frozen prototypes, the teacher's warm-up): the share of the run that the family gives them."""
    batch, found = int(family.settings.get("train.batch_size", 256)), dict[str, Any]()
    per_epoch = max(SEEN[family.name] // batch, 1)
    whole = int(family.settings.get("train.steps", 0)) or int(family.settings.get("train.epochs", 200)) * per_epoch
    for spec in dataclasses.fields(config.method):
        unit, key = spec.metadata.get("unit"), f"method.{spec.name}"
        value = getattr(config.method, spec.name)
        if unit not in ("steps", "epochs") or isinstance(value, bool) or not isinstance(value, (int, float)) or not value:
            continue
        share = min(value * (per_epoch if unit == "epochs" else 1) / whole, 1.0)
        now = share * steps / (epoch if unit == "epochs" else 1)
        found[key] = round(now) if isinstance(value, int) else float(f"{now:.3g}")
    return found


def momentum(family: Family, value: float, steps: int, file: MethodFile) -> float:
    """How slowly the averaged network moves: its memory 1 / (1 - m) stays the same share of the run; at most the paper's, 0.5 at least
    where the family has that, and never so long that a twentieth of the run is not enough for it.
    """
    tuned = int(family.settings.get("train.steps", 0))
    if tuned and value < 1:
        value = max(1 - (1 - value) * tuned / steps, min(value, 0.5))
    paper = float(file.recipe.get("method.momentum", getattr(file.config(), "momentum", 1.0)))
    return float(f"{min(value, paper, max(1 - 20 / max(steps, 1), 0.5)):.4g}")


def _replaced(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The config with those values that were left to the plan; they stay marked as its."""
    flat = config.flat()
    own = {key: value for key, value in values.items() if key in config.train.planned and key in flat}
    return config.replace({**own, "train.planned": config.train.planned})
