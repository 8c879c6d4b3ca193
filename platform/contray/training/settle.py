"""What a run leaves to the hardware (precision, layout) and to its data (mean, deviation, range): decided once, before it starts, and kept."""

from __future__ import annotations

import sys

from .. import data, model
from ..config import MEASURED, RunConfig
from ..model.hardware import quick_bf16
from ..storage import sealed
from ..storage.checkpoint import latest
from ..storage.folder import Storage
from .nodes import ask_each, nodes

SETTLED, PIXELS = "hardware.json", "pixels.json"


def settle(config: RunConfig, folder: Storage, gpu: bool | None = None) -> RunConfig:
    """The config with what its run took for "auto" when it began, in `folder`; else by the nodes of the Ray cluster that is joined, or by
    this machine where none is. gpu: whether the workers have one (None: as this machine has).

    Raises ConfigError where a layout was asked for that cannot work.
    """
    kind = model.device_of(config).type if gpu is None else "cuda" if gpu else "cpu"
    asked = [key for key in model.HARDWARE if config.flat()[key] == "auto" or key in config.train.settled]
    if not asked:
        return model.settled(config, kind)
    bf16 = _on_nodes(kind)
    found = model.settled(config, kind, bf16)
    if known := _known(folder):
        kept = {key: known[key] for key in asked if key in known}
        if "data.augment_on" in asked:  # a run from before there was this key
            kept.setdefault("data.augment_on", "cpu")
        now = {key: value for key, value in found.flat().items() if key in kept and value != kept[key]}
        for key, value in now.items():
            print(f"contray: {key} stays {kept[key]}, as the run began; this hardware would take {value}", flush=True)
        return model.settled(
            config.replace({**kept, "train.settled": list(dict.fromkeys([*config.train.settled, *asked]))}), kind
        )
    sealed.write(folder, SETTLED, {key: str(found.flat()[key]) for key in asked})
    return found


def measure(config: RunConfig, source: data.Source, folder: Storage, quiet: bool = False) -> RunConfig:
    """The config with the range, mean and deviation that are left to be measured, of its training images: what its run in `folder` measured, else
    measured now and kept there. The same data give the same numbers.
    """
    flat, split = config.flat(), source.train
    asked = [key for key in MEASURED if not flat[key] or key in config.train.settled]
    depth = split.depth("image") if isinstance(split, data.EncodedSplit) else None
    if not config.data.channels and depth is None:  # of RGB of 8 bits
        asked = [key for key in asked if key != "data.range"]
    if not asked:
        return config
    known: dict[str, list[float]] = {}
    try:
        known = sealed.read(folder, PIXELS, list) or {}
    except sealed.Damaged as error:
        print(f"contray: {error}; it is measured again", flush=True)
    if not set(asked) <= known.keys():
        known = {key: list(flat[key]) for key in asked if flat[key]}
        known.setdefault("data.range", [depth.low, depth.high] if depth else [])
        if not {"augment.mean", "augment.std"} <= known.keys():
            view = next(view for view in config.views.values() if view.kind in ("image", "patches"))
            mean, std, words = data.moments(split, view)
            known = {"augment.mean": list(mean), "augment.std": list(std), **known}
            if not quiet:
                print(f"contray: {words}: {_numbers(known['augment.mean'])}; {_numbers(known['augment.std'])}", flush=True)
        known = {key: known[key] for key in asked}
        sealed.write(folder, PIXELS, known)
    return config.replace(
        {**{key: tuple(known[key]) for key in asked}, "train.settled": list(dict.fromkeys([*config.train.settled, *asked]))}
    )


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _known(folder: Storage) -> dict[str, str]:
    """What the run took when it began; where that file is damaged or lost, what its newest checkpoint says, and nothing where there is neither."""
    why = f"{folder.address}/{SETTLED} is lost"
    try:
        if (known := sealed.read(folder, SETTLED, str)) is not None:
            return known
    except sealed.Damaged as error:
        why = str(error)
    state = latest(folder)
    if state is None:
        return {}
    before = RunConfig.from_yaml(state["config"]).flat()
    found = {key: str(before[key]) for key in model.HARDWARE}
    if found["data.augment_on"] == "auto":
        found["data.augment_on"] = "cpu"
    sealed.write(folder, SETTLED, found)
    print(f"contray: {why}; it was mended from the newest checkpoint", flush=True)
    return found


def _on_nodes(kind: str) -> bool:
    """Whether bf16 is quick on every node of the joined cluster that could have a worker; on this machine where none is joined."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return quick_bf16(kind)[0]
    resource = "GPU" if kind == "cuda" else "CPU"
    answers = ask_each([node for node in nodes() if node.total.get(resource, 0)], quick_bf16, kind)
    return all(quick for quick, _ in answers.values()) if answers else quick_bf16(kind)[0]
