"""Refuses a column name for a source that has no columns."""

from __future__ import annotations

from ..config.sections import DataConfig
from ..errors import ConfigError


def check_columns(config: DataConfig, what: str, labels: bool, images: bool = True) -> None:
    """Raises ConfigError where a column was named of what has none: whoever names it would take the numbers for that column's.

    images, labels: whether that goes for data.image_column, and for data.label_column besides its default and empty, which mean the only labels there are, and none.
    """
    default = DataConfig()
    if images and config.image_column != default.image_column:
        raise ConfigError(
            "data.image_column", f"got {config.image_column!r}, but {what} no columns; leave it at {default.image_column}"
        )
    if labels and config.label_column not in (default.label_column, ""):
        raise ConfigError(
            "data.label_column",
            f"got {config.label_column!r}, but {what} no columns; give {default.label_column} for their only labels, or '' for none",
        )
