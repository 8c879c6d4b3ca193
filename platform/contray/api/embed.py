"""contray.embed"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .named import encoder_of, named_one

if TYPE_CHECKING:
    from ..exchange.embedding import Embedded
    from .named import Run


def embed(
    source: str | Path,
    out: str | Path = "embeddings.parquet",
    *,
    run: Run = "",
    checkpoint: str | Path = "",
    uri: str = "",
    code: str | Sequence[str] = (),
    quiet: bool = False,
    **options: Any,
) -> Embedded:
    """Features of all images of a folder or of Parquet files, as Parquet files in the folder `out`; a call that was cut off goes on.

        names, features = contray.embed("photos/", run=result).read()  # (N names), (N, D)

    run, checkpoint: as `contray.export` takes them. options: those of contray.exchange.embedding.embed (column, part, address, scratch).
    quiet: no progress bar. A few images at hand are encoded by `contray.load(run)(images)`.
    """
    from ..exchange.embedding import embed as run_embedding
    from ..training.progress import TrainingBar

    trained = encoder_of(named_one(run, checkpoint, uri, "embed by"), uri, code)
    with TrainingBar("embed", quiet, patience=5) as bar:
        return run_embedding(str(source), str(out), trained, show=bar.show, **options)
