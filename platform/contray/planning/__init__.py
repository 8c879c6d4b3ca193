"""Runs that fit: the plan of preset `auto`, and the estimate that every run is held against before it takes anything."""

from .plan import Plan, planned

__all__ = ["Plan", "planned"]
