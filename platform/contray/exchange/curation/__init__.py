"""Which of many images are worth training on, by their features: semantic deduplication, and as many from everywhere."""

from .curating import Curated, curate

__all__ = ["Curated", "curate"]
