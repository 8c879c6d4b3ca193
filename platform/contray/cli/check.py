"""contray check"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import Positional, arg, json_note
from .output import answer, show

EXAMPLES = (
    ("contray check my_method.py", "gradients and buffers on 1, 2 and 3 workers, resume, chunks, draws, labels, ..."),
    ("contray check my_method.py --preset cifar", "with the sizes of another preset than `digits`"),
    ("contray check moco --json", "a built-in method, for a script"),
)


@dataclass(frozen=True)
class Options:
    """Hold a method of your own against all that the platform asks of one, in small: what is wrong, where, and how to mend it.

    Its steps are computed on one, two and three processes, gone on with from checkpoints, and in chunks: they must be the same. Takes half a
    minute; 0 where all is well, 1 where something is wrong.
    """

    method: Annotated[Positional[str], arg("the path of your own .py file, or a name from `contray methods`")]
    preset: Annotated[
        str, arg("whose sizes it is tried with; default: digits, where it has that, else paper on a small network")
    ] = ""
    json: Annotated[bool, json_note(documents.CHECKED)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Show the table and what is wrong; 1 where anything is."""
    from ..checking import check

    with answer(options.json) as tell:
        found = check(options.method, preset=options.preset)
        tell(documents.of_findings(found))
        if not options.json:
            show(found.table(), found.said, *found.lines())
    return 0 if found.ok else 1
