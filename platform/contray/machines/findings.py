"""What was found, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..tables import Table

State = Literal["ok", "odd", "wrong"]
CHECKS = {
    "cluster": "Ray answers, and every node starts a process",
    "versions": "of Python and of the libraries whose results are compared bit by bit, alike on all nodes",
    "GPUs": "that Ray counts, that the driver shows and that torch can use; of one kind",
    "network": "every node reaches every other at the address that it gives",
    "storage": "runs' folder: seen and writable from every node, how fast",
    "MLflow": "answers every node, with the login",
    "data": "the source's path is there on every node",
    "clocks": "agree",
    "shared memory": "suffices for loader processes",
    "open files": "as many may be open as a run opens",
    "disk": "room for what Ray and copies of shards put into the temporary folder",
    "demand": "what a run would ask for, and whether the cluster can give it",
}


@dataclass(frozen=True)
class Finding:
    """What one look found. where: the node, empty for all of them; mend: how, empty where nothing is to do."""

    check: str
    state: State
    words: str
    where: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that was found, in the order of CHECKS."""

    findings: Sequence[Finding]
    nodes: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what is odd may be meant."""
        return not any(each.state == "wrong" for each in self.findings)

    def of(self, check: str) -> list[Finding]:
        """What a check found."""
        return [each for each in self.findings if each.check == check]

    def document(self) -> dict[str, Any]:
        """For --json."""
        rows = [
            {"check": each.check, "state": each.state, "where": each.where, "words": each.words, "mend": each.mend}
            for each in self.findings
        ]
        return {"ok": self.ok, "nodes": self.nodes, "seconds": round(self.seconds, 1), "findings": rows}

    @property
    def shown(self) -> list[Table | str]:
        """A table, what to do, and a last word."""
        table = Table("contray doctor", "check", "", "where", "found", left=(0, 1, 2, 3))
        for each in self.findings:
            table.add(each.check, each.state, each.where or "all", each.words)
        mends = dict.fromkeys(f"{each.check}: {each.mend}" for each in self.findings if each.mend and each.state != "ok")
        wrong, odd = (sum(each.state == state for each in self.findings) for state in ("wrong", "odd"))
        counts = [f"{wrong} wrong" if wrong else "", f"{odd} odd" if odd else ""]
        said = ", ".join(each for each in counts if each) or "nothing is wrong"
        return [table, *mends, f"{said}; {self.nodes} node{'s' * (self.nodes > 1)} looked at in {self.seconds:.0f} s"]


def ordered(findings: Sequence[Finding], order: Mapping[str, str] = CHECKS) -> list[Finding]:
    """By CHECKS, what is wrong first within each."""
    places, states = list(order), ("wrong", "odd", "ok")
    return sorted(findings, key=lambda each: (places.index(each.check), states.index(each.state)))
