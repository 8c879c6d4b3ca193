"""contray.embed"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config.registry import name_files
from ..errors import UserError
from .load import load

if TYPE_CHECKING:
    from ..exchange.embedding import Embedded


def embed(
    source: str, out: str, *, run: str = "", checkpoint: str = "", uri: str = "", code: str | Sequence[str] = (), **options: Any
) -> Embedded:
    """Features of all images of `source` as Parquet files in the folder `out`; `options` are those of contray.exchange.embedding.embed."""
    from ..exchange.embedding import embed as run_embedding
    from ..model.encoder import read_checkpoint

    if bool(run) == bool(checkpoint):
        raise UserError("name whose features: either --run RUN_ID or --checkpoint PATH")
    name_files(code)
    return run_embedding(source, out, load(run, uri=uri) if run else read_checkpoint(checkpoint), **options)
