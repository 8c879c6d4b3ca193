"""contray.tune"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..tuning import SweepResult


def tune(space: str, overrides: Mapping[str, Any] | None = None, **options: Any) -> SweepResult:
    """Search as `contray tune` does; `options` are those of contray.tuning.sweep."""
    from ..tuning import sweep

    return sweep(space, overrides or {}, **options)
