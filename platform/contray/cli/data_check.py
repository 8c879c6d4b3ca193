"""contray data check"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import documents
from .options import Positional, arg, config_from, json_note
from .output import answer, show

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray data check photos/", "all images once: what is broken, there twice, in the test set, ..."),
    ("contray data check photos/ --out report.html --clean keep.txt", "a page with the images, and a list without repeats"),
    ("contray data check shop.parquet --data.image_column photo --sample 5000", "a quick look at some of each split"),
)
FEW = (
    "data.image_column",
    "data.label_column",
    "data.test_share",
    "data.shorter_side",
    "data.max_broken",
    "data.root",
    "track.uri",
    "seed",
)


@dataclass(frozen=True)
class Options:
    """Read a data set once, on all cores, and say what one should know before days of training, each with how to mend it.

    Broken, cut off and odd images; equal and nearly equal ones, above all those that stand in training and test; classes; normalisation; how many
    processes feed a GPU; a command to begin with. Nothing is changed. 0 where there is nothing that you must look at, 1 where there is.
    """

    source: Annotated[
        Positional[str], arg("what --data.source would be: a folder, a Parquet file or folder, a name, your own .py file")
    ]
    sample: Annotated[
        int, arg("images of each split to look at, drawn by the seed; 0: all. Repeats are found among them alone")
    ] = 0
    out: Annotated[Path | None, arg("a report to write: .html, .png or .json; MLflow keeps it too, in track.experiment")] = None
    clean: Annotated[
        Path | None,
        arg(
            "a list to write: names of the readable training images, without those that are like one that stays or one that tests"
        ),
    ] = None
    gpu_images_per_second: Annotated[
        float, arg("of the GPU that is to be fed; 0: data.workers are told for a few speeds, and none suggested")
    ] = 0.0
    quiet: Annotated[bool, arg("no progress bar")] = False
    json: Annotated[bool, json_note(documents.INSPECTED)] = False


def keys(options: Options) -> RunConfig:
    """The config whose data are looked at."""
    return config_from("simclr", "auto", None, {})


def takes(options: Options) -> tuple[str, ...]:
    """Patterns of the keys that mean something here."""
    return ("data.*", "track.uri", "track.experiment", "seed")


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Look, and show what was found."""
    from ..api import check_data

    with answer(options.json) as tell:
        found = check_data(
            options.source, dotted, sample=options.sample, out=options.out, clean=options.clean,
            gpu_images_per_second=options.gpu_images_per_second, quiet=options.quiet,
        )  # fmt: skip
        tell(found.document())
        if not options.json:
            show(*found.shown)
        for path in (options.out, options.clean):
            if path:
                print(f"wrote {path}")
    return 0 if found.ok else 1
