"""What the tests of the platform share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores import fresh


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URI of a fresh SQLite store."""
    return fresh(tmp_path)
