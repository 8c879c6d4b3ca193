"""The sections of a report, each from what is on record or from the encoder; where something is missing, a word says why."""

from __future__ import annotations

import io
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from ..config import RunConfig
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
from ..track.compared import cell
from ..track.comparing import Row
from . import html, origin
from .encoded import Sampled
from .html import Section
from .record import Record

SCORES = ("knn_top1", "linear_top1", "knn_val_top1", "linear_val_top1")
WARNINGS = {
    "contray.failure": "The run failed", "contray.collapse": "Collapse", "contray.unmeasured": "It could not be measured",
    "contray.trouble": "Trouble",
}  # fmt: skip


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
        made.append(origin.dataset(had.subject))
    return [
        *made,
        origin.config(record, config),
        origin.provenance(record),
        origin.times(record, config),
        origin.use(record, config),
    ]


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
    """(what, number, beside what) of the few numbers that say most: of a group of seeds their means."""
    if record.kind == "seeds" and record.children and len(record.children.rows) == 1:
        return _over_seeds(record.children.rows[0])
    metrics, made = {name: value for name, value in record.metrics.items() if math.isfinite(value)}, []
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


def _over_seeds(row: Row) -> list[tuple[str, str, str]]:
    held = "" if any(name in row.metrics for name in SCORES[:2]) else "_val"
    made = []
    for name, words in (
        (f"linear{held}_top1", "linear probe, top-1"),
        (f"knn{held}_top1", "k-NN, top-1"),
        ("rankme", "effective rank (RankMe)"),
    ):
        if spread := row.metrics.get(name):
            gain = row.metrics.get(f"{name.partition('_')[0]}_gain") if not held else None
            beside = f"mean ± standard deviation over {spread.n} seeds" if spread.n > 1 else "of one seed"
            more = f"; {100 * gain.mean:+.1f} points over the untrained encoder" if gain else ""
            made.append((words, cell(name, spread) + (" %" if name.endswith("top1") else ""), beside + more))
    return made


def _results(record: Record, config: RunConfig | None) -> Section:
    metrics = dict(record.metrics)
    tabled = {prefix + score for prefix in ENCODERS for score in SCORES}
    kinds = {"seeds": "one of the seeds above", "sweep": "the winner of the trials above"}
    parts = [html.text(f"Of {record.own}, {kinds.get(record.kind, 'one of the runs above')}.", "note")] if record.own else []
    if tabled & metrics.keys():
        knn = config.parts.get("eval.knn") if config else None
        held = "" if record.opened else "of held-out training images: the test set is opened at the end alone"
        parts.append(html.table(result_table(metrics, knn_k=getattr(knn, "k", 0), held=held)))
    else:
        parts.append(html.text("Nothing was measured with labels: there is no k-NN and no linear probe on record.", "note"))
    rest = {
        name: value for name, value in metrics.items()
        if ABOUT.search(name) or (("_top1" in name or "_ap" in name or "_miou" in name) and name not in tabled and name != "contrast_top1")
    }  # fmt: skip
    if any(not ABOUT.search(name) for name in rest):
        parts += [html.folded("Further evaluations", html.join(html.table(table) for table in _further(rest)))]
    return Section("Results", parts)


def _further(metrics: Mapping[str, float]) -> list[Table]:
    """The tables of further evaluations: of the run's own data, and of each other data set, whose metrics are called NAME.metric."""
    on: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in metrics.items():
        where, _, metric = name.rpartition(".")
        on[where][metric] = value
    return [
        table
        for where, found in on.items()
        for table in tables_of(Measured(found, tested=f"{where}'s test images" if where else ""))
    ]


def _curves(record: Record) -> Section:
    until = max((step for points in record.histories.values() for step, _ in points), default=0)
    drawn = [
        html.curve(title, record.histories[name], percent=name.endswith("top1"), until=until)
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
            metrics = subject.geometry()
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
