"""The command line: one file per command."""

from .main import leave, main, script

__all__ = ["leave", "main", "script"]
