"""Runs that fit: the plan of preset `auto`, and the estimate that every run is held against before it takes anything."""

from .estimates import estimate, guard, refuse
from .plan import KEPT, Plan, adopted, keep, planned

__all__ = ["KEPT", "Plan", "adopted", "estimate", "guard", "keep", "planned", "refuse"]
