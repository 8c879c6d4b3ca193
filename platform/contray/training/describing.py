"""A run in words, for MLflow's pages: its name there, and its description in Markdown. The folder's name is its identity and says less."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import track
from ..config import WRITTEN, RunConfig
from ..errors import UserError
from ..storage.names import slug

NOTE, NOTED = "mlflow.note.content", "contray.described"  # the description; a digest of it as it was written here
TITLE_CHARS, SHOWN, VALUE_CHARS = 120, 4, 24  # of a name; settings in it; characters of a value
APART = ("scale.", "track.", "data.source", "method.name", "method.preset", "seed")  # in the name otherwise, or no part of it
FIRST = ("method.", "augment.", "optim.", "train.", "backbone.")  # what is told first


def title_of(config: RunConfig, name: str) -> str:
    """The name in MLflow of the run in folder `name`: method, preset, data, what differs from the preset, and the end of the folder's name.

    A run that was given a name by track.name keeps it.
    """
    if config.track.name:
        return name
    own = differing(config)
    keys = sorted(own, key=lambda key: next((i for i, section in enumerate(FIRST) if key.startswith(section)), len(FIRST)))
    seed = [f"seed {config.seed}"] if config.seed else []
    words = [
        *settings({key: own[key] for key in keys[:SHOWN]}),
        *([f"{len(keys) - SHOWN} more"] if len(keys) > SHOWN else []),
        *seed,
    ]
    method, preset = Path(config.method.name).stem, config.method.preset
    source = Path(config.data.source.rstrip("/")).name
    what = f"{method} {preset}" + (f" on {source}" if source != preset else "")
    end = f" ({name.removeprefix(f'{method}-{preset}-')})"
    return f"{what}{': ' * bool(words)}{', '.join(words)}"[: TITLE_CHARS - len(end)].rstrip(" ,:") + end


def differing(config: RunConfig) -> dict[str, Any]:
    """The keys that the method's preset has otherwise on this data, with their values; those that the machine or a plan settled are not among them."""
    try:
        preset = RunConfig.make(config.method.name, {"data.source": config.data.source}, preset=config.method.preset).flat()
    except UserError:  # a file that is no longer there
        return {}
    own = {*config.train.settled, *WRITTEN}
    return {
        key: value
        for key, value in config.flat().items()
        if key not in own
        and not config.fills(key)
        and not config.free(key)
        and not key.startswith(APART)
        and value != preset.get(key, value)
    }


def settings(values: Mapping[str, Any]) -> list[str]:
    """key=value, with short keys."""
    return [f"{short}={_value(value)}" for short, value in zip(short_keys(list(values)), values.values(), strict=True)]


def short_keys(keys: Sequence[str]) -> list[str]:
    """Each key by its last part, where no other ends so."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ",".join(map(_value, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 1]}…"


def sweep_title(config: RunConfig, name: str, space: str) -> str:
    """The name in MLflow of the sweep over `space` in folder `name`."""
    if config.track.name:
        return name
    words = title_of(config, name.removeprefix(f"tune-{slug(Path(space).stem)}-"))
    return f"tune {Path(space).stem}: {words}"


def trial_title(name: str, params: Mapping[str, Any]) -> str:
    """The name in MLflow of the trial in folder `name`."""
    return f"{trial_name(name)}: {', '.join(settings(params))}"[:TITLE_CHARS]


def trial_name(name: str) -> str:
    """What tables call the trial in folder `name`, and its name in MLflow begins with."""
    return f"trial {int(name):02d}" if name.isdecimal() else name


def describe(run: track.TrackedRun, config: RunConfig, name: str) -> bool:
    """Write the run's description, or write it anew once there is more to say; whether it changed. One that somebody wrote there stays.

    Raises TrackingError.
    """
    metrics, tags = run.results()
    before, text = tags.get(NOTE, ""), note_of(run, config, name, metrics, tags)
    if text == before or (before and _digest(before) != tags.get(NOTED)):
        return False
    run.set_tags({NOTE: text, NOTED: _digest(text)})
    return True


def note_of(run: track.TrackedRun, config: RunConfig, name: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> str:
    """What the run is, what it came to, how to load what it trained, how it was planned."""
    method, preset, data = Path(config.method.name).stem, config.method.preset, tags.get("contray.dataset", config.data.source)
    images = tags.get("contray.images", "")
    number = f"{int(images):,} images of " if images.isdecimal() else ""
    parts = [
        f"**{method}**, preset **{preset}**, on {number}**{data}**. {tags.get('contray.verdict') or _gains(metrics)}".rstrip()
    ]
    if own := differing(config):
        parts.append(f"**Differs from the preset:** {', '.join(f'`{key}={_value(value)}`' for key, value in own.items())}")
    if config.track.model and tags.get("contray.kind") in ("run", "seed"):
        parts.append(
            f"**Use:**\n```python\nimport contray\nencoder = contray.load('{run.run_id}')  # encoder(images) -> features\n```\n"
            f"or `contray export timm --run {run.run_id}`, `contray embed FOLDER --run {run.run_id}`"
        )
    if plan := tags.get("contray.plan", ""):
        parts.append(f"**Plan:**\n```\n{plan}\n```")
    return "\n\n".join([*parts, f"Folder `{name}`"])


def _gains(metrics: Mapping[str, float]) -> str:
    """What training gained, in a sentence; empty where nothing tells."""
    words = [
        f"{name} {100 * metrics[f'{kind}_top1']:.1f} %"
        + (f" ({100 * metrics[f'{kind}_gain']:+.1f} over the untrained encoder)" if f"{kind}_gain" in metrics else "")
        for kind, name in (("knn", "k-NN"), ("linear", "linear probe"))
        if f"{kind}_top1" in metrics
    ]
    return f"{', '.join(words)}." if words else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
