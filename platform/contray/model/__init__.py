"""The network that a config names: building and checking it, how its weights move, and encoders as they are kept."""

from .method import (
    DTYPES,
    HARDWARE,
    autocast,
    build,
    channels_last,
    check,
    device_of,
    normaliser,
    open_keys,
    settled,
    shape_key,
    sketch,
)

__all__ = [
    "DTYPES",
    "HARDWARE",
    "autocast",
    "build",
    "channels_last",
    "check",
    "device_of",
    "normaliser",
    "open_keys",
    "settled",
    "shape_key",
    "sketch",
]
