"""Search domains in words."""

from __future__ import annotations

from typing import Any


def describe_domain(domain: Any) -> str:
    """A Tune domain in words."""
    if isinstance(domain, dict):
        return f"each of {', '.join(map(str, domain['grid_search']))}"
    if hasattr(domain, "categories"):
        return f"one of {', '.join(map(str, domain.categories))}"
    sampler = type(domain.get_sampler()).__name__.strip("_").lower()
    return f"{domain.lower:g} to {domain.upper:g}{' (log)' if 'log' in sampler else ''}"
