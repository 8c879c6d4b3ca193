"""contray plot"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import UserError
from ..pictures import KINDS, PROJECTIONS
from . import documents
from .options import CHANNELS_HELP, CHECKPOINT_HELP, CODE_HELP, Positional, arg, config_from, json_note
from .output import answer

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray plot neighbours --run RUN_ID", "test images beside the training images nearest to them"),
    (
        "contray plot patch_pca --checkpoint contray_runs/RUN --out pca.pdf",
        "a ViT's patches as colours; also map, attention, ...",
    ),
    ("contray plot curves --run RUN_ID RUN_ID --metric knn_val_top1", "several runs while they trained"),
)
FEW = ("data.source", "data.label_column", "train.device", "track.uri")


@dataclass(frozen=True)
class Options:
    """Draw what an encoder has learnt. With --run the picture and its numbers join that MLflow run, the picture under pictures/."""

    what: Annotated[
        Positional[str],
        arg("; ".join([", ".join(KINDS), *(f"{name}: {words}" for name, words in KINDS.items())]), choices=tuple(KINDS)),
    ]
    run: Annotated[
        tuple[str, ...], arg("MLflow run whose encoder is drawn; curves: runs, of which the seeds of one are drawn as one line")
    ] = ()
    checkpoint: Annotated[str, arg(CHECKPOINT_HELP)] = ""
    code: Annotated[tuple[str, ...], arg(CODE_HELP)] = ()
    out: Annotated[Path | None, arg("the picture to write: .png, .jpg, .pdf or .svg; empty: WHAT.png")] = None
    by: Annotated[str, arg("map: tsne, or umap (needs pip install umap-learn)", choices=PROJECTIONS)] = "tsne"
    images: Annotated[
        int,
        arg(
            "images at most, evenly spread; 0: map 2000 of the test set, neighbours all and prototypes 20000 of the training "
            "set, attention 2000 where objects' masks are known, patch_pca 256; reconstruction: to draw, 8"
        ),
    ] = 0
    channels: Annotated[tuple[int, ...], arg(CHANNELS_HELP)] = ()
    metric: Annotated[str, arg("curves: the metric, as MLflow names it")] = "loss"
    json: Annotated[bool, json_note(documents.PICTURE)] = False


def keys(options: Options) -> RunConfig:
    """Any config: of its keys those of the data count, and where MLflow is."""
    return config_from("", "", None, {})


def takes(options: Options) -> tuple[str, ...]:
    """All keys that the picture takes; curves are of what was logged."""
    from ..api import TAKEN

    return ("track.uri",) if options.what == "curves" else TAKEN


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Draw the picture and tell its numbers."""
    from ..api import plot

    out = options.out or Path(f"{options.what}.png")
    runs = options.run if options.what == "curves" else ()
    if not runs and len(options.run) > 1:
        raise UserError(f"--run: got {len(options.run)} runs; plot {options.what} draws one, plot curves several")
    with answer(options.json) as tell:
        picture = plot(
            options.what, run="" if runs else "".join(options.run), checkpoint=options.checkpoint, code=options.code, runs=runs, overrides=dotted,
            out=out, by=options.by, images=options.images, channels=options.channels, metric=options.metric,
        )  # fmt: skip
        for line in picture.lines:
            print(line)
        print(f"wrote {out}")
        tell({"picture": out, "metrics": picture.metrics})
    return 0
