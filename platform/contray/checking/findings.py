"""What a check found: in words, with the place and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..tables import Table


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

    def table(self) -> Table:
        """A row for each check."""
        count = len(self.wrong)
        said = "all is well" if self.ok else "one thing is wrong" if count == 1 else f"{count} things are wrong"
        caption = f"preset {self.preset}, in small, {self.seconds:.0f} s" if self.preset else ""
        table = Table(f"contray check {self.method}: {said}", "check", "", left=range(2), caption=caption)
        for each in self.findings:
            table.add(each.check, "wrong" if each.wrong else f"not made: {each.skipped}" if each.skipped else "ok")
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
        """The table, then what is wrong."""
        return "\n".join([str(self.table()), *self.lines()])

    __str__ = text
    __repr__ = text

    def _repr_html_(self) -> str:
        from html import escape

        rest = escape("\n".join(self.lines()))
        return self.table().html() + (f"<pre>{rest}</pre>" if rest else "")
