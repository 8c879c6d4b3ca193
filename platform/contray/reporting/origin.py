"""What a report says of the data, the config, where a run comes from, how long it took, and how its encoder is used."""

from __future__ import annotations

import platform
import shlex
import statistics
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from markupsafe import Markup

from .. import data
from ..config import WRITTEN, RunConfig
from ..data.splits import BrokenImage
from ..tables import Table
from ..training.progress import lasting
from . import html
from .encoded import Sampled
from .html import Section
from .record import Record

SHOWN_CLASSES, SIZED = 40, 64  # classes that have a bar; images whose sizes are looked at
NOT_ASKED = (*WRITTEN, "track.uri", "track.name", "scale.storage")


def dataset(subject: Sampled) -> Section:
    source = subject.source
    train, test = source.train, source.test
    sizes = sorted({size for size in _sizes(train)}, key=lambda size: size[0] * size[1])
    span = "" if not sizes else f"{_px(sizes[0])}" if len(sizes) == 1 else f"{_px(sizes[0])} to {_px(sizes[-1])}"
    broken = {train.describe(i): why for i, why in {**train.broken, **train.met}.items()}
    broken |= {} if test is None else {test.describe(i): why for i, why in {**test.broken, **test.met}.items()}
    tested = "none" if test is None else f"{len(test):,}"
    tested = f"{subject.shut:,}, not looked at before the end" if subject.shut else tested
    known = [
        ("data set", source.name), ("training images", f"{len(train):,}"),
        ("test images", tested),
        ("classes", f"{len(train.classes):,}" if train.labels is not None else "no labels"),
        ("image sizes", span and f"{span} (of {min(SIZED, len(train))} images, width x height)"),
        ("broken images", f"{len(broken):,} met here" if broken else "none met here"),
    ]  # fmt: skip
    parts = [html.facts(known)]
    if train.labels is not None:
        counts = np.bincount(train.labels[train.labels >= 0], minlength=len(train.classes))
        order = np.argsort(-counts, kind="stable")
        shown = [
            (train.classes[i], int(counts[i]))
            for i in (range(len(counts)) if len(counts) <= SHOWN_CLASSES else order[:SHOWN_CLASSES])
        ]
        which = (
            "training images of each class"
            if len(counts) <= SHOWN_CLASSES
            else f"training images of the {SHOWN_CLASSES} largest classes"
        )
        parts.append(html.bars(shown, f"{which}; smallest {counts.min():,}, largest {counts.max():,}"))
    parts += [html.text(note, "note") for note in (*source.notes, *train.notes())]
    if broken:
        rows = html.join(Markup("<li>{}: {}</li>").format(name, why) for name, why in list(broken.items())[:50])
        parts.append(html.folded(f"{len(broken):,} broken images", Markup("<ul>{}</ul>").format(rows)))
    return Section("Data", parts)


def _sizes(split: data.Split) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    if "image" not in split.columns:
        return found
    for i in data.part(np.arange(len(split)), None, SIZED, 0).tolist():
        try:
            height, width = split.image(i, None).shape[:2]
            found.append((width, height))
        except (BrokenImage, OSError):
            continue
    return found


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


def differing(config: RunConfig) -> list[tuple[str, str, str, str]]:
    """(key, value, the preset's, who set it) of keys that are not as the preset has them."""
    base = RunConfig.make(config.method.name, preset=config.method.preset).flat()
    made = []
    for key, value in config.flat().items():
        if key in NOT_ASKED or (key in base and base[key] == value):
            continue
        who = "the plan" if config.fills(key) else "the hardware" if key in config.train.settled else "the command"
        made.append((key, _value(value), _value(base[key]) if key in base else "-", who))
    return made


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def config(record: Record, config: RunConfig | None) -> Section:
    parts: list[Markup] = []
    if config is not None:
        rows = differing(config)
        table = Table(
            f"what differs from preset {config.method.preset} of {Path(config.method.name).stem}",
            "key",
            "value",
            "preset",
            "set by",
            left=range(4),
        )
        for row in rows:
            table.add(*row)
        parts.append(html.table(table) if rows else html.text(f"All is as preset {config.method.preset} has it."))
    whole = config.to_yaml() if config is not None and not record.config else record.config
    if whole:
        parts.append(html.folded("The whole config (contray train --config repeats it)", html.code(whole, "the config")))
    elif record.params:
        listed = "\n".join(f"{key}: {value}" for key, value in sorted(record.params.items()))
        parts.append(
            html.folded("The run keeps no config.yaml; its parameters as MLflow has them", html.code(listed, "the parameters"))
        )
    else:
        parts.append(html.text("No config is on record.", "note"))
    return Section("Config", parts)


def provenance(record: Record) -> Section:
    tags = record.tags
    installed = ", ".join(f"{name} {_version(name)}" for name in ("contray", "torch", "mlflow") if _version(name))
    known = [
        ("run", record.own or record.name), ("MLflow run", record.tracked.run_id if record.tracked else ""),
        ("MLflow page", record.tracked.url if record.tracked else ""), ("commit", tags.get("mlflow.source.git.commit", "")),
        ("host", tags.get("contray.host", "")), ("user", tags.get("mlflow.user", "")), ("job", tags.get("contray.job", "")),
        ("image", tags.get("contray.image", "")), ("nodes", tags.get("contray.nodes", "")),
        ("folder", record.checkpoint), ("this page by", f"{installed}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d %H:%M')}"),
    ]  # fmt: skip
    command = tags.get("contray.command", "")
    parts = [html.code(command, "the command")] if command else []
    if plan := tags.get("contray.plan"):
        parts.append(html.folded("The plan", html.code(plan, "the plan")))
    return Section("Where it comes from", [*parts, html.facts(known)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def times(record: Record, config: RunConfig | None) -> Section:
    seconds = (record.ended - record.started) / 1000 if record.ended > record.started > 0 else 0.0
    rates = [value for _, value in record.histories.get("images_per_second", [])]
    last = max((step for step, _ in record.histories.get("loss", [])), default=0)
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started / 1000)) if record.started else ""
    known = [
        ("began", begun), ("took", lasting(seconds) + " from its beginning to its end, measuring included" if seconds else ""),
        ("steps", f"{last:,}" if last else ""), ("global batch", f"{config.train.batch_size:,}" if config else ""),
        ("throughput", f"{statistics.median(rates):,.0f} images/s in the median" if rates else ""),
        ("workers", record.tags.get("contray.worlds", "")), ("device", config.train.device if config and config.train.device != "best" else ""),
    ]  # fmt: skip
    if not any(value for _, value in known):
        return Section("Times", [html.text("No times are on record.", "note")])
    return Section("Times", [html.facts(known)])


def use(record: Record, config: RunConfig | None) -> Section:
    own = (
        [name for name in (config.method.name, config.backbone.name, config.data.source) if name.endswith(".py")]
        if config
        else []
    )
    if record.tracked and (record.kept or not record.checkpoint):
        which, loaded = (
            f"--run {record.tracked.run_id}",
            f'encoder = contray.load("{record.tracked.run_id}"{_uri(record)}{_code(own)})',
        )
        imports = "import contray"
    else:
        which, loaded = f"--checkpoint {shlex.quote(record.checkpoint)}", f"encoder = read_checkpoint({record.checkpoint!r})"
        imports = "from contray.model.encoder import read_checkpoint"
    uri = f" --track.uri {shlex.quote(record.tracked.uri)}" if record.tracked and "--run" in which else ""
    code = f" --code {' '.join(map(shlex.quote, own))}" if own else ""
    channels = config.data.channels if config else 0
    python = f"""\
import numpy as np
{imports}

{loaded}
images = [np.zeros((32, 32, {channels or 3}), np.uint8)]  # yours: uint8 {f"of {channels} channels" if channels else "RGB"} of any size
features = encoder(images)  # a row for each image"""
    return Section(
        "How to load it",
        [
            html.text("In Python:"), html.code(python, "Python"),
            html.text("For another library (also torchvision, timm and ONNX), with a model card:"),
            html.code(f"contray export {which}{uri}{code} --to safetensors --out encoder", "the export command"),
            html.text("Features of a whole folder, as Parquet:"),
            html.code(f"contray embed photos/ {which}{uri}{code}", "the embed command"),
        ],
    )  # fmt: skip


def _uri(record: Record) -> str:
    return f', uri="{record.tracked.uri}"' if record.tracked else ""


def _code(own: list[str]) -> str:
    return f", code={own!r}" if own else ""


def subtitle(record: Record, config: RunConfig | None) -> Mapping[str, str]:
    """What the head says below the name."""
    tags = record.tags
    method = tags.get("contray.method") or (Path(config.method.name).stem if config else "")
    made = {
        "method": method, "preset": tags.get("contray.preset") or (config.method.preset if config else ""),
        "data": tags.get("contray.dataset") or (config.data.source if config else ""),
        "backbone": config.backbone.name if config else record.params.get("backbone.name", ""),
        "kind": {"seeds": f"seeds; details of {record.own}", "sweep": f"sweep; details of {record.own}", "trial": "trial"}.get(record.kind, ""),
        "status": record.status.lower(), "date": time.strftime("%Y-%m-%d", time.localtime(record.started / 1000)) if record.started else "",
    }  # fmt: skip
    return {name: value for name, value in made.items() if value}
