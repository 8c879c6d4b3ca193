"""Evaluations: one file each, found by its name; `_base` says what is asked of one. What they share lies in `common` and `dense`."""

from ._base import Citation, Features, Measured, Subject, setting

__all__ = ["Citation", "Features", "Measured", "Subject", "setting"]
