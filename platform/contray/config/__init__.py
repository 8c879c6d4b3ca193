"""Settings: one frozen tree, its keys, and the registry in which a run's parts are found by name or path."""

from .keys import Key, declared_keys, dotted
from .tree import FREE, MEASURED, WRITTEN, RunConfig

__all__ = ["FREE", "MEASURED", "WRITTEN", "Key", "RunConfig", "declared_keys", "dotted"]
