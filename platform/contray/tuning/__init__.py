"""Search with Ray Tune: a whole sweep (launch), how (search), one trial (trial), what came of it (outcome, front, importance), in pictures (picture)."""

from .launch import sweep
from .outcome import SweepResult, Trial

__all__ = ["SweepResult", "Trial", "sweep"]
