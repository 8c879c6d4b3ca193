"""What a check found: in words, with the place and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..tables import Table

CHECKS = {  # in order, with what each holds
    "exports": "PAPER, Config, VIEWS, RECIPE, PRESETS and one Method, of their types",
    "presets": "each resolves on the recipe, and its views can be drawn",
    "labels": "no view and no import leads to them",
    "refusals": "what `check` refuses begins with a field of Config",
    "a step": "built, represent, loss, update",
    "negatives": "a count that goes with PAPER",
    "encode": "(B, out_dim), each image by itself, the same again, nothing changed",
    "losses": "finite, and so are gradients",
    "gradients": "every trained parameter gets one",
    "draws": "none from a global generator",
    "buffers": "written by `update` alone, and without a graph",
    "checkpoints": "gone on from any step, bit-equal",
    "chunks": "in parts as in one, to 1e-9",
    "average networks": "start as exact copies, and move",
    "bf16": "finite in half precision",
    "backbones": "with a residual net and with a vision transformer",
    "digits": "the loss of a batch of them falls in a few steps",
    "ranks": "loss, gradients, buffers and weights on 2 and 3 workers as on one, to 1e-9",
}


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong. line: of the method's file; 0: not known."""

    words: str
    mend: str = ""
    line: int = 0


@dataclass(frozen=True)
class Finding:
    """One check. skipped: why it was not made; empty: it was."""

    check: str
    wrong: tuple[Wrong, ...] = ()
    skipped: str = ""

    @property
    def ok(self) -> bool:
        return not self.wrong


@dataclass
class Findings:
    """All checks of a method's file in the order in which they were made; it prints itself as a table and what is wrong below."""

    method: str
    preset: str = ""
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(each.ok for each in self.findings)

    @property
    def wrong(self) -> list[Wrong]:
        """All that is wrong."""
        return [wrong for each in self.findings for wrong in each.wrong]

    def place(self, wrong: Wrong) -> str:
        """The file and the line, where these are known."""
        return f"{self.method}:{wrong.line}" if wrong.line else ""

    @property
    def said(self) -> str:
        """The outcome in a line."""
        count = len(self.wrong)
        said = "all is well" if self.ok else "one thing is wrong" if count == 1 else f"{count} things are wrong"
        return f"{self.method}: {said}" + (f" (preset {self.preset}, in small, {self.seconds:.0f} s)" if self.preset else "")

    def table(self) -> Table:
        """A row for each check."""
        table = Table("", "check", "what is held", "", left=range(3))
        for each in self.findings:
            outcome = "wrong" if each.wrong else f"not made: {each.skipped}" if each.skipped else "ok"
            table.add(each.check, CHECKS[each.check], outcome)
        return table

    def lines(self) -> list[str]:
        """What is wrong, and how to mend it."""
        found = []
        for each in self.findings:
            for wrong in each.wrong:
                found.append(f"{self.place(wrong) or self.method}: {each.check}: {wrong.words}")
                if wrong.mend:
                    found.append(f"    {wrong.mend}")
        return found

    def text(self) -> str:
        """The table, then the outcome and what is wrong."""
        return "\n".join([str(self.table()), self.said, *self.lines()])

    __str__ = text
    __repr__ = text

    def _repr_html_(self) -> str:
        from html import escape

        return f"{self.table().html()}<pre>{escape(chr(10).join([self.said, *self.lines()]))}</pre>"
