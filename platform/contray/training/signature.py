"""What a run computes, in one word: two runs of one signature come to the same numbers, whoever asked for them, where the hardware settled them alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from ..config import RunConfig
from ..config.registry import evaluation_code, method_code

TAG = "contray.signature"


def signature(config: RunConfig, fingerprint: Mapping[str, str]) -> str:
    """16 hex digits of the config without where and by whom it runs (scale, track), the code of the method and of one's own evaluations, contray's version,
    and the fingerprint of data, weights and code that the run is given, as the loop has it.

    The same before and after a run has measured and settled what was left open; a plan must have been made.
    """
    facts = [config.digest("scale", "track", chars=64), method_code(config.method.name), _version()]
    facts += [f"{name}={value}" for name, value in sorted({**fingerprint, **evaluation_code(config)}.items())]
    facts += ["on_nan=skip"] * (config.train.on_nan == "skip")  # what leaves steps out is no run that would have stopped there
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _version() -> str:
    try:
        return version("contray")
    except PackageNotFoundError:  # a job's nodes get the sources alone
        return ""
