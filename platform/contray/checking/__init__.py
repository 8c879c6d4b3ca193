"""Whether a method of one's own keeps what the platform promises: the conformance suite, in small, in words."""

from .findings import Finding, Findings, Wrong
from .suite import check, check_all

__all__ = ["Finding", "Findings", "Wrong", "check", "check_all"]
