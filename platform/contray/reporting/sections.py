"""The sections of a report, each from what is on record or from the encoder; where something is missing, a word says why."""

from __future__ import annotations

import io
import platform
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from .. import data
from ..config import RunConfig
from ..data.splits import BrokenImage
from ..drawing import CURVES
from ..errors import UserError
from ..evaluation import Measured
from ..evaluation._base import ABOUT, ENCODERS
from ..evaluation.common.protocol import report as result_table
from ..evaluation.common.tables import GEOMETRY, tables_of
from ..model.encoder import Encoder
from ..pictures import map as map_picture
from ..pictures import neighbours
from ..tables import Table
from ..training.progress import lasting
from . import html
from .encoded import Sampled
from .record import Record

SCORES = ("knn_top1", "linear_top1", "knn_val_top1", "linear_val_top1")
SHOWN_CLASSES, SIZED = 40, 64  # classes that have a bar; images whose sizes are looked at
NOT_ASKED = ("train.settled", "train.planned", "track.uri", "track.name", "scale.storage")
WARNINGS = {
    "contray.failure": "The run failed", "contray.collapse": "Collapse", "contray.unmeasured": "It could not be measured",
    "contray.trouble": "Trouble",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A title and what stands below it."""

    title: str
    parts: list[Markup]

    @property
    def id(self) -> str:
        return html.anchor(self.title)


@dataclass(frozen=True)
class Measurable:
    """The encoder and its data, as far as they can be had; missing: why not, in words."""

    encoder: Encoder | None
    subject: Sampled | None
    missing: str = ""


def all_sections(record: Record, had: Measurable, config: RunConfig | None, step: Callable[[str], None]) -> list[Section]:
    """step: is told what is being done."""
    made = [_verdict(record)]
    if record.children:
        word = "Seeds" if record.kind == "seeds" else "Trials"
        made.append(Section(word, [html.table(table) for table in record.children.tables]))
    made += [_results(record, config), _curves(record), _views(record)]
    if had.subject is None:
        made.append(
            Section(
                "Encoder", [html.text(f"Map, neighbours, confusion and the data's facts are left out: {had.missing}", "note")]
            )
        )
    else:
        step("drawing the map")
        made.append(_map(had.subject))
        step("drawing neighbours")
        made.append(_neighbours(record, had.subject))
        step("fitting a probe")
        made.append(_confusion(had.subject))
        step("measuring geometry")
    made.append(_geometry(record, had.subject))
    if had.subject is not None:
        step("looking at the data")
        made.append(_data(had.subject))
    return [*made, _config(record, config), _provenance(record), _times(record, config), _use(record, config)]


# ---------------------------------------------------------------- results


def _verdict(record: Record) -> Section:
    verdict = record.tags.get("contray.verdict", "")
    parts = [html.text(verdict, "verdict") if verdict else html.text("No verdict in words is on record.", "note")]
    parts += [html.text(f"{words}: {record.tags[tag]}", "warning") for tag, words in WARNINGS.items() if record.tags.get(tag)]
    if not record.finished:
        last = max((step for points in record.histories.values() for step, _ in points), default=0)
        parts.append(
            html.text(
                f"The run has not finished: MLflow has it as {record.status} at step {last:,}. What follows is of what there is.",
                "warning",
            )
        )
    return Section("Verdict", parts + [html.text(note, "note") for note in record.notes])


def cards(record: Record) -> list[tuple[str, str, str]]:
    """(what, number, beside what) of the few numbers that say most."""
    metrics, made = record.metrics, []
    held = "" if any(name in metrics for name in SCORES[:2]) else "_val"
    for name, words in (("linear", "linear probe"), ("knn", "k-NN")):
        if (top1 := metrics.get(f"{name}{held}_top1")) is None:
            continue
        other = metrics.get(f"random_{name}{held}_top1")
        beside = "held-out images" if held else "test images"
        if other is not None:
            beside = f"{100 * (top1 - other):+.1f} points over the untrained encoder"
        made.append((f"{words}, top-1", f"{100 * top1:.1f} %", beside))
    if "rankme" in metrics:
        share = metrics.get("rankme_share")
        made.append(
            (
                "effective rank (RankMe)",
                f"{metrics['rankme']:.1f}",
                f"{100 * share:.0f} % of the most it can be" if share is not None else "",
            )
        )
    return made


def _results(record: Record, config: RunConfig | None) -> Section:
    metrics = dict(record.metrics)
    tabled = {prefix + score for prefix in ENCODERS for score in SCORES}
    parts: list[Markup] = []
    if tabled & metrics.keys():
        knn = config.parts.get("eval.knn") if config else None
        parts.append(html.table(result_table(metrics, knn_k=getattr(knn, "k", 0))))
    else:
        parts.append(html.text("Nothing was measured with labels: there is no k-NN and no linear probe on record.", "note"))
    rest = {
        name: value for name, value in metrics.items()
        if ABOUT.search(name) or (("_top1" in name or "_ap" in name or "_miou" in name) and name not in tabled and name != "contrast_top1")
    }  # fmt: skip
    if any(not ABOUT.search(name) for name in rest):
        parts += [html.folded("Further evaluations", html.join(html.table(table) for table in tables_of(Measured(rest))))]
    return Section("Results", parts)


def _curves(record: Record) -> Section:
    drawn = [
        html.curve(title, record.histories[name], percent=name.endswith("top1"))
        for name, title in CURVES.items()
        if record.histories.get(name)
    ]
    if not drawn:
        return Section("Curves", [html.text("No curve is on record.", "note")])
    return Section("Curves", [Markup('<div class="curves">{}</div>').format(html.join(drawn))])


def _views(record: Record) -> Section:
    png = record.pictures.get("views.png")
    words = "A row for each sample: the image, then the views that the method was given, drawn by its augmentation policy."
    if png is None:
        return Section(
            "Views", [html.text("No picture of the views is on record (views.png): a run keeps it at its end.", "note")]
        )
    return Section("Views", [html.image(png, "Samples and their augmented views", words)])


# ---------------------------------------------------------------- the encoder


def _drawn(draw: Callable[[Path], object], alt: str, caption: str) -> Markup:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "picture.png"
        try:
            draw(out)
        except UserError as error:
            return html.text(f"Left out: {error}", "note")
        return html.image(_small(out.read_bytes()), alt, caption)


def _small(png: bytes, colours: int = 256) -> bytes:
    """The picture with a palette: a third of its bytes, and nobody sees it."""
    kept = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(kept, "PNG", optimize=True)
    return kept.getvalue() if kept.tell() < len(png) else png


def _map(subject: Sampled) -> Section:
    split, ids, kind = subject.asked()
    of = len(split) if split is not subject.source.train else len(super(Sampled, subject).asked()[1])
    words = f"{len(ids):,} of {of:,} {kind} in the plane, by t-SNE of their features. Classes that lie apart can be told apart; far distances mean nothing."
    return Section("Map", [_drawn(lambda out: map_picture.draw(subject, out), f"Map of {len(ids):,} {kind}, by class", words)])


def _neighbours(record: Record, subject: Sampled) -> Section:
    words = "Each row: an image that training did not see, then the training images whose features are nearest."
    alt = "Images that training did not see and their nearest training images"
    if png := record.pictures.get("neighbours.png"):
        return Section("Neighbours", [html.image(png, alt, words)])
    return Section("Neighbours", [_drawn(lambda out: neighbours.draw(subject, out), alt, words)])


def _confusion(subject: Sampled) -> Section:
    try:
        found = subject.confusion()
    except UserError as error:
        found = str(error)
    return Section("Confusion", [html.text(f"No probe: {found}.", "note")] if isinstance(found, str) else found.parts())


def _geometry(record: Record, subject: Sampled | None) -> Section:
    metrics, words = dict(record.metrics), "as the run measured it"
    if subject is not None and not {"rankme", "random_rankme"} <= metrics.keys():
        try:
            metrics |= subject.geometry()
            words = "of training images, trained encoder beside the same network untrained"
        except UserError as error:
            return Section("Geometry", [html.text(f"Left out: {error}", "note")])
    known = {name: about for name, about in GEOMETRY.items() if name in metrics}
    if not known:
        return Section("Geometry", [html.text("Nothing of the features' geometry is on record.", "note")])
    table = Table(f"geometry of the features, {words}; no labels", "", "trained", "untrained")
    for name, about in known.items():
        other = metrics.get(f"random_{name}")
        table.add(about, f"{metrics[name]:.3f}", "-" if other is None else f"{other:.3f}")
    return Section("Geometry", [html.table(table)])


# ---------------------------------------------------------------- data, config, where it comes from


def _data(subject: Sampled) -> Section:
    source = subject.source
    train, test = source.train, source.test
    sizes = sorted({size for size in _sizes(train)}, key=lambda size: size[0] * size[1])
    span = "" if not sizes else f"{_px(sizes[0])}" if len(sizes) == 1 else f"{_px(sizes[0])} to {_px(sizes[-1])}"
    broken = {train.describe(i): why for i, why in {**train.broken, **train.met}.items()}
    broken |= {} if test is None else {test.describe(i): why for i, why in {**test.broken, **test.met}.items()}
    known = [
        ("data set", source.name), ("training images", f"{len(train):,}"),
        ("test images", "none" if test is None else f"{len(test):,}"),
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
    found = []
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
    planned = getattr(config.train, "planned", ())
    made = []
    for key, value in config.flat().items():
        if key in NOT_ASKED or (key in base and base[key] == value):
            continue
        who = "the plan" if key in planned else "the hardware" if key in config.train.settled else "the command"
        made.append((key, _value(value), _value(base[key]) if key in base else "-", who))
    return made


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _config(record: Record, config: RunConfig | None) -> Section:
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


def _provenance(record: Record) -> Section:
    tags = record.tags
    installed = ", ".join(f"{name} {_version(name)}" for name in ("contray", "torch", "mlflow") if _version(name))
    known = [
        ("run", record.own or record.name), ("MLflow run", record.tracked.run_id if record.tracked else ""),
        ("MLflow page", record.tracked.url if record.tracked else ""), ("commit", tags.get("mlflow.source.git.commit", "")),
        ("host", tags.get("contray.host", "")), ("user", tags.get("mlflow.user", "")), ("job", tags.get("contray.job", "")),
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


def _times(record: Record, config: RunConfig | None) -> Section:
    seconds = (record.ended - record.started) / 1000 if record.ended > record.started > 0 else 0.0
    rates = [value for _, value in record.histories.get("images_per_second", [])]
    last = max((step for step, _ in record.histories.get("loss", [])), default=0)
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started / 1000)) if record.started else ""
    known = [
        ("began", begun), ("took", lasting(seconds) + " from its beginning to its end, measuring included" if seconds else ""),
        ("steps", f"{last:,}" if last else ""), ("global batch", f"{config.train.batch_size:,}" if config else ""),
        ("throughput", f"{statistics.median(rates):,.0f} images/s in the median" if rates else ""),
        ("workers", record.tags.get("contray.worlds", "")), ("device", config.train.device if config else ""),
    ]  # fmt: skip
    if not any(value for _, value in known):
        return Section("Times", [html.text("No times are on record.", "note")])
    return Section("Times", [html.facts(known)])


def _use(record: Record, config: RunConfig | None) -> Section:
    own = (
        [name for name in (config.method.name, config.backbone.name, config.data.source) if name.endswith(".py")]
        if config
        else []
    )
    if record.tracked:
        which, loaded = (
            f"--run {record.tracked.run_id}",
            f'encoder = contray.load("{record.tracked.run_id}"{_uri(record)}{_code(own)})',
        )
        imports = "import contray"
    else:
        which, loaded = f"--checkpoint {shlex.quote(record.checkpoint)}", f"encoder = read_checkpoint({record.checkpoint!r})"
        imports = "from contray.model.encoder import read_checkpoint"
    uri = f" --track.uri {shlex.quote(record.tracked.uri)}" if record.tracked else ""
    code = f" --code {' '.join(map(shlex.quote, own))}" if own else ""
    python = f"""\
import numpy as np
{imports}

{loaded}
images = [np.zeros((32, 32, 3), np.uint8)]  # yours: uint8 RGB of any size
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
