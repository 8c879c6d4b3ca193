"""contray.curate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..exchange.curation import Curated


def curate(features: str | Path, out: str | Path = "curated.txt", *, quiet: bool = False, **options: Any) -> Curated:
    """A list of the images worth training on, by their features in a folder of `contray.embed`; `data.subset` takes it.

        contray.embed("photos/", "features", run=result)
        contray.curate("features", "photos.txt", keep=0.7)
        contray.train("moco", {"data.source": "photos/", "data.subset": "photos.txt"})

    options: those of contray.exchange.curation.curate (keep, epsilon, balance, clusters, levels, source, test_share, seed). quiet: no progress bar.
    """
    from ..exchange.curation import curate as run_curation
    from ..training.progress import TrainingBar

    with TrainingBar("curate", quiet, patience=5) as bar:
        return run_curation(str(features), str(out), show=bar.show, **options)
