"""What a look at a data set gave: it prints itself as tables and lines, and says whether a person should look before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..planning.words import nbytes
from ..tables import Shown, Table
from .facts import Channels, Classes, Part
from .findings import Finding
from .gather import Looked
from .groups import Group, counts
from .training import MEMORY, RATES, Speed

TOLD, CLASSES = 5, 12  # names below a finding, and classes, that a terminal shows


@dataclass
class Inspection(Shown):
    """name: of the data set; notes: what was taken for what; sampled: whether these are drawn images, not all. found: every image's record.

    channels, speed: None, and command empty, where no training image can be read.
    """

    name: str
    notes: list[str]
    parts: list[Part]
    classes: Classes | None
    channels: Channels | None
    groups: list[Group]
    findings: list[Finding]
    speed: Speed | None
    command: str
    sampled: bool = False
    compared: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    found: Sequence[Looked] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is nothing that a person must look at."""
        return all(each.severity == "note" for each in self.findings)

    @property
    def said(self) -> str:
        """The outcome in a line."""
        wrong, look = (sum(each.severity == kind for each in self.findings) for kind in ("wrong", "look"))
        told = [f"{count} {word}" for count, word in ((wrong, "wrong"), (look, "to look at")) if count]
        sample = ", of a sample: of what repeats it finds only what was drawn" if self.sampled else ""
        return f"{self.name}: {' and '.join(told) or 'nothing to look at'} ({self.seconds:.0f} s{sample})"

    @property
    def shown(self) -> Sequence[Table | str]:
        return [*self.tables(), *self.lines()]

    def tables(self) -> list[Table]:
        """What there is, its classes, what to look at."""
        return [self._holds(), *([self._classes()] if self.classes else []), *([self._findings()] if self.findings else [])]

    def _holds(self) -> Table:
        table = Table(self.name, "", *(part.name for part in self.parts))
        sizes = [part.sizes for part in self.parts]
        rows = {
            "images": [f"{part.images:,}" for part in self.parts],
            **({"looked at": [f"{part.looked:,}" for part in self.parts]} if self.sampled else {}),
            "broken": [f"{part.broken:,}" for part in self.parts],
            "width, px": [_range(each.width) for each in sizes],
            "height, px": [_range(each.height) for each in sizes],
            "longer side / shorter": [f"{each.aspect[1]:g}, up to {each.aspect[2]:g}" for each in sizes],
            "files": ["\n".join(f"{count:,} {kind}" for kind, count in part.kinds.items()) for part in self.parts],
            "bytes": [nbytes(part.nbytes) for part in self.parts],
            "decoded": [nbytes(part.decoded) for part in self.parts],
        }
        for name, cells in rows.items():
            table.add(name, *cells)
        return table

    def _classes(self) -> Table:
        classes = self.classes
        assert classes is not None
        columns = ("class", "train", *(["test"] if classes.test else []))
        counted = list(zip(classes.names, classes.train, *([classes.test] if classes.test else []), strict=True))
        counted.sort(key=lambda row: -row[1])
        left = max(0, len(counted) - CLASSES)
        caption = f"{len(counted):,} classes; largest to smallest {classes.ratio:.3g}; effective number {classes.effective:.4g}"
        table = Table("", *columns, caption=caption)
        rows = counted if not left else [*counted[: CLASSES // 2], *counted[-CLASSES // 2 :]]
        for place, (name, *numbers) in enumerate(rows):
            if left and place == CLASSES // 2:
                table.add(f"{left:,} more", *("" for _ in numbers))
            table.add(name, *(f"{number:,}" for number in numbers))
        return table

    def _findings(self) -> Table:
        table = Table("", "", "what", "how to mend it", left=range(3))
        for each in self.findings:
            table.add(each.severity, each.words, each.mend)
        return table

    def lines(self) -> list[str]:
        """Notes of the source, names, numbers to paste."""
        return [*(f"taken: {note}" for note in self.notes), *self._names(), *self.advice(), self.said]

    def _names(self) -> Iterator[str]:
        for each in self.findings:
            for name in each.names[:TOLD] if each.severity != "note" else ():
                yield f"{each.kind}: {name}"
            if each.severity != "note" and (more := max(len(each.names), each.count) - TOLD) > 0 and each.names:
                yield f"{each.kind}: and {more:,} more, in --json and --out"

    def advice(self) -> list[str]:
        """Normalisation, speed, memory, and the command; nothing of a set of which no training image can be read."""
        speed = self.speed
        if self.channels is None or speed is None:
            return []
        of = " ".join(f"{mean:.3f}±{std:.3f}" for mean, std in zip(self.channels.mean, self.channels.std, strict=True))
        told = [
            f"channels: {of} over {self.channels.images:,} training images, each weighing the same{f': {keys}' if (keys := self.channels.keys) else ''}"
        ]
        holds = "decoded once and kept" if speed.kept else "decoded in every epoch"
        told.append(f"memory: {nbytes(speed.decoded)} decoded, {MEMORY} {speed.budget / 1e9:g}: {holds}")
        feeds = ", ".join(f"{speed.workers(rate)} for {rate:g} images/s" for rate in ([self.rate] if self.rate else RATES))
        told.append(
            f"speed: {1e3 * speed.decode:.2f} ms to decode an image, {1e3 * speed.draw:.2f} ms to draw two views of {speed.size} px: "
            f"{speed.per_core:,.0f} images/s per core; data.workers per GPU: {feeds}"
        )
        return [*told, f"try: {self.command}"]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        speed = self.speed
        return {
            "name": self.name, "ok": self.ok, "sampled": self.sampled, "notes": self.notes,
            "splits": {
                part.name: {
                    "images": part.images, "looked": part.looked, "broken": part.broken, "bytes": part.nbytes, "decoded_bytes": part.decoded,
                    "width": part.sizes.width, "height": part.sizes.height, "aspect": part.sizes.aspect, "files": part.kinds,
                } for part in self.parts
            },
            "classes": None if self.classes is None else {
                "names": self.classes.names, "train": self.classes.train, "test": self.classes.test,
                "ratio": self.classes.ratio, "effective": self.classes.effective,
            },
            "findings": [
                {"severity": each.severity, "kind": each.kind, "words": each.words, "mend": each.mend, "count": each.count, "names": each.names}
                for each in self.findings
            ],
            "duplicates": {
                **counts(self.groups),
                "listed": [
                    {"kind": group.kind, "images": [{"split": split, "name": name, "class": label} for split, _, name, label in group.members]}
                    for group in self.groups
                ],
            },
            "channels": None if self.channels is None else {"mean": self.channels.mean, "std": self.channels.std, "keys": self.channels.keys},
            "speed": None if speed is None else {
                "decode_ms": 1e3 * speed.decode, "draw_ms": 1e3 * speed.draw, "size": speed.size, "images_per_second_per_core": speed.per_core,
                "workers": {f"{rate:g}": speed.workers(rate) for rate in ([self.rate] if self.rate else RATES)},
            },
            "memory": None if speed is None else {"decoded_bytes": speed.decoded, "budget_bytes": speed.budget, "kept": speed.kept},
            "command": self.command,
        }  # fmt: skip


def _range(three: tuple[int, int, int]) -> str:
    low, middle, high = three
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, median {middle:,}"
