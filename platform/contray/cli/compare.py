"""contray compare"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UserError, check_writable, nearest
from ..tables import Table
from . import documents
from .options import URI_HELP, arg, json_note
from .output import answer, show

EXAMPLES = (
    ("contray compare", "all finished runs of the experiment contray"),
    (
        "contray compare --run NAME NAME --out two.svg",
        "these runs, by name or id; a sweep or a group of seeds stands for its children",
    ),
    ("contray compare --track.experiment shapes --csv runs.csv", "another experiment, also as a file for a spreadsheet"),
)
WAYS = ("runs", "evaluations")
TABLES = {".tex": Table.latex, ".md": Table.markdown}


@dataclass(frozen=True)
class Options:
    """A table of runs, configurations as rows (mean and std over seeds), what they differ in, a plot, and the link to MLflow's comparison."""

    run: Annotated[tuple[str, ...], arg("names or ids of MLflow runs; none: all finished runs of the experiment")] = ()
    out: Annotated[Path, arg("where the plot goes: .png, .jpg, .pdf or .svg")] = Path("compare.png")
    csv: Annotated[Path | None, arg("write a line for each configuration into this file")] = None
    table: Annotated[
        Path | None, arg("write the table of runs into this file, for a paper or a page: .tex (with booktabs) or .md")
    ] = None
    metric: Annotated[tuple[str, ...], arg("further metrics to show, as MLflow names them")] = ()
    by: Annotated[
        str, arg("runs: metrics as columns; evaluations: runs and evaluations; empty: as there are few or several", choices=WAYS)
    ] = ""
    track__experiment: Annotated[str, arg("MLflow experiment", name="track.experiment")] = "contray"
    track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
    json: Annotated[bool, json_note(documents.COMPARISON)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Read the runs, draw the plot and show the tables."""
    from .. import track
    from ..pictures import check_out
    from ..pictures.comparison import draw
    from ..track.compared import tables_of
    from ..track.comparing import compare

    check_out(options.out)
    if options.csv:
        check_writable("--csv", options.csv)
    if options.table:
        if options.table.suffix not in TABLES:
            raise UserError(f"--table: got {options.table}, must end in {' or '.join(TABLES)}")
        check_writable("--table", options.table)
    if options.by not in ("", *WAYS):
        raise UserError(f"--by: got {options.by!r}; {nearest(options.by, WAYS)}")
    with answer(options.json) as tell:
        found = compare(track.resolve_uri(options.track__uri), options.run, options.track__experiment, options.metric)
        draw(found, options.out)
        tables = tables_of(found, options.by)
        for table in tables:
            show(table, "")
        if options.table:
            options.table.write_text(TABLES[options.table.suffix](tables[0]), encoding="utf-8")
            show(f"table: {options.table}")
        if options.csv:
            options.csv.write_text(found.csv(), encoding="utf-8")
            show(f"table: {options.csv}")
        show(f"plot: {options.out}", f"MLflow: {found.url}")
        tell(documents.of_comparison(found, options.out))
    return 0
