"""contray embed"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import CHECKPOINT_HELP, CODE_HELP, URI_HELP, Positional, arg, at_least, json_note
from .output import answer

EXAMPLES = (
    ("contray embed photos/ --run RUN_ID", "features of a folder of images, as embeddings.parquet/"),
    ("contray embed shop.parquet --checkpoint contray_runs/RUN --data.image_column photo", "of a column of a Parquet file"),
    (
        "contray embed s3://bucket/photos --run RUN_ID --out s3://bucket/features --scale.address auto",
        "on all nodes of a cluster",
    ),
)


@dataclass(frozen=True)
class Options:
    """Features of all images of a source, as a folder of Parquet files. The same command goes on where it was cut off."""

    source: Annotated[
        Positional[str],
        arg("images in any form that trains (data.source); a path or an address"),
    ]
    run: Annotated[str, arg("MLflow run whose encoder is used")] = ""
    checkpoint: Annotated[str, arg(CHECKPOINT_HELP)] = ""
    code: Annotated[tuple[str, ...], arg(CODE_HELP)] = ()
    out: Annotated[str, arg("the folder of the results: a row per image")] = "embeddings.parquet"
    part: Annotated[int, arg("images per file of the results")] = 2048
    data__image_column: Annotated[str, arg("Parquet: column of the images", name="data.image_column")] = "image"
    data__scratch: Annotated[
        str,
        arg(
            "disk folder for indexes and copies of shards; empty: as in training",
            name="data.scratch",
        ),
    ] = ""
    scale__address: Annotated[
        str, arg("Ray cluster to join; empty: RAY_ADDRESS, else one of this machine", name="scale.address")
    ] = ""
    track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
    json: Annotated[bool, json_note(documents.EMBEDDED)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the features."""
    at_least("--part", options.part, 1)
    from ..api import embed

    with answer(options.json) as tell:
        done = embed(
            options.source, options.out, run=options.run, checkpoint=options.checkpoint, code=options.code, uri=options.track__uri,
            column=options.data__image_column, part=options.part, address=options.scale__address,
            scratch=options.data__scratch,
        )  # fmt: skip
        if done.skipped:
            print(f"contray: {options.source}: {done.skipped}", file=sys.stderr)
        print(done)
        tell(done)
    return 0
