"""Which of the embedded images test: shares and draws are of those that may train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...config.sections import DataConfig
from ...data.finding import find
from ...data.sources import open_source
from ...errors import UserError


def tested_among(keys: DataConfig, names: Sequence[str]) -> np.ndarray:
    """(N,) bool: which of these names are of test images of the source: its own, or the share of each class that training sets aside.

    Raises UserError where a name is of no image there.
    """
    source = open_source(keys)
    ids = find([source.train, *([] if source.test is None else [source.test])], names)
    if (ids < 0).any():
        name = names[int(np.flatnonzero(ids < 0)[0])]
        raise UserError(f"--data.source: {keys.source} has no image {name}; give the place that the features were made of")
    return ids >= len(source.train)
