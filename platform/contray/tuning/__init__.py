"""Search with Ray Tune: a whole sweep (launch), how (search), one trial (trial), what came of it (outcome), its picture (picture)."""

from .launch import sweep
from .outcome import SweepResult, Trial

__all__ = ["SweepResult", "Trial", "sweep"]
