"""contray.check"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..checking import Findings


def check(path: str | Path, *, preset: str = "") -> Findings:
    """Hold a method of your own against all that the platform asks of one: gradients and buffers on several workers, resume, chunks, labels.

        found = contray.check("my_method.py")
        assert found.ok, found

    path: your .py file, or the name of a built-in method. preset: whose sizes it is tried with; empty: digits. It prints what is wrong, and where.
    """
    from ..checking import check

    return check(path, preset=preset)
